//! Configurations from one format to another and back: nothing is lost, whatever they say.

mod generate;

use std::path::Path;

use equipoise_core::config::{
    Around, Config, Converted, Format, Ignored, Problem, Route, Service, convert, parse,
    parse_with, write,
};
use proptest::prelude::*;

/// So many in `soak`, fewer in the tests of every change.
fn cases() -> u32 {
    let soak = std::env::var_os("EQUIPOISE_SOAK").is_some_and(|value| value == "1");
    if soak { 10_000 } else { 150 }
}

const FORMATS: [(Format, &str); 3] =
    [(Format::Toml, "a.toml"), (Format::Json, "a.json"), (Format::Yaml, "a.yaml")];

fn read(name: &str, text: &str) -> Config {
    parse(name, text)
        .map_err(|problems| {
            let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
            panic!("{}\n{text}", told.join("\n"))
        })
        .unwrap_or_else(|never: ()| panic!("{never:?}"))
        .config
}

fn nothing(_: &Path) -> Result<String, String> {
    Err("there is none".to_owned())
}

fn converted(name: &str, text: &str, to: Format) -> String {
    let around = Around::files(&nothing);
    convert((name, text), to, &around, Ignored::LeftOut).unwrap().text
}

fn is_the_same_in_every_format(name: &str, text: &str) {
    let config = read(name, text);
    let same = |name: &str, text: &str| {
        let again = read(name, text);
        assert_eq!(again.services, config.services, "{text}");
        assert_eq!(again.settings, config.settings, "{text}");
    };
    match convert((name, text), Format::Edn, &Around::files(&nothing), Ignored::LeftOut) {
        Ok(edn) => {
            let again = read("a.edn", &edn.text);
            assert_eq!(again.services, apart(config.services.clone()), "{}", edn.text);
            assert_eq!(again.settings, config.settings, "{}", edn.text);
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            assert!(problems.iter().all(|problem| !problem.key.is_empty()), "{problems:?}\n{text}");
        }
    }
    for (format, other) in FORMATS {
        let text = converted(name, text, format);
        same(other, &text);
        assert_eq!(converted(other, &text, format), text, "it is not written alike again");
        for (third, name) in FORMATS {
            same(name, &converted(other, &text, third));
        }
        same(other, &write(&config, format).unwrap());
    }
}

/// In EDN, each name has a route of its own.
fn apart(mut services: Vec<Service>) -> Vec<Service> {
    for service in &mut services {
        let routes = std::mem::take(&mut service.name_routes).into_iter();
        let each = |route: Route| {
            let names = route.names.clone().into_iter();
            names.map(move |name| Route { names: vec![name], ..route.clone() })
        };
        service.name_routes = routes.flat_map(each).collect();
    }
    services
}

#[test]
fn name_has_a_route_of_its_own_in_edn_and_one_for_many_has_none() {
    let text = |first: &str, second: &str| {
        format!(
            "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], port = 80, protocol = 'both' }}\n\
             algorithm = 'random'\ntimeouts = {{ tcp-established = '5m', udp-two-way = '5m' }}\n\
             backends = [{{ address = '10.0.0.1:80', proxy-protocol = 'v2' }}]\n\
             [[service.name-route]]\nnames = [{first}]\nbackends = [{{ address = '10.0.0.2:80' }}]\n\
             [[service.name-route]]\n{second}\nbackends = [{{ address = '10.0.0.3:80', proxy-protocol = 'v2' }}]\n"
        )
    };
    let to_edn = |text: &str| {
        convert(("a.toml", text), Format::Edn, &Around::files(&nothing), Ignored::Refused)
    };
    let keys = |problems: Vec<Problem>| -> Vec<_> {
        problems.into_iter().map(|problem| (problem.key, problem.line)).collect()
    };
    let key = |key: &str, line| (format!("service[0].name-route{key}"), line);
    let good = text("'a.example.com', 'B.example.com'", "names = ['c']");
    let Converted { text: edn, notes } = to_edn(&good).unwrap();
    assert_eq!(keys(notes).last(), Some(&key("[0].names", 8)));
    let names: Vec<_> =
        read("a.edn", &edn).services.remove(0).name_routes.into_iter().map(|r| r.names).collect();
    assert_eq!(names, [["a.example.com"], ["b.example.com"], ["c"]]);
    is_the_same_in_every_format("a.toml", &good);
    let edn = read("a.edn", &edn);
    assert_eq!(
        write(&edn, Format::Edn).unwrap(),
        write(&read("a.toml", &good), Format::Edn).unwrap()
    );

    let told = |text: &str| keys(to_edn(text).unwrap_err());
    assert_eq!(
        told(&text("'a', '*.a', 'b_c'", "names = ['c', 'd']")),
        [key("[0].names[1]", 8), key("[0].names[2]", 8)]
    );
    assert_eq!(
        told(&text("'a', 'b'", "names = ['c', 'd']\nalgorithm = 'maglev'")),
        [key("[1].algorithm", 12)],
        "once, though it is of two"
    );
    let two = text("'a'", "names = ['c']").replace(
        "{ address = '10.0.0.3:80', proxy-protocol = 'v2' }",
        "{ address = '10.0.0.3:80', weight = 3 }, { address = '10.0.0.4:80' }",
    );
    assert_eq!(told(&two), [key("[1].backends", 12)]);
}

#[test]
fn edn_is_the_same_in_edn_again() {
    let text = include_str!("config/good/proxies.edn");
    let config = read("proxies.edn", text);
    let again = write(&config, Format::Edn).unwrap();
    let again = read("again.edn", &again);
    assert_eq!((&again.services, &again.settings), (&config.services, &config.settings));
}

#[test]
fn what_edn_cannot_say_is_told_by_its_key() {
    let told = |text: &str| {
        let around = Around::files(&nothing);
        let problems =
            convert(("a.toml", text), Format::Edn, &around, Ignored::Refused).unwrap_err();
        problems.into_iter().map(|problem| (problem.key, problem.line)).collect::<Vec<_>>()
    };
    let base = "settings = { events = false, max-flows = 7 }\n[[service]]\nname = 'web'\nlisten = { interfaces = ['eth0'], port = 80, protocol = 'both' }\n\
        backends = [{ address = '10.0.0.1:80' }]\ntimeouts = { tcp-established = '5m', udp-two-way = '5m' }\n";
    let key = |key: &str, line| (key.to_owned(), line);
    assert_eq!(told(base), [key("service[0].algorithm", 2)]);
    let base = format!("{base}algorithm = 'random'\n");
    assert!(
        convert(("a.toml", &base), Format::Edn, &Around::files(&nothing), Ignored::Refused).is_ok()
    );
    for (more, right) in [
        ("mode = 'dsr'", key("service[0].mode", 8)),
        ("on-empty = 'drop'", key("service[0].on-empty", 8)),
        ("limits.deny = ['10.0.0.0/8']", key("service[0].limits.deny", 8)),
        ("recovery.mode = 'none'", key("service[0].recovery.mode", 8)),
    ] {
        assert_eq!(
            told(&format!("{base}{more}\n").replace(
                "'10.0.0.1:80'",
                if more.contains("dsr") { "'10.0.0.1'" } else { "'10.0.0.1:80'" }
            ))
            .last(),
            Some(&right),
            "{more}"
        );
    }
    let two = base.replace(
        "{ address = '10.0.0.1:80' }",
        "{ address = '10.0.0.1:80', weight = 50 }, { address = '10.0.0.2:80', weight = 51 }",
    );
    assert_eq!(told(&two), [key("service[0].backends", 5)]);
    let variable = base.replace("'web'", "'${NAME:-web}'");
    assert_eq!(told(&variable), [key("service[0].name", 3)]);
}

#[test]
fn what_edn_cannot_say_of_names_checks_and_the_log_is_told_by_its_key() {
    let told = |backends: &str, more: &str| {
        let text = format!(
            "[settings]\nmax-flows = 7\n{more}\n[[service]]\nname = 'web'\nalgorithm = 'random'\n\
             listen = {{ interfaces = ['eth0'], port = 80, protocol = 'both' }}\n\
             timeouts = {{ tcp-established = '5m', udp-two-way = '5m' }}\nbackends = [{backends}]\n"
        );
        match convert(("a.toml", &text), Format::Edn, &Around::files(&nothing), Ignored::Refused) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.into_iter().map(|problem| problem.key).collect(),
        }
    };
    let backends = |backends: &str| told(backends, "");
    let key = |at: usize, key: &str| format!("service[0].backends[{at}].{key}");
    let whole = "host = 'a.internal', port = 80, refresh = '30s'";
    let one = |more: &str| format!("{{ {whole}{more} }}");
    assert_eq!(backends(&one("")), [""; 0]);
    let mixed = format!(
        "{}, {{ address = '10.0.0.1:80', weight = 60 }}, {{ host = 'b', port = 80, weight = 10, refresh = '1h' }}",
        one(", weight = 30")
    );
    assert_eq!(backends(&mixed), [""; 0]);
    assert_eq!(backends(&mixed.replace("60", "61")), ["service[0].backends"]);
    assert_eq!(backends(&one("").replace(", refresh = '30s'", "")), [key(0, "refresh")]);
    assert_eq!(backends(&one("").replace("30s", "1500ms")), [key(0, "refresh")]);
    assert_eq!(backends(&one("").replace("30s", "2h")), [key(0, "refresh")]);
    assert_eq!(backends(&one("").replace(", port = 80", "")), [key(0, "port")]);
    assert_eq!(backends(&one(", max-flows = 9")), [key(0, "max-flows")]);
    let records = "{ srv = '_a._tcp.internal', weight = 50, refresh = '30s' }, { srv = '_b._tcp.internal', weight = 50, refresh = '30s' }";
    assert_eq!(backends(records), [key(0, "srv"), key(1, "srv")]);

    let check = |redirects: bool| {
        one(&format!(", health-check = {{ type = 'http', follow-redirects = {redirects} }}"))
    };
    assert_eq!(backends(&check(true)), [""; 0]);
    assert_eq!(backends(&check(false)), [key(0, "health-check.follow-redirects")]);

    let log = |opened: bool| {
        format!("access-log = {{ path = '/var/log/a', stdout = true, opened = {opened} }}")
    };
    assert_eq!(told(&one(""), &log(true)), [""; 0]);
    assert_eq!(told(&one(""), &log(false)), ["settings.access-log.opened"]);

    let routes = |first: &str, second: &str| {
        let backends =
            "algorithm = 'random'\nbackends = [{ address = '10.0.0.2:80', weight = 100 }]";
        format!(
            "{}]\n[[service.source-route]]\nsource = {first}\n{backends}\n[[service.source-route]]\nsource = {second}\n{}",
            one(""),
            backends.trim_end_matches(']')
        )
    };
    let source = |at: usize, key: &str| format!("service[0].source-route[{at}].{key}");
    assert_eq!(backends(&routes("'office.example'", "'10.0.0.0/8'")), [""; 0]);
    assert_eq!(
        backends(&routes("'of_fice.example'", "['10.0.0.0/8', 'home.example']")),
        [source(0, "source[0]"), source(1, "source")]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 500,
        failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn configuration_is_the_same_in_every_format(file in generate::configuration()) {
        // JSON's own writer is not ours.
        let text = file.to_string().replace("${", "$${");
        is_the_same_in_every_format("f.json", &text);
    }
}

#[test]
fn every_example_and_good_file_is_the_same_in_every_format() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for directory in ["../../examples", "tests/config/good"] {
        for entry in std::fs::read_dir(here.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            is_the_same_in_every_format(name, &std::fs::read_to_string(&path).unwrap());
            count += 1;
        }
    }
    assert!(count >= 15);
}

/// Beside each example in TOML lies what it is in the other formats; EDN cannot say all of them.
#[test]
fn examples_are_there_in_every_format_that_can_say_them() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let paths = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let (mut of_toml, mut others): (Vec<_>, Vec<_>) =
        paths.partition(|path| path.extension().is_some_and(|ending| ending == "toml"));
    of_toml.sort();
    let mut in_edn = Vec::new();
    for path in &of_toml {
        let text = std::fs::read_to_string(path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        for (format, ending) in
            [(Format::Yaml, "yaml"), (Format::Json, "json"), (Format::Edn, "edn")]
        {
            let beside = path.with_extension(ending);
            others.retain(|other| *other != beside);
            match convert((name, &text), format, &Around::files(&nothing), Ignored::Refused) {
                Ok(converted) => {
                    expect_test::expect_file![&beside].assert_eq(&converted.text);
                    if format == Format::Edn {
                        in_edn.push(name.to_owned());
                    }
                }
                Err(problems) => {
                    assert_eq!(format, Format::Edn, "{name}: {problems:?}");
                    assert!(!beside.exists(), "{} says what EDN cannot", beside.display());
                }
            }
        }
    }
    assert_eq!(others, [directory; 0], "of no example in TOML");
    assert!(of_toml.len() >= 5 && !in_edn.is_empty(), "{in_edn:?}");
}

#[test]
fn texts_of_any_signs_are_the_same_in_every_format() {
    let all: String = ('\u{0}'..='\u{2ff}')
        .chain("\u{85}\u{2028}\u{2029}\u{feff}\u{fffe}\u{ffff}\u{1f600}\u{10ffff}".chars())
        .collect();
    for text in [
        all.as_str(),
        "true",
        "null",
        "~",
        "1",
        "- a",
        "a: b",
        "# x",
        " a ",
        "",
        "0x1f",
        "'",
        "\"",
        "\\",
        "${A}",
        "$${A}",
        "$",
    ] {
        let file = serde_json::json!({ "service": [{
            "name": "web",
            "listen": { "interfaces": ["eth0"], "address": "203.0.113.1", "port": 80 },
            "backends": [{ "address": "10.0.0.1:80", "health-check": { "type": "udp", "send": text.replace("${", "$${"), "expect": "é" } }],
        }] });
        is_the_same_in_every_format("f.json", &file.to_string());
    }
}

#[test]
fn variables_stay_and_what_is_included_becomes_a_part() {
    let main = "include = 'more.yaml'\n[settings]\nmax-flows = '${FLOWS:-7}'\n";
    let more = "service:\n  - name: $${x} ${NAME}\n    listen: {interfaces: [eth0], port: '${PORT}'}\n    backends: [{address: '10.0.0.1'}]\n";
    let files = |path: &Path| match path.to_str() {
        Some("/etc/more.yaml") => Ok(more.to_owned()),
        _ => Err("there is no such file".to_owned()),
    };
    let variables = |name: &str| match name {
        "NAME" => Some("web".to_owned()),
        "PORT" => Some("80".to_owned()),
        _ => None,
    };
    let around = Around { variables: &variables, ..Around::files(&files) };
    let given = ("/etc/main.toml", main);
    let whole = parse_with(given.0, given.1, &around).unwrap().config;
    let yaml = convert(given, Format::Yaml, &around, Ignored::Refused).unwrap().text;
    expect_test::expect![[r#"
        service:
          - name: "$${x} ${NAME}"
            listen:
              interfaces: [eth0]
              port: "${PORT}"
            backends:
              - address: "10.0.0.1"
        settings:
          max-flows: "${FLOWS:-7}"
    "#]]
    .assert_eq(&yaml);
    let again = parse_with("/srv/other.yaml", &yaml, &around).unwrap().config;
    assert_eq!((&again.services, &again.settings), (&whole.services, &whole.settings));
    assert_eq!(whole.services[0].name, "${x} web");
}

#[test]
fn what_is_wrong_is_not_converted() {
    let problems = convert(
        ("a.toml", "[[service]]\nname = 5\n"),
        Format::Json,
        &Around::files(&nothing),
        Ignored::LeftOut,
    )
    .unwrap_err();
    assert_eq!(problems.len(), 3, "{problems:?}");
}

#[test]
fn what_is_written_is_for_people() {
    let toml = include_str!("config/good/health.toml");
    let text = converted("a.toml", toml, Format::Toml);
    expect_test::expect_file!["config/written/health.toml"].assert_eq(&text);
    expect_test::expect_file!["config/written/health.yaml"].assert_eq(&converted(
        "a.toml",
        toml,
        Format::Yaml,
    ));
    expect_test::expect_file!["config/written/health.json"].assert_eq(&converted(
        "a.toml",
        toml,
        Format::Json,
    ));
}

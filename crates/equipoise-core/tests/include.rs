//! Configurations of several files, and with variables, on a file system of texts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use equipoise_core::config::{Around, Checked, Problem, parse_with};

/// Files by their paths.
type Files = [(&'static str, &'static str)];

fn read(files: &Files, variables: &[(&str, &str)]) -> Result<Checked, String> {
    let files: BTreeMap<&Path, &str> =
        files.iter().map(|(path, text)| (Path::new(*path), *text)).collect();
    let file = |path: &Path| {
        files.get(path).map(|text| (*text).to_owned()).ok_or("there is no such file".to_owned())
    };
    let names = |directory: &Path| {
        let inside = files.keys().filter(|path| path.parent() == Some(directory));
        let names: Vec<_> =
            inside.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        if names.is_empty() { Err("there is no such file".to_owned()) } else { Ok(names) }
    };
    let variable = |name: &str| {
        let found = variables.iter().find(|(other, _)| *other == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let around = Around { files: &file, names: &names, variables: &variable, tells_files: true };
    let main = "/etc/main.toml";
    let text = files[Path::new(main)];
    parse_with(main, text, &around).map_err(|problems| report(main, &problems))
}

fn report(main: &str, problems: &[Problem]) -> String {
    problems.iter().fold(String::new(), |mut all, problem| {
        let file = problem.file_or(main);
        if let (Some(span), Some(file)) = (&problem.span, &problem.file) {
            assert!(file.text.get(span.clone()).is_some(), "{problem:?}");
        }
        writeln!(all, "{file}:{problem}").unwrap();
        all
    })
}

const ONE: &str = "[[service]]\nname = 'one'\nlisten = { interfaces = ['eth0'], port = 1 }\nbackends = [{ address = '10.0.0.1:1' }]\n";
const TWO: &str = r#"{ "service": [{ "name": "two", "listen": { "interfaces": ["eth0"], "port": 2 },
 "backends": [{ "address": "10.0.0.1:1" }] }] }"#;

fn names(checked: &Checked) -> Vec<&str> {
    checked.config.services.iter().map(|service| service.name.as_str()).collect()
}

#[test]
fn parts_of_several_files_are_one_configuration() {
    let checked = read(
        &[
            (
                "/etc/main.toml",
                "include = ['conf.d/*.*', '/srv/last.toml']\n[settings]\nmax-flows = 5\nlimits.deny = ['10.0.0.0/8']\n\
                 [[service]]\nname = 'main'\nlisten = { interfaces = ['eth0'], port = 9 }\nbackends = [{ address = '10.0.0.1:1' }]",
            ),
            ("/etc/conf.d/20-one.toml", ONE),
            ("/etc/conf.d/10-two.json", TWO),
            ("/etc/conf.d/.hidden.toml", "nothing = "),
            (
                "/srv/last.toml",
                "[settings]\nevents = false\nlimits = { deny = ['11.0.0.0/8'], per-source = { rate = 3 } }",
            ),
        ],
        &[],
    )
    .unwrap();
    assert_eq!(names(&checked), ["main", "two", "one"]);
    let settings = &checked.config.settings;
    assert_eq!((settings.max_flows, settings.events), (5, false));
    assert_eq!(settings.limits.deny.written, ["10.0.0.0/8", "11.0.0.0/8"]);
    assert_eq!(settings.limits.per_source.limit.rate, Some(3));
    let included: Vec<_> = checked.config.places.included().collect();
    assert_eq!(included, ["/etc/conf.d/10-two.json", "/etc/conf.d/20-one.toml", "/srv/last.toml"]);
}

#[test]
fn parts_may_have_parts_relative_to_themselves() {
    let checked = read(
        &[
            ("/etc/main.toml", "include = 'a/one.toml'"),
            ("/etc/a/one.toml", "include = ['../b/two.json']\nsettings.events = false"),
            ("/etc/a/../b/two.json", TWO),
        ],
        &[],
    );
    assert_eq!(names(&checked.unwrap()), ["two"]);
}

#[test]
fn problem_of_a_part_names_its_file_and_its_line_there() {
    let told = read(
        &[
            ("/etc/main.toml", "include = ['*.part.toml']\n\n[settings]\nmax-flows = 0\n"),
            (
                "/etc/1.part.toml",
                "[[service]]\nname = 'é'\nlisten = { interfaces = ['eth0'], port = 80 }\nbackends = [{ address = 'x' }]\n",
            ),
            ("/etc/2.part.toml", ONE),
            ("/etc/3.part.toml", "\n[[service]]\nname = 'é'\nlisten = { interfaces = ['eth0'], port = 80 }\nbackends = [{ address = '10.0.0.1', wieght = 1 }]\n"),
        ],
        &[],
    )
    .unwrap_err();
    let rest: Vec<_> = told.lines().collect();
    assert_eq!(rest.len(), 5, "{told}");
    assert!(
        rest[0].starts_with("/etc/main.toml:4:13: settings.max-flows: `0` is out of range"),
        "{told}"
    );
    assert!(
        rest[1].starts_with(
            "/etc/1.part.toml:4:25: service[0].backends[0].address: `x` is not an address"
        ),
        "{told}"
    );
    assert!(rest[2].starts_with("/etc/3.part.toml:3:8: service[2].name: the service of line 2 of /etc/1.part.toml is named `é`"), "{told}");
    assert!(rest[3].starts_with("/etc/3.part.toml:4:1: service[2].listen: service `é` (line 1 of /etc/1.part.toml) listens"), "{told}");
    assert!(
        rest[4].starts_with("/etc/3.part.toml:5:37: service[2].backends[0].wieght: unknown key"),
        "{told}"
    );
}

#[test]
fn key_that_two_files_give_is_told_with_both_places() {
    let told = read(
        &[
            ("/etc/main.toml", "include = ['a.toml', 'b.toml']\nsettings.attach = 'tc'\n"),
            ("/etc/a.toml", "[settings]\nevents = true\nattach = { eth0 = 'xdp' }\n"),
            ("/etc/b.toml", "[settings]\nevents = true\nservice = 5"),
        ],
        &[],
    )
    .unwrap_err();
    let told: Vec<_> = told.lines().filter(|line| line.contains("already")).collect();
    assert_eq!(
        told,
        [
            "/etc/a.toml:3:1: settings.attach: `attach` is given on line 2 already (allowed: each key in one file)",
            "/etc/b.toml:2:1: settings.events: `events` is given on line 2 of /etc/a.toml already (allowed: each key in one file)",
        ]
    );
}

#[test]
fn circles_depth_and_what_is_not_there_are_told_where_they_are_asked_for() {
    let told = |files: &Files| read(files, &[]).unwrap_err();
    let circle = told(&[
        ("/etc/main.toml", "include = 'a.toml'"),
        ("/etc/a.toml", "include = ['./x/../main.toml', 'a.toml', 'one.toml', 'one.toml']"),
        ("/etc/one.toml", ONE),
    ]);
    let expected = [
        "/etc/a.toml:1:12: include[0]: /etc/./x/../main.toml is a part",
        "/etc/a.toml:1:32: include[1]: /etc/a.toml is a part",
        "/etc/a.toml:1:54: include[3]: /etc/one.toml is a part",
    ];
    assert_eq!(circle.lines().count(), expected.len(), "{circle}");
    for (line, right) in circle.lines().zip(expected) {
        assert!(line.starts_with(right), "{line}");
    }
    let missing = told(&[("/etc/main.toml", "include = ['none.toml', 'none.d/*.toml', '', 5]")]);
    let expected = [
        "1:12: include[0]: file /etc/none.toml cannot be read: there is no such file",
        "1:25: include[1]: directory /etc/none.d cannot be read: there is no such file",
        "1:42: include[2]: `` names no file",
        "1:46: include[3]: a whole number where text belongs",
    ];
    for right in expected {
        assert!(missing.contains(right), "{right}: {missing}");
    }
    let deep = told(&[
        ("/etc/main.toml", "include = '1.toml'"),
        ("/etc/1.toml", "include = '2.toml'"),
        ("/etc/2.toml", "include = '3.toml'"),
        ("/etc/3.toml", "include = '4.toml'"),
        ("/etc/4.toml", "include = '5.toml'"),
        ("/etc/5.toml", "include = '6.toml'"),
        ("/etc/6.toml", "include = '7.toml'"),
        ("/etc/7.toml", "include = '8.toml'"),
        ("/etc/8.toml", "include = '9.toml'"),
        ("/etc/9.toml", ONE),
    ]);
    assert!(
        deep.starts_with("/etc/8.toml:1:11: include: /etc/9.toml is one file too many"),
        "{deep}"
    );
}

#[test]
fn fault_in_a_part_is_all_that_is_told_where_its_shape_is_in_doubt() {
    let told =
        read(&[("/etc/main.toml", "include = 'a.toml'"), ("/etc/a.toml", "\n[[service]\n")], &[])
            .unwrap_err();
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.starts_with("/etc/a.toml:2:"), "{told}");
}

#[test]
fn variables_stand_for_texts_numbers_and_booleans() {
    let main = "include = '${PARTS}/one.toml'\n\
        [[service]]\nname = 'a $${B} ${NAME}'\nmanage-address = '${MANAGE}'\n\
        listen = { interfaces = ['${IFACE:-eth7}'], address = '${VIP}', port = '${PORT}' }\n\
        backends = [{ address = '10.0.0.${LAST}:${PORT}', weight = '${WEIGHT:-7}' }]\n";
    let files = [("/etc/main.toml", main), ("/etc/conf.d/one.toml", ONE)];
    let set = [
        ("PARTS", "conf.d"),
        ("NAME", "5"),
        ("MANAGE", "true"),
        ("VIP", "203.0.113.9"),
        ("PORT", "80"),
        ("LAST", "8"),
    ];
    let config = read(&files, &set).unwrap().config;
    let service = &config.services[0];
    assert_eq!(service.name, "a ${B} 5");
    assert!(service.manage_address);
    assert_eq!(service.listen.interfaces, ["eth7"]);
    assert_eq!(service.listen.port.only(), Some(80));
    assert_eq!(service.backends[0].address, "10.0.0.8:80".parse().unwrap());
    assert_eq!(service.backends[0].weight, 7);

    let told =
        read(&files, &[("PARTS", "conf.d"), ("PORT", "eighty"), ("MANAGE", "yes"), ("LAST", "8")]);
    let told = told.unwrap_err();
    for right in [
        "/etc/main.toml:3:8: service[0].name: the environment variable `NAME` is not set (allowed: a value for it, or `${NAME:-text}`)",
        "/etc/main.toml:4:18: service[0].manage-address: `yes` is text where a boolean belongs",
        "/etc/main.toml:5:55: service[0].listen.address: the environment variable `VIP` is not set",
        "/etc/main.toml:5:72: service[0].listen.port: `eighty` is no range of ports",
        "/etc/main.toml:6:25: service[0].backends[0].address: `10.0.0.8:eighty` is not an address and a port",
    ] {
        assert!(told.contains(right), "{right}:\n{told}");
    }
    assert_eq!(told.lines().count(), 5, "{told}");
}

//! EDN of another system: its files load unchanged, each key does what it says, and what nobody listens to is told.
//!
//! `UPDATE_EXPECT=1 cargo test -p equipoise-core --test edn` writes `docs/edn.md` anew.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use equipoise_core::config::admin::{AdminKey, KeySource, Scope};
use equipoise_core::config::breaker::Thresholds;
use equipoise_core::config::edn_keys::{FILE, Key, Kind, Table};
use equipoise_core::config::health::Question;
use equipoise_core::config::log::{AccessLog, LineFormat};
use equipoise_core::config::{
    Affinity, Algorithm, Around, Checked, Config, Format, Ignored, Problem, Protocol,
    ProxyProtocol, RateLimit, Route, convert, parse, write,
};
use expect_test::{expect, expect_file};
use proptest::prelude::*;
use proptest::strategy::Union;

fn report(problems: &[Problem]) -> String {
    problems.iter().fold(String::new(), |mut all, problem| {
        writeln!(all, "{problem}").unwrap();
        all
    })
}

fn load(text: &str) -> Checked {
    parse("f.edn", text).unwrap_or_else(|problems| panic!("{}\n{text}", report(&problems)))
}

fn told(text: &str) -> String {
    report(&parse("f.edn", text).unwrap_err())
}

/// One proxy, with these settings.
fn with(settings: &str) -> String {
    format!(
        "{{:proxies [{{:name \"web\" :listen {{:interfaces [\"eth0\"] :port 80}}\n\
           :default-target {{:ip \"10.0.0.1\" :port 8080}}}}]\n:settings {{{settings}}}}}"
    )
}

#[test]
fn proxy_is_a_service_with_the_defaults_of_its_system() {
    let Checked { config, ignored, .. } = load(&with(""));
    assert_eq!(ignored, []);
    let [service] = config.services.as_slice() else { panic!("one service") };
    assert_eq!(service.name, "web");
    assert_eq!(service.listen.protocol, Protocol::Both);
    assert_eq!(service.listen.address, None);
    assert_eq!(service.listen.port.only(), Some(80));
    assert_eq!((service.algorithm, service.affinity), (Algorithm::Random, Affinity::None));
    assert_eq!(service.backends[0].address, "10.0.0.1:8080".parse().unwrap());
    assert_eq!(service.backends[0].weight, 100);
    assert_eq!(service.backends[0].health_check, None);
    let timeouts = service.policy.timeouts;
    let five_minutes = Duration::from_secs(300);
    assert_eq!((timeouts.tcp_established, timeouts.udp_two_way), (five_minutes, five_minutes));
    let settings = &config.settings;
    assert_eq!((settings.max_flows, settings.events), (100_000, false));
    assert_eq!((settings.drain.timeout, settings.breaker), (Duration::from_secs(30), None));
    let without = with("").replace(":settings {}", "");
    assert_eq!(load(&without).config.settings, *settings);
}

/// A setting, as it is written, and whether a configuration shows what it does.
type Observed = (&'static str, fn(&Config) -> bool);

#[test]
fn each_setting_that_is_set_is_observed() {
    const SETTINGS: &[Observed] = &[
        (":stats-enabled true", |c| c.settings.events),
        (":metrics {:enabled true :port 9999 :path \"/m\"}", |c| {
            let listen = "0.0.0.0:9999".parse().unwrap();
            let metrics = c.settings.metrics.as_ref();
            metrics.is_some_and(|metrics| (metrics.listen, metrics.path.as_str()) == (listen, "/m"))
        }),
        (
            ":access-log {:enabled true :format :json :access-log-format :clf :path \"a.log\" :max-file-size-mb 5 :max-files 3}",
            |c| {
                let log = AccessLog {
                    format: LineFormat::Clf,
                    path: Some("/var/log/equipoise/a.log".into()),
                    stdout: true,
                    max_size_mb: 5,
                    max_files: 3,
                    opened: true,
                    ..AccessLog::default()
                };
                c.settings.access_log == Some(log) && c.settings.events
            },
        ),
        (":connection-timeout-sec 7", |c| {
            let timeouts = c.services[0].policy.timeouts;
            let seven = Duration::from_secs(7);
            [
                timeouts.tcp_opening,
                timeouts.tcp_established,
                timeouts.tcp_closing,
                timeouts.udp_one_way,
                timeouts.udp_two_way,
            ] == [seven; 5]
        }),
        (":max-connections 77", |c| c.settings.max_flows == 77),
        (":health-check-enabled true", |c| {
            let check = c.services[0].backends[0].health_check.as_deref().unwrap();
            check.question == Question::Tcp
                && check.interval == Duration::from_secs(10)
                && check.timeout == Duration::from_secs(3)
                && (check.healthy_threshold, check.unhealthy_threshold) == (2, 3)
        }),
        (
            ":health-check-enabled true :health-check-defaults {:type :https :path \"/x\" :interval-ms 1000 :timeout-ms 100 \
             :healthy-threshold 9 :unhealthy-threshold 10 :expected-codes [204 404]}",
            |c| {
                let check = c.services[0].backends[0].health_check.as_deref().unwrap();
                let Question::Https(https) = &check.question else { return false };
                https.http.path == "/x"
                    && https.http.follow_redirects
                    && https.http.expected_codes.0 == [(204, 204), (404, 404)]
                    && check.interval == Duration::from_secs(1)
                    && check.timeout == Duration::from_millis(100)
                    && (check.healthy_threshold, check.unhealthy_threshold) == (9, 10)
            },
        ),
        (":default-drain-timeout-ms 1500", |c| {
            c.settings.drain.timeout == Duration::from_millis(1_500)
        }),
        (":rate-limits {:per-source {:requests-per-sec 9 :burst 10}}", |c| {
            c.settings.limits.per_source.limit == RateLimit { rate: Some(9), burst: Some(10) }
        }),
        (":rate-limits {:per-backend {:requests-per-sec 9}}", |c| {
            c.settings.limits.per_backend == RateLimit { rate: Some(9), burst: None }
        }),
        (
            ":circuit-breaker {:enabled true :error-threshold-pct 1 :min-requests 2 :open-duration-ms 3000 :half-open-requests 4 \
             :window-size-ms 5000}",
            |c| {
                c.services[0].breaker
                    == Some(Thresholds {
                        error_threshold: 1,
                        min_requests: 2,
                        open_for: Duration::from_secs(3),
                        half_open_successes: 4,
                        window: Duration::from_secs(5),
                        max_ejected: 100,
                    })
            },
        ),
        (":circuit-breaker {:enabled false :error-threshold-pct 1}", |c| {
            c.settings.breaker.is_none()
        }),
        (
            ":load-balancing {:algorithm :least-connections :weighted false :update-interval-ms 250}",
            |c| {
                c.services[0].algorithm == Algorithm::LeastConnectionsWeights
                    && !c.settings.least_connections.weighted
                    && c.settings.least_connections.update_interval == Duration::from_millis(250)
            },
        ),
        (
            ":load-balancing {:algorithm :weighted-random :lb-algorithm :least-connections :weighted true :lb-weighted false \
             :update-interval-ms 250 :lb-update-interval-ms 350}",
            |c| {
                c.services[0].algorithm == Algorithm::LeastConnectionsWeights
                    && !c.settings.least_connections.weighted
                    && c.settings.least_connections.update_interval == Duration::from_millis(350)
            },
        ),
    ];
    let defaults = load(&with("")).config;
    for (setting, is_observed) in SETTINGS {
        let Checked { config, ignored, .. } = load(&with(setting));
        assert_eq!(ignored, [], "{setting}");
        assert!(is_observed(&config), "{setting}");
        if !setting.contains("enabled false") {
            assert!(!is_observed(&with_check(&defaults)), "{setting} changes nothing");
        }
    }
}

/// With a check, so that asking for one does not panic.
fn with_check(config: &Config) -> Config {
    let mut config = config.clone();
    let checked =
        load(&with(":health-check-enabled true :health-check-defaults {:healthy-threshold 5}"));
    config.services[0].backends[0].health_check =
        checked.config.services[0].backends[0].health_check.clone();
    config
}

#[test]
fn the_api_is_had_by_this_host_alone_and_never_by_a_key_that_is_soon_guessed() {
    let admin = |keys: &str| {
        let Checked { config, ignored, .. } = load(&with(&format!(":admin-api {{{keys}}}")));
        let ignored = ignored.into_iter().map(|problem| (problem.key, problem.column)).collect();
        let admin = config.settings.admin.map(|admin| {
            let key = |key: &AdminKey| {
                let KeySource::Key(secret) = &key.secret else { panic!("{key:?}") };
                let text = String::from_utf8(secret.bytes().to_vec()).unwrap();
                (key.name.clone(), text, key.scope)
            };
            (
                admin.listen.to_string(),
                admin.keys.iter().map(key).collect::<Vec<_>>(),
                admin.allowed_origins,
            )
        });
        (admin, ignored)
    };
    let key = |name: &str| format!("settings.admin-api{name}");
    let listen = |port: &str| format!("127.0.0.1:{port}");
    let at = |name: &str, column: usize| -> Vec<(String, usize)> { vec![(key(name), column)] };
    assert_eq!(admin(":enabled false :port 9999"), (None, vec![]));
    let nothing = (listen("8081"), vec![], vec![]);
    assert_eq!(admin(":enabled true :api-key nil"), (Some(nothing), at("", 12)));
    let text = "0123456789abcdef";
    let whole = format!(
        ":enabled true :port 9999 :api-key \"{text}\" :allowed-origins [\"https://ops.example.com\" \"*\"]"
    );
    let keys = vec![("api-key".to_owned(), text.to_owned(), Scope::Write)];
    let told = vec![(key(".port"), 44), (key(".allowed-origins[1]"), 121)];
    let expected = (listen("9999"), keys, vec!["https://ops.example.com".to_owned()]);
    assert_eq!(admin(&whole), (Some(expected), told));
    assert_eq!(admin(":enabled true :api-key \"12345678\""), (None, at(".api-key", 38)));

    // And it is written as it has been read.
    let nothing = |_: &Path| Err(String::new());
    let text = with(&format!(":admin-api {{{whole}}}"));
    let config = load(&text).config;
    for (format, name) in
        [(Format::Edn, "a.edn"), (Format::Toml, "a.toml"), (Format::Yaml, "a.yaml")]
    {
        let around = Around::files(&nothing);
        let written = convert(("f.edn", &text), format, &around, Ignored::LeftOut).unwrap().text;
        assert_eq!(parse(name, &written).unwrap().config.settings, config.settings, "{written}");
    }
}

#[test]
fn what_is_not_served_is_told_with_its_place_and_changes_nothing() {
    let whole = include_str!("config/edn/not-served.edn");
    let Checked { config, ignored, .. } = load(whole);
    expect_file!["config/edn/not-served.edn.report"].assert_eq(&report(&ignored));
    assert_eq!(config.services.len(), 2);
    // What is turned off is not missed.
    let off = ":metrics {:enabled false :port 9999} :access-log {:format :clf} :admin-api {:port 9999} :cluster {:enabled false}";
    assert_eq!(load(&with(off)).ignored, []);
}

#[test]
fn all_that_is_wrong_is_told_at_once_in_the_words_of_the_file() {
    expect_file!["config/edn/bad.edn.report"].assert_eq(&told(include_str!("config/edn/bad.edn")));
}

#[test]
fn weights_of_several_targets_sum_to_a_hundred() {
    let targets =
        |targets: &str| with("").replace("{:ip \"10.0.0.1\" :port 8080}", &format!("[{targets}]"));
    let one = "{:ip \"10.0.0.1\" :port 1 :weight 7}";
    assert_eq!(load(&targets(one)).config.services[0].backends[0].weight, 7);
    let fits = "{:ip \"10.0.0.1\" :port 1 :weight 99} {:ip \"10.0.0.2\" :port 1 :weight 1}";
    assert_eq!(load(&targets(fits)).config.services[0].backends[1].weight, 1);
    expect![[r#"
        2:17: proxies[0].default-target: weights must sum to 100, got 101 (allowed: weights that sum to 100)
    "#]]
    .assert_eq(&told(&targets(&fits.replace("weight 1}", "weight 2}"))));
    expect![[r#"
        2:17: proxies[0].default-target: all targets must have explicit weights when there are several (allowed: weights that sum to 100)
    "#]]
    .assert_eq(&told(&targets(&fits.replace(":weight 1}", "}"))));
    let nine =
        (1..=9).map(|n| format!("{{:ip \"10.0.0.{n}\" :port 1 :weight 11}}")).collect::<String>();
    assert!(told(&targets(&nine)).contains("9 targets are not so many (allowed: 1 to 8)"));
}

#[test]
fn backends_by_name_and_their_header_are_taken() {
    let text = with("").replace(
        "{:ip \"10.0.0.1\" :port 8080}",
        "[{:ip \"10.0.0.1\" :port 8080 :weight 50 :proxy-protocol :v2}\n{:host \"api.internal\" :port 8080 :weight 50 :dns-refresh-seconds 9}]",
    );
    let Checked { config, ignored, .. } = load(&text);
    assert_eq!(ignored, []);
    assert_eq!(config.services[0].backends[0].proxy_protocol, Some(ProxyProtocol::V2));
    let [named] = &config.services[0].named[..] else { panic!("{config:?}") };
    assert_eq!((named.text().as_str(), named.weight), ("api.internal:8080", 50));
    assert_eq!(named.refresh, Some(Duration::from_secs(9)));
    let config = load(&text.replace(":dns-refresh-seconds 9", "")).config;
    assert_eq!(config.services[0].named[0].refresh, Some(Duration::from_secs(30)));
}

#[test]
fn routes_by_server_name_are_of_one_name_each_by_the_rules_of_that_system() {
    let routes = |routes: &str| {
        with("").replace(":default-target", &format!(":sni-routes [{routes}] :default-target"))
    };
    let one =
        |name: &str| format!("{{:sni-hostname \"{name}\" :target {{:ip \"10.0.0.2\" :port 1}}}}");
    let long = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
    let Checked { config, ignored, .. } =
        load(&routes(&["API.example.com", "a", "1-2.x", &long].map(one).concat()));
    assert_eq!(ignored, []);
    let names: Vec<_> = config.services[0].name_routes.iter().map(Route::name).collect();
    assert_eq!(names, ["api.example.com", "a", "1-2.x", &long]);
    for bad in ["*.example.com", "a.", ".a", "-a", "a-", "a_b.c", "a b", "é", &format!("{long}c")]
    {
        let told = told(&routes(&one(bad)));
        assert!(
            told.contains(&format!(
                "sni-routes[0].sni-hostname: `{bad}` is not the name of a server"
            )),
            "{told}"
        );
    }
    expect![[r#"
        2:75: proxies[0].sni-routes[0].targets: there are both `:target` and `:targets` (allowed: one of them)
        2:103: proxies[0].sni-routes[1]: there is neither `:target` nor `:targets` (allowed: one of them)
    "#]]
    .assert_eq(&told(&routes(
        "{:sni-hostname \"a\" :target {:ip \"10.0.0.2\" :port 1} :targets [{:ip \"10.0.0.2\" :port 1}]} {:sni-hostname \"b\"}",
    )));
    expect![[r#"
        2:81: service[0].name-route[1].names[0]: `a` has a route already, on line 2 (allowed: each name once in a service)
    "#]].assert_eq(&told(&routes(&["a", "A"].map(one).concat())));
}

#[test]
fn texts_of_edn_have_no_variables() {
    let name =
        load(&with("").replace("\"web\"", "\"${HOME} $${x}\"")).config.services[0].name.clone();
    assert_eq!(name, "${HOME} $${x}");
}

/// Every key of a table, by the way to it, in a map that is otherwise right.
fn tried(table: &'static Table, around: &str, found: &mut Vec<(String, &'static Key)>) {
    for key in table.keys {
        let is_needed = |other: &&Key| other.default == "required" && other.name != key.name;
        let rest: String = table
            .keys
            .iter()
            .filter(is_needed)
            .map(|other| format!(":{} {} ", other.name, sample(&other.kind)))
            .collect();
        let here = around.replace("@", &format!("{{{rest}:{} @}}", key.name));
        match &key.kind {
            Kind::Map(inner) => tried(inner, &here, found),
            Kind::Number(..) | Kind::Word(_) | Kind::Boolean | Kind::Path | Kind::Secret(_) => {
                found.push((here, key));
            }
            _ => {}
        }
    }
}

fn sample(kind: &Kind) -> String {
    match kind {
        Kind::Number(least, _) => least.to_string(),
        _ => "\"x\"".to_owned(),
    }
}

#[test]
fn every_range_of_the_settings_holds() {
    let settings = FILE.inner().find(|table| table.home == "`settings`").unwrap();
    let mut found = Vec::new();
    tried(settings, &with("").replace("{}", "@"), &mut found);
    assert!(found.len() > 50, "{}", found.len());
    for (text, key) in found {
        let fails = |value: &str| {
            let problems = parse("f.edn", &text.replace('@', value)).err().unwrap_or_default();
            problems.iter().any(|problem| problem.key.ends_with(key.name))
        };
        match key.kind {
            Kind::Number(least, most) => {
                for (value, right) in
                    [(least, false), (most, false), (least - 1, true), (most + 1, true)]
                {
                    assert_eq!(fails(&value.to_string()), right, "{} {value}", key.name);
                }
                assert!(fails("\"1\"") && fails("1.5"), "{}", key.name);
            }
            Kind::Word(words) => {
                assert!(words.iter().all(|word| !fails(&format!(":{word}"))), "{}", key.name);
                assert!(fails(":other") && fails("1"), "{}", key.name);
            }
            Kind::Boolean => {
                assert!(!fails("true") && !fails("false"), "{}", key.name);
                assert!(fails("1") && fails(":true"), "{}", key.name);
            }
            Kind::Path => assert!(!fails("\"/x\"") && fails("\"x\"") && fails("1"), "{}", key.name),
            Kind::Secret(_) => {
                assert!(!fails("nil") && !fails("\"12345678\""), "{}", key.name);
                let told = parse("f.edn", &text.replace('@', "\"1234567\"")).unwrap_err();
                assert!(!report(&told).contains("1234567"), "{}", report(&told));
            }
            _ => {}
        }
    }
}

/// Any map of a table.
fn map(table: &'static Table) -> BoxedStrategy<String> {
    let fields: Vec<_> = table
        .keys
        .iter()
        .map(|key| {
            let value = value(key.name, &key.kind);
            let value = match (key.name, key.default) {
                // One of the two has to be there, and not both.
                ("target", _) => Just(None).boxed(),
                ("targets", _) | (_, "required") => value.prop_map(Some).boxed(),
                _ => prop::option::weighted(0.3, value).boxed(),
            };
            value.prop_map(move |value| Some(format!(":{} {}", key.name, value?)))
        })
        .collect();
    let joined =
        |fields: Vec<Option<String>>| fields.into_iter().flatten().collect::<Vec<_>>().join(" ");
    fields.prop_map(move |fields| format!("{{{}}}", joined(fields))).boxed()
}

fn value(name: &str, kind: &'static Kind) -> BoxedStrategy<String> {
    match kind {
        Kind::Boolean => any::<bool>().prop_map(|value| value.to_string()).boxed(),
        &Kind::Number(least, most) => {
            prop_oneof![Just(least), Just(most), least..=most].prop_map(|n| n.to_string()).boxed()
        }
        Kind::Word(words) => {
            prop::sample::select(*words).prop_map(|word| format!(":{word}")).boxed()
        }
        Kind::Path => "/[a-z?=/]{0,9}".prop_map(|text| format!("{text:?}")).boxed(),
        Kind::Text if name == "source" => prop::sample::select(vec![
            "\"10.9.0.0/16\"",
            "\"192.0.2.77/24\"",
            "\"2001:db8:9::1\"",
            "\"office.example\"",
        ])
        .prop_map(str::to_owned)
        .boxed(),
        Kind::Text if name == "name" => {
            "[a-z $\"{}é.-]{1,9}x".prop_map(|text| format!("{text:?}")).boxed()
        }
        Kind::Text => Just("\"x\"".to_owned()).boxed(),
        // One that is written out is hidden.
        Kind::Secret(_) => {
            prop::sample::select(vec!["nil", "\"too short\""]).prop_map(str::to_owned).boxed()
        }
        Kind::Numbers => prop::collection::vec(100..600u16, 1..4)
            .prop_map(|codes| {
                format!("[{}]", codes.iter().map(u16::to_string).collect::<Vec<_>>().join(" "))
            })
            .boxed(),
        Kind::Texts => Just("[\"eth0\" \"br0\"]".to_owned()).boxed(),
        Kind::Map(table) if table.home == "a target" => {
            targets(1..=1).prop_map(|t| t[1..t.len() - 1].to_owned()).boxed()
        }
        Kind::Map(table) => map(table),
        Kind::Maps(table, ..) if table.home == "a target" => targets(1..=8).boxed(),
        Kind::Maps(table, least, _) => prop::collection::vec(map(table), *least..*least + 2)
            .prop_map(|maps| format!("[{}]", maps.join(" ")))
            .boxed(),
        Kind::OneOrMore(_) => Union::new([
            targets(1..=8).boxed(),
            targets(1..=1).prop_map(|t| t[1..t.len() - 1].to_owned()).boxed(),
        ])
        .boxed(),
    }
}

/// Targets with addresses of their own, whose weights sum to a hundred.
fn targets(count: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = String> {
    let check =
        FILE.inner().flat_map(Table::inner).find(|table| table.home == "`health-check`").unwrap();
    prop::collection::vec((1..=12u32, prop::option::weighted(0.3, map(check))), count).prop_map(
        |targets| {
            let first = 100 - targets.iter().skip(1).map(|(weight, _)| weight).sum::<u32>();
            let each = targets.iter().enumerate().map(|(index, (weight, check))| {
                let weight = if index == 0 { first } else { *weight };
                let check =
                    check.as_ref().map_or(String::new(), |check| format!(" :health-check {check}"));
                let place = match index % 4 {
                    1 => format!(":host \"{index}.internal\""),
                    2 => format!(":ip \"2001:db8::{index}\""),
                    3 => format!(":host \"h{index}\" :dns-refresh-seconds {}", weight * 300),
                    _ => format!(":ip \"10.0.0.{index}\""),
                };
                format!("{{{place} :port {} :weight {weight}{check}}}", 8080 + index)
            });
            format!("[{}]", each.collect::<Vec<_>>().join(" "))
        },
    )
}

/// Whole files whose proxies do not meet, and have names of their own.
fn file() -> impl Strategy<Value = String> {
    map(&FILE).prop_map(|text| {
        let mut count = 0;
        text.split(":interfaces [\"eth0\"")
            .map(|part| {
                count += 1;
                part.replace(" \"br0\"] :port", &format!("] :vlan {count} :port"))
            })
            .collect::<Vec<_>>()
            .join(":interfaces [\"ethN\"")
            .split(":name \"")
            .enumerate()
            .map(
                |(number, part)| {
                    if number == 0 { part.to_owned() } else { format!("{number}{part}") }
                },
            )
            .collect::<Vec<_>>()
            .join(":name \"")
    })
}

fn cases() -> u32 {
    let soak = std::env::var_os("EQUIPOISE_SOAK").is_some_and(|value| value == "1");
    if soak { 10_000 } else { 150 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_file_is_the_same_in_every_format(text in file()) {
        let mut number = 0;
        let mut text = text;
        while text.contains("ethN") {
            number += 1;
            text = text.replacen("ethN", &format!("eth{number}"), 1);
        }
        let config = load(&text).config;
        let same = |name: &str, written: &str| {
            let again = parse(name, written).map_err(|p| panic!("{}\n{written}", report(&p))).unwrap_or_else(|never: ()| panic!("{never:?}")).config;
            assert_eq!(again.services, config.services, "{text}\n{written}");
            assert_eq!(again.settings, config.settings, "{text}\n{written}");
        };
        let nothing = |_: &Path| Err(String::new());
        for (format, name) in [(Format::Toml, "a.toml"), (Format::Json, "a.json"), (Format::Yaml, "a.yaml"), (Format::Edn, "a.edn")] {
            same(name, &convert(("f.edn", &text), format, &Around::files(&nothing), Ignored::LeftOut).unwrap().text);
            same(name, &write(&config, format).unwrap());
        }
    }
}

#[test]
fn document_lists_every_key() {
    expect_file!["../../../docs/edn.md"].assert_eq(&document());
}

const HEAD: &str = "\
# EDN

Files of the Clojure load balancer load unchanged by the extension `.edn`: `equipoise run -c config.edn`, `equipoise check config.edn`. `equipoise convert config.edn
equipoise.toml` gives the same configuration in our keys. What holds without a key is what holds in that system. Keys that are unknown and what is not served yet are
warnings with their place, and errors with `check --strict`; `convert` refuses to lose them unless it is told to, with `--partial`.

Proxies become [services](config.md#service), targets backends. A service is on the own addresses of its interfaces, over TCP and UDP, and picks
backends at random by weight. `health-check` may stand in `settings` (as `health-check-defaults`), in a proxy and in a target: merged key by key, the nearest wins. Texts have no
variables, and `include` is not known. Names of proxies have to differ.
";

fn document() -> String {
    let mut text = HEAD.to_owned();
    let mut tables: Vec<&Table> = vec![&FILE];
    let mut next = 0;
    while let Some(table) = tables.get(next).copied() {
        next += 1;
        for inner in table.inner() {
            if !tables.iter().any(|known| std::ptr::eq(*known, inner)) {
                tables.push(inner);
            }
        }
        writeln!(text, "\n## In {}\n", table.home.trim_start_matches("an entry of ")).unwrap();
        text.push_str(
            "| key | type and range | default | what it becomes |\n| --- | --- | --- | --- |\n",
        );
        for key in table.keys {
            let is_value = key.default.starts_with([':', '[', '{', '"'])
                || ["true", "false", "nil"].contains(&key.default)
                || key.default.parse::<i64>().is_ok();
            let default =
                if is_value { format!("`{}`", key.default) } else { key.default.to_owned() };
            writeln!(
                text,
                "| `:{}` | {} | {default} | {} |",
                key.name,
                words(&key.kind),
                key.becomes
            )
            .unwrap();
        }
    }
    text + LINES
}

/// What lines of the access log are called there.
const LINES: &str = "
## Lines of the access log

The fields of a line in JSON have names of their own; all of them are in [Logs](logs.md#flows).

| there | here |
| --- | --- |
| `event`: `new-conn`, `conn-closed` | `event`: `opened`, `closed` |
| `src` | `client` |
| `dst` | `vip` |
| `bytes_fwd` | `bytes_in` |
| `bytes_rev` | `bytes_out` |

`timestamp`, `backend` and `duration_ms` are called the same, and `protocol` is that of the flow, `tcp` or `udp`.
";

fn words(kind: &Kind) -> String {
    match kind {
        Kind::Boolean => "boolean".to_owned(),
        Kind::Number(least, most) => format!("{least} to {most}"),
        Kind::Word(words) => {
            words.iter().map(|word| format!("`:{word}`")).collect::<Vec<_>>().join(", ")
        }
        Kind::Text => "text, not blank".to_owned(),
        Kind::Path => "text that begins with `/`".to_owned(),
        Kind::Secret(least) => format!("text of at least {least} characters, or `nil`"),
        Kind::Numbers => "list of whole numbers, not empty".to_owned(),
        Kind::Texts => "list of texts".to_owned(),
        Kind::Map(table) => format!("map: {}", table.home),
        Kind::Maps(table, least, usize::MAX) => {
            format!("list of {least} or more maps: {}", table.home)
        }
        Kind::Maps(table, least, most) => format!("list of {least} to {most} maps: {}", table.home),
        Kind::OneOrMore(table) => format!("map, or list of 1 to 8: {}", table.home),
    }
}

//! Configuration files, good and bad, with the reports that bad ones give.
//!
//! Each file of `config/bad` has its report beside it; `UPDATE_EXPECT=1` writes them anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use equipoise_common::limit;
use equipoise_core::config::{
    self, Affinity, AffinityPrefix, Algorithm, Around, Attach, AttachMode, BackendInterfaces,
    Checked, Config, Fragments, LeastConnections, Limits, List, Name, Named, OnBackendDown,
    OnBackendRemoved, OnEmpty, OnExit, OnFirstFailure, OnFull, OnUnknown, Policy, Pool, Ports,
    Prefix, Problem, Protocol, ProxyProtocol, RateLimit, Role, Route, Service, Settings,
    SourceLimit, SourcePrefix, Timeouts, flags_text, from_flags, parse, parse_with, problem_at,
};
use expect_test::expect_file;
use proptest::prelude::*;

/// The files of a directory of the corpus, but for reports: name and text.
fn corpus(directory: &str) -> Vec<(String, PathBuf, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(directory);
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_none_or(|extension| extension != "report"));
    paths.sort();
    let file = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        (name, path, text)
    };
    paths.into_iter().map(file).collect()
}

fn report(name: &str, problems: &[Problem]) -> String {
    problems.iter().fold(String::new(), |mut report, problem| {
        writeln!(report, "{name}:{problem}").unwrap();
        report
    })
}

fn good(name: &str, text: &str) -> Checked {
    parse(name, text).unwrap_or_else(|problems| panic!("{}", report(name, &problems)))
}

fn bad(name: &str, text: &str) -> String {
    report(name, &parse(name, text).unwrap_err())
}

#[test]
fn bad_files_give_exactly_the_recorded_reports() {
    let files = corpus("bad");
    assert!(files.len() >= 30);
    for (name, path, text) in files {
        let Err(problems) = parse(&name, &text) else { panic!("{name} passes") };
        let path = path.with_file_name(format!("{name}.report"));
        expect_file![path].assert_eq(&report(&name, &problems));
    }
}

#[test]
fn reports_without_a_file_do_not_linger() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/bad");
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "report") {
            assert!(path.with_extension("").exists(), "{}", path.display());
        }
    }
}

#[test]
fn good_files_pass_and_those_of_one_name_mean_the_same() {
    let mut by_stem: BTreeMap<String, Vec<Config>> = BTreeMap::new();
    for (name, path, text) in corpus("good") {
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        by_stem.entry(stem).or_default().push(good(&name, &text).config);
    }
    let mut pairs = 0;
    for (stem, configs) in by_stem {
        for other in &configs[1..] {
            let one = &configs[0];
            assert_eq!(
                (&one.services, &one.settings),
                (&other.services, &other.settings),
                "{stem}"
            );
            pairs += 1;
        }
    }
    assert!(pairs >= 8);
}

#[test]
fn every_key_arrives() {
    let text = include_str!("config/good/every-key.toml");
    let config = good("every-key.toml", text).config;
    let [service] = config.services.as_slice() else { panic!("one service") };
    assert_eq!(service.name, "dns");
    assert_eq!(service.listen.interfaces, ["eth0", "eth0.100", "br0"]);
    assert_eq!(service.listen.address, Some("2001:db8::53".parse().unwrap()));
    assert_eq!((&service.listen.port, service.listen.protocol), (&Ports::one(53), Protocol::Both));
    let backends: Vec<_> =
        service.backends.iter().map(|b| (b.address.to_string(), b.weight)).collect();
    assert_eq!(
        backends,
        [
            ("[2001:db8:1::1]:5353".to_owned(), 65535),
            ("[2001:db8:1::2]:5353".to_owned(), 0),
            ("10.0.0.1:5353".to_owned(), 1),
        ]
    );
    assert!(service.manage_address);
    let prefix = AffinityPrefix { v4: 24, v6: 56 };
    assert_eq!((service.algorithm, service.affinity), (Algorithm::Random, Affinity::SourceIp));
    assert_eq!(service.affinity_prefix, prefix);
    let max_flows = service.backends.iter().map(|backend| backend.max_flows);
    assert_eq!(max_flows.collect::<Vec<_>>(), [64_000_000, 0, 0]);
    let told = service.backends.iter().map(|backend| backend.proxy_protocol);
    assert_eq!(told.collect::<Vec<_>>(), [Some(ProxyProtocol::V2), None, None]);
    let timeouts = Timeouts {
        tcp_opening: Duration::from_millis(100),
        tcp_established: Duration::from_secs(604_800),
        tcp_closing: Duration::from_secs(1),
        udp_one_way: Duration::from_secs(90),
        udp_two_way: Duration::from_millis(7_500_500),
        reset_on_expiry: true,
    };
    let prefix = |address: &str, length| Prefix { address: address.parse().unwrap(), length };
    let limits = Limits {
        per_source: SourceLimit {
            limit: RateLimit { rate: Some(100), burst: Some(300) },
            prefix: SourcePrefix { v4: Some(24), v6: Some(56) },
        },
        per_backend: RateLimit { rate: Some(1_000_000), burst: Some(2_000_000) },
        allow: List {
            written: ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1", "10.0.0.0/8"]
                .map(String::from)
                .to_vec(),
            prefixes: [prefix("10.0.0.0", 8), prefix("192.0.2.1", 32), prefix("2001:db8::", 32)]
                .into(),
        },
        deny: List {
            written: vec!["0.0.0.0/0".to_owned()],
            prefixes: [prefix("0.0.0.0", 0)].into(),
        },
    };
    let policy = Policy {
        on_backend_down: OnBackendDown::Reselect,
        on_backend_removed: OnBackendRemoved::Reset,
        on_unknown: OnUnknown::Reset,
        on_empty: OnEmpty::Pass,
        on_full: OnFull::Drop,
        fragments: Fragments::Drop,
        max_flows: 5_000,
        timeouts,
        limits,
    };
    assert_eq!(service.policy, policy);
    let attach = Attach {
        default: AttachMode::Xdp,
        interfaces: BTreeMap::from([
            ("eth0.100".to_owned(), AttachMode::XdpGeneric),
            ("eth1".to_owned(), AttachMode::Tc),
            ("wlan0".to_owned(), AttachMode::Auto),
        ]),
    };
    let backend_interfaces = BackendInterfaces::Named(vec!["eth1".to_owned(), "br0".to_owned()]);
    let settings = Settings {
        attach,
        backend_interfaces,
        max_flows: 64_000_000,
        on_exit: OnExit::Keep,
        least_connections: LeastConnections {
            update_interval: Duration::from_secs(2),
            weighted: false,
        },
        events: false,
        limits: Limits {
            per_source: SourceLimit {
                limit: RateLimit { rate: Some(7), burst: None },
                ..SourceLimit::default()
            },
            deny: List { written: vec!["::/0".to_owned()], prefixes: [prefix("::", 0)].into() },
            ..Limits::default()
        },
        exec_checks: false,
        observe: true,
        breaker: None,
        drain: config::breaker::Draining::default(),
        dns: config::Dns::default(),
        metrics: None,
        otlp: None,
        admin: None,
        access_log: None,
        log: config::Log::default(),
    };
    assert_eq!(config.settings, settings);
}

#[test]
fn names_arrive_with_what_is_said_of_them() {
    let config = good("names.toml", include_str!("config/good/dns.toml")).config;
    let [api, web] = config.services.as_slice() else { panic!("two services") };
    let told = |named: &[Arc<Named>]| -> Vec<_> {
        let told = |named: &Arc<Named>| (named.text(), named.weight, named.role, named.refresh);
        named.iter().map(told).collect()
    };
    let (regular, backup, fallback) = (Role::Regular, Role::Backup, Role::Fallback);
    assert_eq!(
        told(&api.named),
        [
            ("api.internal:8080".to_owned(), 60, regular, Some(Duration::from_secs(30))),
            ("_http._tcp.api.internal".to_owned(), 0, backup, None),
            ("api.internal".to_owned(), 1, regular, None),
            ("last.internal.:80".to_owned(), 1, fallback, None),
        ]
    );
    assert_eq!(api.backends.len(), 1);
    assert_eq!(api.named[0].max_flows, 7);
    let check = api.named[1].health_check.as_ref().unwrap();
    assert_eq!((check.port, check.interval), (Some(81), Duration::from_secs(1)));
    assert!(web.backends.is_empty());
    let route = &web.routes[0];
    assert_eq!(route.source.written, ["192.168.0.0/16", "office.example.com"]);
    assert_eq!(route.source_names, [Name::Host("office.example.com".into())]);
    assert_eq!((route.source.prefixes.len(), route.name()), (1, "192.168.0.0/16"));
    assert_eq!(told(&route.named), [("db".to_owned(), 1, regular, None)]);
    let dns = config::Dns {
        resolvers: ["10.0.0.53:53", "127.0.0.1:5353", "[::1]:53"]
            .map(|a| a.parse().unwrap())
            .into(),
        min_ttl: Duration::from_millis(500),
        max_ttl: Duration::from_secs(3_600),
        max_shrink: 25,
        on_first_failure: OnFirstFailure::Refuse,
    };
    assert_eq!(config.settings.dns, dns);
}

#[test]
fn what_is_not_said_has_its_default() {
    let config = good("web.toml", include_str!("config/good/web.toml")).config;
    assert_eq!(config.settings, Settings::default());
    assert_eq!(config.settings.max_flows, 1_000_000);
    assert_eq!(config.settings.attach.mode("eth0"), AttachMode::Auto);
    assert!(config.settings.events);
    assert!(!config.services[0].manage_address);
    assert!(config.services[0].backends.iter().all(|backend| backend.max_flows == 0));
    let timeouts = Timeouts {
        tcp_opening: Duration::from_secs(10),
        tcp_established: Duration::from_secs(2 * 3_600 + 5 * 60),
        tcp_closing: Duration::from_secs(30),
        udp_one_way: Duration::from_secs(30),
        udp_two_way: Duration::from_secs(2 * 60),
        reset_on_expiry: false,
    };
    let policy = Policy {
        on_backend_down: OnBackendDown::Keep,
        on_backend_removed: OnBackendRemoved::Keep,
        on_unknown: OnUnknown::Hash,
        on_empty: OnEmpty::Reset,
        on_full: OnFull::Hash,
        fragments: Fragments::Track,
        max_flows: 0,
        timeouts,
        limits: Limits::default(),
    };
    assert_eq!(config.services[0].policy, policy);
}

#[test]
fn places_of_keys_are_where_they_stand() {
    let text = include_str!("config/good/subtables.toml");
    let config = good("subtables.toml", text).config;
    for (key, at) in [
        ("service[0]", "[[service]]"),
        ("service[0].name", "\"web\""),
        ("service[0].listen", "listen"),
        ("service[0].listen.interfaces", "interfaces"),
        ("service[0].listen.interfaces[0]", "\"eth0\""),
        ("service[0].backends[1].address", "\"[2001:db8::1]:8080\""),
        ("service[0].timeouts.udp-two-way", "\"3m\""),
        ("settings.attach.eth0", "\"xdp\""),
    ] {
        assert_eq!(config.places.text(key), Some(at), "{key}");
    }
    let text = include_str!("config/good/every-key.toml");
    let config = good("every-key.toml", text).config;
    let key = "settings.attach.\"eth0.100\"";
    let problem = problem_at(&config.places, key, "there is no `eth0.100`", None);
    assert_eq!((problem.line, problem.column), (37, 55));
}

#[test]
fn a_family_without_a_backend_gets_a_note_with_its_place() {
    let notes = |listen: &str, backends: &str| {
        let text = format!(
            "[[service]]\nname = \"web\"\nlisten = {{ {listen}, interfaces = [\"eth0\"], port = 80 }}\n\
             backends = [{backends}]\n"
        );
        report("f.toml", &good("f.toml", &text).notes)
    };
    let v4 = "{ address = \"10.0.0.1:80\", weight = 0 }";
    let v6 = "{ address = \"[2001:db8::1]:80\" }";
    let exact = "address = \"2001:db8::10\"";
    let own = "protocol = \"tcp\"";
    assert_eq!(notes(exact, v6), "");
    assert_eq!(notes(own, &format!("{v4}, {v6}")), "");
    assert_eq!(
        notes(exact, &v4.replace('0', "1")),
        "f.toml:3:22: service[0].listen.address: service `web` is reachable by IPv6 alone, and has \
         no IPv6 backend (allowed: a backend with an IPv6 address)\n"
    );
    assert_eq!(
        notes(own, v6),
        "f.toml:3:1: service[0].listen: service `web` is reachable by IPv4 where its interfaces \
         have such addresses, and has no IPv4 backend (allowed: a backend with an IPv4 address, or \
         `address` to listen on one alone)\n"
    );
}

#[test]
fn a_backend_of_weight_zero_counts_as_one_of_its_family() {
    let text = "[[service]]\nname = \"web\"\nlisten = { interfaces = [\"eth0\"], port = 80 }\n\
                backends = [{ address = \"10.0.0.1:80\", weight = 0 }, { address = \"[::2]:80\" }]\n";
    assert_eq!(report("f.toml", &good("f.toml", text).notes), "");
}

#[test]
fn flags_make_one_service_named_default() {
    let interfaces = ["eth0".to_owned(), "eth1".to_owned()];
    let targets = ["10.0.0.1:8080".to_owned(), "[2001:db8::1]:8080".to_owned()];
    let config = from_flags(&interfaces, 80, &targets).unwrap();
    let text = "[[service]]\nname = \"default\"\n\
                listen = { interfaces = [\"eth0\", \"eth1\"], port = 80 }\n\
                backends = [{ address = \"10.0.0.1:8080\" }, { address = \"[2001:db8::1]:8080\" }]\n";
    assert_eq!(config.services, good("f.toml", text).config.services);
    assert_eq!(config.settings, Settings::default());
}

#[test]
fn flags_are_checked_as_a_file_is_and_the_flag_that_is_wrong_is_pointed_at() {
    let interfaces = ["eth0".to_owned(), "eth0".to_owned(), "a/b".to_owned()];
    let targets = ["10.0.0.256".to_owned(), "10.0.0.1:1".to_owned(), "10.0.0.1:1".to_owned()];
    let problems = from_flags(&interfaces, 0, &targets).unwrap_err();
    let text = flags_text(&interfaces, 0, &targets);
    assert_eq!(text, "-i eth0 -i eth0 -i a/b -p 0 -t 10.0.0.256 -t 10.0.0.1:1 -t 10.0.0.1:1");
    let found: Vec<_> = problems
        .iter()
        .map(|problem| (problem.key.as_str(), problem.column, &text[problem.span.clone().unwrap()]))
        .collect();
    let expected = [
        ("-i", 12, "eth0"),
        ("-i", 20, "a/b"),
        ("-p", 27, "0"),
        ("-t", 32, "10.0.0.256"),
        ("-t", 60, "10.0.0.1:1"),
    ];
    assert_eq!(found, expected);
    assert_eq!(from_flags(&[], 80, &[]).unwrap_err().len(), 2);
}

#[test]
fn too_many_services_and_backends_are_refused() {
    let backends = limit::POOL_BACKENDS as usize + 1;
    let text = large(1, backends);
    let problems = bad("f.toml", &text);
    assert_eq!(
        problems,
        "f.toml:4:1: service[0].backends: 16385 backends are too many (allowed: at most 16384)\n"
    );
    let text = large(limit::SERVICES as usize + 1, 1);
    let problems = bad("f.toml", &text);
    assert_eq!(
        problems,
        "f.toml:1:3: service: 4097 services are too many (allowed: at most 4096)\n"
    );
}

/// A service, with these limits.
fn limited(limits: &str) -> String {
    format!(
        "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], port = 80 }}\n\
         backends = [{{ address = '10.0.0.1:80' }}]\nlimits = {{ {limits} }}\n"
    )
}

/// Reads `/lists/NAME`: as many lines as the name says, or what is there of that name.
fn lists(path: &Path) -> Result<String, String> {
    let name = path.strip_prefix("/lists").unwrap().to_str().unwrap();
    Ok(match name {
        "good" => "# Ours.\r\n10.0.0.0/8 # all of it\r\n\r\n\t192.0.2.1\n2001:db8::/32".to_owned(),
        "empty" => "# Nobody yet.\n".to_owned(),
        "bad" => "10.0.0.0/8\n10.0.0.1/8\nten\n".to_owned(),
        count => match count.parse::<u32>() {
            Ok(count) => (0..count).map(|at| format!("{}\n", Ipv4Addr::from(at))).collect(),
            Err(_) => return Err("there is no such file".to_owned()),
        },
    })
}

#[test]
fn prefixes_of_files_are_with_the_others() {
    let text = limited("deny = ['@/lists/good', '10.0.0.0/8', '::1'], allow = ['@/lists/100000']");
    let config = parse_with("f.toml", &text, &Around::files(&lists)).unwrap().config;
    let limits = &config.services[0].policy.limits;
    let deny: Vec<_> = limits.deny.prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(deny, ["10.0.0.0/8", "192.0.2.1/32", "::1/128", "2001:db8::/32"]);
    assert_eq!(limits.deny.written, ["@/lists/good", "10.0.0.0/8", "::1"]);
    assert_eq!(limits.allow.prefixes.len(), 100_000);
}

#[test]
fn what_is_wrong_in_a_file_is_told_with_its_line() {
    for (limits, right) in [
        (
            "deny = ['1.1.1.1', '@/lists/bad']",
            "5:31: service[0].limits.deny[1]: /lists/bad, line 2: `10.0.0.1/8` has bits set after its first 8 \
             (allowed: 10.0.0.0/8 for all of them, or 10.0.0.1 for one address)\n\
             5:31: service[0].limits.deny[1]: /lists/bad, line 3: `ten` is not a prefix \
             (allowed: a prefix or an address, such as 10.0.0.0/8 or 2001:db8::1)\n",
        ),
        (
            "deny = ['@/lists/none']",
            "5:20: service[0].limits.deny[0]: file /lists/none cannot be read: there is no such file \
             (allowed: a file with a prefix on each line)\n",
        ),
        (
            "allow = ['@/lists/empty']",
            "5:12: service[0].limits.allow: nothing in this list is a prefix \
             (allowed: at least one prefix, or no list)\n",
        ),
        (
            "deny = ['@/lists/131072'], allow = ['::1']",
            "5:39: service[0].limits.allow: with this one there are too many (allowed: at most 131072 in all lists together)\n",
        ),
    ] {
        let problems = parse_with("f.toml", &limited(limits), &Around::files(&lists)).unwrap_err();
        let told = report("", &problems).replace("\n:", "\n");
        assert_eq!(told.trim_start_matches(':'), right, "{limits}");
    }
}

#[test]
fn what_is_no_list_is_not_shown_to_whoever_may_not_read_it() {
    let lists = |_: &Path| Ok("root:$y$j9T$a:20228\n10.0.0.1/8\n2001:db8::/129\nten\n".to_owned());
    let around = Around { tells_files: false, ..Around::files(&lists) };
    let problems = parse_with("f.toml", &limited("deny = ['@/etc/shadow']"), &around).unwrap_err();
    let told: Vec<_> = problems.iter().map(|problem| &*problem.message).collect();
    let none = "what is there is not a prefix, and nothing like one";
    assert_eq!(
        told,
        [
            format!("/etc/shadow, line 1: {none}"),
            "/etc/shadow, line 2: `10.0.0.1/8` has bits set after its first 8".to_owned(),
            "/etc/shadow, line 3: `2001:db8::/129` has more bits than an address".to_owned(),
            format!("/etc/shadow, line 4: {none}"),
        ]
    );
}

#[test]
fn file_that_is_wrong_throughout_does_not_fill_the_screen() {
    let files = |_: &Path| Ok("x\n".repeat(5_000));
    let problems =
        parse_with("f.toml", &limited("deny = ['@/l']"), &Around::files(&files)).unwrap_err();
    assert_eq!(problems.len(), 11);
    assert!(problems.iter().any(|p| p.message == "/l: 4990 more lines are wrong"), "{problems:?}");
}

#[test]
fn route_says_of_choosing_what_it_does_not_inherit() {
    let text = include_str!("config/good/source-route.toml");
    let config = good("source-route.toml", text).config;
    let of = |pool: Pool<'_>| {
        let Pool { algorithm, affinity, affinity_prefix: AffinityPrefix { v4, v6 }, .. } = pool;
        (
            pool.route.map_or(String::new(), |route| route.name().to_owned()),
            algorithm,
            affinity,
            v4,
            v6,
            pool.backends.len(),
        )
    };
    let (random, follows) = (Algorithm::Random, Algorithm::LeastConnectionsWeights);
    let (none, source_ip) = (Affinity::None, Affinity::SourceIp);
    let pools: Vec<_> = config.services[0].pools().map(of).collect();
    let pools: Vec<_> = pools.iter().map(|p| (&*p.0, p.1, p.2, p.3, p.4, p.5)).collect();
    let expected = [
        ("", random, source_ip, 24, 56, 1),
        ("192.168.0.0/16", random, source_ip, 24, 56, 1),
        ("192.168.7.0/24", follows, none, 24, 56, 2),
        ("::/0", random, source_ip, 24, 64, 1),
    ];
    assert_eq!(pools, expected);
    let sources = config.services[0].routes[1].source.prefixes.iter().map(ToString::to_string);
    let expected = ["192.168.1.1/32", "192.168.7.0/24", "2001:db8::1/128"];
    assert_eq!(sources.collect::<Vec<_>>(), expected);
    assert_eq!(config.services[0].all_backends().count(), 5);
    assert_eq!(config.services[1].routes.len(), 1);
}

#[test]
fn name_route_says_what_a_source_route_says_and_its_names_are_in_lower_case() {
    let text = include_str!("config/good/name-route.toml");
    let config = good("name-route.toml", text).config;
    let [web, mail, dns] = config.services.as_slice() else { panic!("three services") };
    let [first, second] = web.name_routes.as_slice() else { panic!("two routes") };
    assert_eq!(first.names, ["api.example.com", "*.example.com", "a"]);
    assert_eq!((first.name(), first.is_by_name()), ("api.example.com", true));
    assert_eq!(second.names, ["www._x-y.example.com", "*.a.example.com"]);
    assert_eq!((first.algorithm, first.affinity), (Algorithm::Random, Affinity::SourceIp));
    assert_eq!(first.affinity_prefix, AffinityPrefix { v4: 24, v6: 56 });
    assert_eq!((second.algorithm, second.affinity), (Algorithm::LeastConnections, Affinity::None));
    assert_eq!((second.panic.threshold, second.breaker.unwrap().min_requests), (20, 5));
    assert!(second.backends[0].health_check.is_some() && first.backends[0].health_check.is_none());
    let v2 = Some(ProxyProtocol::V2);
    let told = |route: &Route| -> Vec<_> {
        route.backends.iter().map(|b| (b.role, b.proxy_protocol)).collect()
    };
    assert_eq!(told(first), [(Role::Regular, v2), (Role::Fallback, v2)], "what steps in, too");
    assert_eq!((first.named[0].proxy_protocol, web.named[0].proxy_protocol), (v2, v2));
    assert_eq!(first.backends[0].address.port(), 0, "the client's port is kept");

    let pools = |service: &Service| -> Vec<_> {
        service
            .pools()
            .map(|pool| (pool.route.map(|r| r.name().to_owned()), service.is_streamed(&pool)))
            .collect()
    };
    let some = |name: &str| Some(name.to_owned());
    let expected = [
        (None, true),
        (some("192.168.0.0/16"), false),
        (some("api.example.com"), true),
        (some("www._x-y.example.com"), true),
    ];
    assert_eq!(pools(web), expected);
    assert_eq!(pools(mail), [(None, true), (some("api.example.com"), true)]);
    assert_eq!(pools(dns), [(None, false)]);
}

/// The names of a route alone are otherwise.
#[test]
fn service_with_other_names_is_another() {
    let text = include_str!("config/good/name-route.toml");
    let services = |text: &str| good("a.toml", text).config.services;
    for other in ["'*.a.example.org'", "'*.a.example.com', 'more'"] {
        let other = text.replace("\"*.a.example.com\"", other);
        assert_ne!(services(&other)[0], services(text)[0]);
        assert_eq!(services(&other)[1..], services(text)[1..]);
    }
    let same = text.replace("*.Example.com", "*.EXAMPLE.com");
    assert_eq!(services(&same), services(text));
}

#[test]
fn names_are_as_long_as_names_may_be_and_routes_of_both_kinds_as_many_as_there_may_be() {
    let long = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
    assert_eq!(long.len(), 253);
    let service = |routes: &str| {
        format!(
            "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], port = 80 }}\n\
             backends = [{{ address = '10.0.0.1:8080' }}]\n{routes}"
        )
    };
    let by_name = |name: &str| {
        format!(
            "[[service.name-route]]\nnames = ['{name}']\nbackends = [{{ address = '10.0.0.1:1' }}]\n"
        )
    };
    let by_source = |n: u32| {
        let source = Ipv4Addr::from(n);
        format!(
            "[[service.source-route]]\nsource = '{source}'\nbackends = [{{ address = '10.0.0.1:1' }}]\n"
        )
    };
    let told = |text: &str| -> Vec<String> {
        let problems = parse("f.toml", text).err().unwrap_or_default();
        problems.iter().map(|p| format!("{}: {}", p.key, p.message)).collect()
    };
    assert_eq!(told(&service(&(by_name(&long) + &by_name(&format!("*.{long}"))))), [""; 0]);
    let longer =
        format!("service[0].name-route[0].names[0]: `{}…` is longer than 253 signs", &long[..60]);
    assert_eq!(told(&service(&by_name(&format!("{long}b")))), [longer]);

    let routes = |sources: u32, names: u32| -> String {
        let by_name = (0..names).map(|n| by_name(&format!("n{n}.example.com")));
        (0..sources).map(by_source).chain(by_name).collect()
    };
    assert_eq!(told(&service(&routes(4_000, 96))), [""; 0]);
    let many = ["service[0].name-route: with these 97 routes there are too many"];
    assert_eq!(told(&service(&routes(4_000, 97))), many);
}

/// With routes that have these sources.
fn routed(sources: &[&str]) -> String {
    let route = |source: &&str| {
        format!(
            "[[service.source-route]]\nsource = {source}\nbackends = [{{ address = '10.0.0.1:1' }}]\n"
        )
    };
    let routes: String = sources.iter().map(route).collect();
    format!(
        "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], port = 80 }}\n\
         backends = [{{ address = '10.0.0.1:8080' }}]\n{routes}"
    )
}

#[test]
fn sources_of_a_route_may_be_in_files_and_a_hundred_thousand() {
    let files = |path: &Path| match path.to_str() {
        Some("/large") => {
            Ok((0..100_000).map(|n| format!("{}\n", Ipv4Addr::from(n << 8))).collect())
        }
        Some("/again") => Ok("0.0.1.0\n".repeat(3)),
        Some("/most") => Ok((0..131_073).map(|n| format!("{}\n", Ipv4Addr::from(n))).collect()),
        _ => Ok("# nothing\n".to_owned()),
    };
    let config =
        parse_with("f.toml", &routed(&["'@/large'"]), &Around::files(&files)).unwrap().config;
    assert_eq!(config.services[0].routes[0].source.prefixes.len(), 100_000);
    let told = |sources: &[&str]| -> Vec<String> {
        let problems = parse_with("f.toml", &routed(sources), &Around::files(&files)).unwrap_err();
        problems.iter().map(|p| format!("{}: {}", p.key, p.message)).collect()
    };
    // In one file it is no mistake.
    assert!(parse_with("f.toml", &routed(&["'@/again'"]), &Around::files(&files)).is_ok());
    let expected =
        ["service[0].source-route[1].source: `0.0.1.0/32` has a route already, on line 6"];
    assert_eq!(told(&["'@/large'", "'@/again'"]), expected);
    assert_eq!(told(&["'@/large'", "'@/large'"]).len(), 11);
    assert_eq!(
        told(&["'@/none'"]),
        ["service[0].source-route[0].source: nothing here is a prefix"]
    );
    let expected =
        "service[0].source-route[0].source: with these 131073 prefixes there are too many";
    assert_eq!(told(&["'@/most'"]), [expected]);
}

/// A good file of some services with some backends each.
fn large(services: usize, backends: usize) -> String {
    let mut text = String::new();
    for service in 0..services {
        let (a, b) = (service / 256, service % 256);
        writeln!(
            text,
            "[[service]]\nname = \"s{service}\"\n\
             listen = {{ interfaces = [\"eth0\"], address = \"10.99.{a}.{b}\", port = 80 }}\nbackends = ["
        )
        .unwrap();
        for backend in 0..backends {
            let (a, b) = (backend / 256, backend % 256);
            writeln!(text, "  {{ address = \"10.1.{a}.{b}:8080\", weight = 3 }},").unwrap();
        }
        text.push_str("]\n");
    }
    text
}

/// The time on a CPU that reading a text some times takes, whatever else the machine does.
fn on_cpu(text: &str, times: usize) -> Duration {
    let so_far = || {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
    };
    let start = so_far();
    // All are kept: memory that is had from the kernel anew costs more than what was had before, and many small texts have as much.
    let read: Vec<_> = (0..times).map(|_| parse("f.toml", text)).collect();
    drop(read);
    so_far() - start
}

#[test]
fn time_grows_with_the_text_and_not_with_its_square() {
    for (small, big) in [
        (large(1, 256), large(1, 8192)),
        (large(25, 10), large(800, 10)),
        // All of it wrong: every backend or every service is there a second time.
        (large(25, 10).repeat(2), large(800, 10).repeat(2)),
        (twice(&large(1, 128)), twice(&large(1, 4096))),
        (large(1, 128).replace("10.1.", "x"), large(1, 4096).replace("10.1.", "x")),
        (large(1, 128).replace("weight =", "weight"), large(1, 4096).replace("weight =", "weight")),
    ] {
        // As much text; by its square, it would take 32 times as long each time that it is tried. Others share the caches.
        let tried = (0..10).map(|_| (on_cpu(&small, 32), on_cpu(&big, 1)));
        let mut slow = tried.take_while(|(many_small, big)| *big >= *many_small * 4);
        if let Some(first) = slow.next() {
            assert!(slow.count() < 9, "{first:?}");
        }
    }
}

/// The same with each backend twice.
fn twice(text: &str) -> String {
    text.lines().fold(String::new(), |mut text, line| {
        let times = if line.starts_with("  {") { 2 } else { 1 };
        (0..times).for_each(|_| writeln!(text, "{line}").unwrap());
        text
    })
}

fn problems_are_sound(name: &str, text: &str) {
    let problems = match parse(name, text) {
        Ok(checked) => checked.notes,
        Err(problems) => {
            assert!(!problems.is_empty());
            problems
        }
    };
    let mut last = 0;
    for problem in &problems {
        let span = problem.span.as_ref().unwrap_or_else(|| panic!("{problem:?} has no place"));
        assert!(text.get(span.clone()).is_some(), "{problem:?}");
        assert!(last <= span.start, "{problem:?}");
        last = span.start;
        let before = &text[..span.start];
        assert_eq!(problem.line, before.matches('\n').count() + 1);
        let line = before.rsplit('\n').next().unwrap_or_default();
        assert_eq!(problem.column, line.chars().count() + 1);
        assert!(!problem.message.is_empty());
    }
}

#[test]
fn depth_without_end_is_a_problem_in_every_format() {
    for name in ["f.toml", "f.json", "f.yaml", "f.edn"] {
        for sign in [
            "[", "{", "(", "a = [", "{\"a\":", "[{a: ", "{:a ", "- ", "a.", "[[", "#_", "&a [",
            "? ",
        ] {
            for start in ["", "service = ", "{\"service\": ", "service: ", "{:proxies "] {
                problems_are_sound(name, &format!("{start}{}", sign.repeat(20_000)));
            }
        }
    }
}

/// Names of files of all kinds.
fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["f.toml", "f.json", "f.yaml", "f.edn"])
}

/// A good file with some of its text cut out, doubled or replaced.
fn mutated() -> impl Strategy<Value = (String, String)> {
    let files = corpus("good");
    let pieces = prop_oneof![
        Just(String::new()),
        "[\\[\\]{}=\",.:\n 0-9a-z-]{1,4}",
        Just("\"\"\"".to_owned()),
        Just("é→".to_owned()),
        Just("[[service]]\n".to_owned()),
        Just("null".to_owned()),
        Just("99999999999999999999999".to_owned()),
    ];
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0..12usize, pieces), 1..4);
    (prop::sample::select(files), edits).prop_map(|((name, _, mut text), edits)| {
        for (at, length, piece) in edits {
            let start = text.floor_char_boundary(at.index(text.len() + 1));
            let end = text.floor_char_boundary((start + length).min(text.len())).max(start);
            text.replace_range(start..end, &piece);
        }
        (name, text)
    })
}

/// So many of each kind: more in `soak` than with every change.
fn cases() -> u32 {
    let soak = std::env::var_os("EQUIPOISE_SOAK").is_some_and(|value| value == "1");
    if soak { 100_000 } else { 512 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics_and_every_place_is_in_it(text in "\\PC*", name in name()) {
        problems_are_sound(name, &text);
    }

    #[test]
    fn no_mix_of_the_signs_of_a_grammar_panics(
        text in "([\\[\\]{}=\",.:\n #'\\\\0-9&*!|>?@%`~;_-]|service|:proxies|:settings|#_|#\\{|listen|name|true|null|é){0,60}",
        name in name(),
    ) {
        problems_are_sound(name, &text);
    }

    #[test]
    fn no_damage_to_a_good_file_panics_and_every_place_is_in_it((name, text) in mutated()) {
        problems_are_sound(&name, &text);
    }
}

#[test]
fn what_affinity_leaves_unused_is_noted_at_its_place() {
    let notes = |keys: &str| {
        let text = format!(
            "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], address = '192.0.2.1', port = 80 }}\n\
             backends = [{{ address = '10.0.0.1' }}]\n{keys}"
        );
        let notes = good("a.toml", &text).notes;
        notes.into_iter().map(|note| (note.key, note.line)).collect::<Vec<_>>()
    };
    assert_eq!(
        notes("affinity = 'source-ip'\nalgorithm = 'random'"),
        [("service[0].algorithm".to_owned(), 6)]
    );
    assert_eq!(
        notes("affinity-prefix = { v4 = 24 }"),
        [("service[0].affinity-prefix".to_owned(), 5)]
    );
    assert_eq!(notes("affinity = 'source-ip'\naffinity-prefix = { v4 = 24 }"), []);
    assert_eq!(notes("affinity = 'none'\nalgorithm = 'random'"), []);

    // What a service does not use itself, a route may.
    let route = |service: &str, route: &str| {
        let backends = "backends = [{ address = '10.0.0.9:80' }]";
        notes(&format!(
            "{service}\n[[service.source-route]]\nsource = '10.0.0.0/8'\n{backends}\n{route}"
        ))
    };
    let algorithm = "affinity = 'source-ip'\nalgorithm = 'random'";
    let told = |key: &str, line: usize| vec![(format!("service[0].{key}"), line)];
    assert_eq!(route(algorithm, "affinity = 'none'"), []);
    assert_eq!(route(algorithm, ""), told("algorithm", 6));
    let own = "affinity = 'none'\nalgorithm = 'maglev'";
    assert_eq!(route(algorithm, own), told("algorithm", 6));
    let prefix = "affinity-prefix = { v4 = 24 }";
    assert_eq!(route(prefix, "affinity = 'source-ip'"), []);
    assert_eq!(route(prefix, ""), told("affinity-prefix", 5));
    let own = "affinity = 'source-ip'\naffinity-prefix = { v4 = 16, v6 = 48 }";
    assert_eq!(route(prefix, own), told("affinity-prefix", 5));
    assert_eq!(route(prefix, &own.replace("v4 = 16, ", "")), []);
    assert_eq!(
        route("", "affinity = 'source-ip'\nalgorithm = 'random'"),
        told("source-route[0].algorithm", 10)
    );
}

//! What is typed, scene by scene, with the exit code of each line.

/// A line without the name of the program, and its exit code.
pub(super) struct Line {
    pub(super) text: &'static str,
    pub(super) exit: i32,
}

const fn good(text: &'static str) -> Line {
    Line { text, exit: 0 }
}

const fn bad(exit: i32, text: &'static str) -> Line {
    Line { text, exit }
}

/// Against an instance with flows, a check, a name and breakers.
pub(super) const RUNNING: &[Line] = &[
    good("status"),
    good("status --json"),
    good("services"),
    good("services mail --json"),
    bad(3, "services nosuch"),
    good("flows"),
    good("flows --service web --client 198.51.100.0/24 --json"),
    good("flows --sum-by client"),
    good("flows --sum-by backend --json"),
    bad(3, "flows --service nosuch"),
    good("top-talkers --by live-flows"),
    good("top-talkers --by live-flows --json"),
    good("plan plan.toml"),
    good("plan plan.toml --json"),
    good("plan plan.toml --dump"),
    good("pool web"),
    good("pool web --json"),
    good("pool api --recompute"),
    bad(5, "pool web --recompute"),
    good("limits"),
    good("limits set web per-source 100 --burst 150"),
    good("limits set web per-backend 1000 --json"),
    bad(2, "limits set web per-source 1000001"),
    good("limits web"),
    good("limits web --json"),
    good("limits clear web per-source"),
    good("limits clear web --json"),
    good("deny add 192.0.2.0/24 --for 1h"),
    good("deny add 2001:db8::/32 --service web --json"),
    bad(2, "deny add ten"),
    good("deny list"),
    good("deny list --json"),
    good("config --changes"),
    good("config --changes --json"),
    good("deny remove 192.0.2.0/24"),
    good("deny remove 2001:db8::/32 --service web --json"),
    bad(3, "deny remove 192.0.2.0/24"),
    good("explain tcp 198.51.100.7:4242 203.0.113.10:80"),
    good("explain tcp 198.51.100.7:4242 203.0.113.10:80 --json"),
    bad(2, "explain --in nosuch0 --hex 0000000000000000000000000000"),
    good("drain web 10.0.0.1:8080 --timeout 1h"),
    bad(5, "drain web 10.0.0.1:8080"),
    good("drain web 10.0.0.2:8080 --timeout 1h --force --json"),
    good("drains"),
    good("drains --json"),
    good("undrain web 10.0.0.1:8080"),
    good("undrain web 10.0.0.2:8080 --json"),
    bad(3, "undrain web 10.0.0.2:8080"),
    good("breaker"),
    good("breaker open web 10.0.0.1:8080"),
    good("breaker open web 10.0.0.2:8080 --json"),
    good("breaker web --json"),
    good("breaker close web 10.0.0.1:8080"),
    good("breaker close web 10.0.0.2:8080 --json"),
    good("breaker reset web 10.0.0.1:8080"),
    good("breaker reset web 10.0.0.2:8080 --json"),
    bad(3, "breaker open nosuch 10.0.0.1:8080"),
    good("health"),
    good("health mail --json"),
    good("health set web 10.0.0.1:8080 down --for 1h"),
    good("health set web 10.0.0.1:8080 auto --json"),
    good("health check mail {tcp}"),
    good("health check mail {tcp} --json"),
    bad(2, "health check web 10.0.0.1:8080"),
    good("wait mail --healthy 1"),
    good("wait mail --healthy 1 --json"),
    bad(6, "wait mail --healthy 2 --timeout 10ms"),
    good("dns"),
    good("dns --json"),
    good("dns refresh api.internal"),
    good("dns refresh api.internal --json"),
    bad(3, "dns refresh nosuch.internal"),
    good("weight web 10.0.0.1:8080 9"),
    good("weight web 10.0.0.1:8080 8 --json"),
    good("backend add web 10.0.0.4:8080 --weight 2"),
    good("backend add web 10.0.0.5:8080 --json"),
    bad(5, "backend add web 10.0.0.4:8080"),
    good("backend remove web 10.0.0.4:8080"),
    good("backend remove web 10.0.0.5:8080 --json"),
    bad(3, "backend remove web 10.0.0.9:8080"),
    good("reload"),
    good("reload --reset --json"),
    bad(2, "reload {dir}/bad.toml"),
    bad(2, "reload {dir}/bad.toml --json"),
    good("reload {dir}/other.toml --confirm 1h"),
    good("confirm"),
    bad(5, "confirm"),
    good("reload {dir}/a.toml --confirm 1h --json"),
    good("confirm --json"),
    good("config"),
    good("config --json"),
    good("flows delete --client 198.51.100.1"),
    good("flows delete --all --json"),
    bad(2, "flows delete"),
    good("history"),
    good("history --json"),
    good("events"),
    good("events --json"),
    good("events --flows --for 1ms"),
    bad(3, "events --flows --service nope"),
    bad(2, "events --service web"),
    good("stop"),
];

/// Against an instance that is to end.
pub(super) const ENDING: &[Line] = &[good("stop --json"), bad(4, "status")];

/// Files that are there where no instance runs.
pub(super) const TEXTS: [(&str, &str); 4] = [
    (
        "a.toml",
        r#"[[service]]
name = "web"
listen = { interfaces = ["lo"], address = "203.0.113.10", port = 80 }
backends = [{ address = "10.0.0.1:8080" }, { address = "10.0.0.2:8080", weight = 3 }]
"#,
    ),
    (
        "bad.toml",
        r#"[[service]]
name = "web"
listen = { interfaces = ["lo"], address = "203.0.113.10", port = 0 }
backends = [{ address = "10.0.0.1:8080", wieght = 3 }]
"#,
    ),
    (
        "warned.edn",
        "{:proxies [{:name \"web\" :listen {:interfaces [\"lo\"] :port 80}\n :default-target {:ip \"10.0.0.1\" :port 80}}]\n :colour 1}\n",
    ),
    (
        "rules",
        "-A -t 203.0.113.10:80 -s wrr\n-a -t 203.0.113.10:80 -r 10.0.0.1:80 -m -w 5\n-A -f 7 -s rr\n",
    ),
];

/// Where no instance runs.
pub(super) const FILES: &[Line] = &[
    good("check a.toml"),
    good("check a.toml --json"),
    good("check warned.edn"),
    good("check warned.edn --json"),
    bad(2, "check bad.toml"),
    bad(2, "check bad.toml --json"),
    bad(2, "check none.toml"),
    good("convert a.toml -"),
    good("convert a.toml a.yaml --json"),
    bad(2, "convert warned.edn b.toml"),
    bad(2, "convert warned.edn b.toml --json"),
    good("import ipvs rules -i lo"),
    good("import ipvs rules -i lo --json"),
    good("schema"),
    bad(2, "plan bad.toml"),
    good("probe tcp {tcp}"),
    good("probe tcp {tcp} --json"),
    bad(1, "probe tcp 127.0.0.1:1"),
    bad(1, "probe tcp 127.0.0.1:1 --json"),
    bad(2, "probe tpc {tcp}"),
    good("dns lookup api.internal --resolver {dns}"),
    good("dns lookup api.internal --resolver {dns} --json"),
    bad(1, "dns lookup nosuch.internal --resolver {dns}"),
    good("man drains"),
    bad(4, "status"),
    bad(4, "status --json"),
];

//! Drains under traffic: nothing breaks, nothing new comes, and the end is told when it is there. Breakers, by what checks say.

use std::process::Child;
use std::time::Duration;

use equipoise_lab::client::{Connect, EchoConnection, UdpAsker};
use equipoise_lab::load::{Load, RunningLoad};
use equipoise_lab::serve::HttpServer;
use equipoise_lab::topology::{Lab, Options};
use equipoise_lab::wait_until;
use serde_json::Value;

use crate::balanced::{
    Attach, Balancer, DEADLINE, PORT, TC, backends, config, echo_servers, udp_servers, vips,
    web_servers,
};

/// A command of the instance that goes on by itself.
fn begun(balancer: &Balancer, arguments: &[&str]) -> Child {
    let mut command = balancer.command();
    command.args(arguments).stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped()).spawn().unwrap()
}

/// Its exit code, and what it has said.
fn ended(child: Child) -> (i32, Value) {
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
}

pub(crate) fn a_drained_backend_keeps_its_connections_and_gets_no_new_ones(attach: Attach) {
    let lab = Lab::new(Options::default()).unwrap();
    let _echoes = echo_servers(&lab);
    // A connection that is over is live until this has passed: nobody needs to wait for the default here.
    let lines = "timeouts = { tcp-closing = \"1s\" }\nbackends = [\n";
    let text = config(&lab, attach.asked).replace("backends = [\n", lines);
    let balancer = Balancer::start(&lab.balancer, &text);
    let client = &lab.client().netns;
    for (name, vip) in vips() {
        let live = 500;
        let open = |_| EchoConnection::open(client, vip, &Connect::default()).unwrap();
        let mut connections: Vec<_> = (0..live).map(open).collect();
        let of_first = connections.iter().filter(|c| c.backend() == "b1").count() as u64;
        assert!(of_first > 0);

        let address = backends(&lab, vip)[0].0.to_string();
        let waiting =
            begun(&balancer, &["drain", name, &address, "--wait", "--timeout", "1h", "--json"]);
        wait_until(DEADLINE, "the drain", || balancer.backend(name, 0)["draining"] == true)
            .unwrap();
        let first = balancer.backend(name, 0);
        assert_eq!(
            (&first["effective_weight"], &first["live_flows"]),
            (&0.0.into(), &of_first.into())
        );
        let before = first["new_flows"].clone();

        // All that were open go on, and of the new ones none comes here.
        for connection in &mut connections {
            connection.ask(b"still there?").unwrap();
        }
        let fresh: Vec<_> = (0..live).map(open).collect();
        assert!(fresh.iter().all(|connection| connection.backend() != "b1"));
        assert_eq!(balancer.backend(name, 0)["new_flows"], before);
        for connection in &mut connections {
            connection.ask(b"and now?").unwrap();
        }

        connections.retain(|connection| connection.backend() != "b1");
        let (code, answer) = ended(waiting);
        assert_eq!(code, 0, "{answer}");
        let drain = &answer["drains"][0];
        assert_eq!(
            (&drain["status"], &drain["initial_flows"]),
            (&"completed".into(), &of_first.into())
        );
        // Those that are over stay in the table for `tcp-closing`; nobody has to wait for that.
        assert_eq!(drain["live_flows"], 0, "{answer}");

        let (code, said) = balancer.ask(&["undrain", name, &address]);
        assert_eq!(code, 0, "{said}");
        wait_until(DEADLINE, "its share", || {
            EchoConnection::open(client, vip, &Connect::default()).unwrap().backend() == "b1"
        })
        .unwrap();
    }
}

#[test]
fn flows_that_a_drain_leaves_are_reset_where_that_is_asked_for() {
    let lab = Lab::new(Options { backends: 2, ..Options::default() }).unwrap();
    let _echoes = echo_servers(&lab);
    let balancer = Balancer::start(&lab.balancer, &config(&lab, TC.asked));
    let client = &lab.client().netns;
    for (name, vip) in vips() {
        let open = |_| EchoConnection::open(client, vip, &Connect::default()).unwrap();
        for (on_timeout, breaks) in [("keep", false), ("reset", true)] {
            let mut connections: Vec<_> = (0..20).map(open).collect();
            let address = backends(&lab, vip)[0].0.to_string();
            let arguments = [
                "drain",
                name,
                &address,
                "--wait",
                "--timeout",
                "200ms",
                "--on-timeout",
                on_timeout,
            ];
            assert_eq!(balancer.ask(&arguments).0, 6);
            wait_until(DEADLINE, "what becomes of them", || {
                connections
                    .iter_mut()
                    .filter(|c| c.backend() == "b1")
                    .all(|c| c.ask(b"?").is_err() == breaks)
            })
            .unwrap();
            for connection in connections.iter_mut().filter(|c| c.backend() != "b1") {
                connection.ask(b"still there?").unwrap();
            }
            assert_eq!(balancer.ask(&["undrain", name, &address]).0, 0);
        }
    }
}

#[test]
fn a_drain_outlives_the_process_and_leaves_nothing_when_it_is_undone() {
    let lab = Lab::new(Options { backends: 2, ..Options::default() }).unwrap();
    let (_web, _udp) = (web_servers(&lab), udp_servers(&lab));
    let mut balancer = Balancer::start(&lab.balancer, &config(&lab, TC.asked));
    let drained: Vec<_> =
        vips().map(|(name, vip)| (name, vip, backends(&lab, vip)[0].0.to_string())).into();
    for (name, _, address) in &drained {
        assert_eq!(balancer.ask(&["drain", name, address]).0, 0);
    }
    balancer.signal(libc::SIGKILL);
    balancer.daemon.as_mut().unwrap().wait(DEADLINE).unwrap();
    // What it has left in the kernel goes; what it has been told to do stays.
    assert_eq!(balancer.ask(&["stop"]).0, 0);
    balancer.run();
    for (name, vip, address) in &drained {
        let tally = Load::of_count(*vip, 60).run(&lab.client().netns);
        assert_eq!((tally.failed(), tally.answered()), (0, 60), "{:?}", tally.failures);
        assert_eq!(tally.by_backend.keys().collect::<Vec<_>>(), ["b2"], "{name}");
        let asker = UdpAsker::open(&lab.client().netns, *vip, &Connect::default()).unwrap();
        assert_eq!(asker.ask(b"?").unwrap(), "b2");
        assert_eq!(balancer.ask(&["undrain", name, address]).0, 0);
    }
    let kept = format!("/var/lib/equipoise/{}", balancer.instance);
    assert!(!std::path::Path::new(&kept).exists());
}

#[test]
fn a_breaker_opens_by_failed_checks_and_closes_by_good_ones() {
    let lab = Lab::new(Options::default()).unwrap();
    let mut servers = web_servers(&lab);
    let checks = "[settings.health-check]\ntype = \"tcp\"\ninterval = \"100ms\"\nfast-interval = \"100ms\"\n\
                  unhealthy-threshold = 100\n\
                  [settings.breaker]\nmin-requests = 4\nwindow = \"1s\"\nopen-for = \"4s\"\n";
    let text = config(&lab, TC.asked) + checks;
    let balancer = Balancer::start(&lab.balancer, &text);
    let state = |name: &str| balancer.backend(name, 1)["breaker"].clone();
    drop(servers.remove(1));
    // Both at once, as an open breaker stays open for so long only.
    wait_until(DEADLINE, "open breakers", || vips().iter().all(|(name, _)| state(name) == "open"))
        .unwrap();
    let loads = vips().map(|(_, vip)| Load::of_count(vip, 60).start(&lab.client().netns));
    for tally in loads.map(RunningLoad::wait) {
        assert_eq!((tally.failed(), tally.answered()), (0, 60), "{:?}", tally.failures);
        assert!(!tally.by_backend.contains_key("b2"));
    }
    for (name, _) in vips() {
        // Half-open it gets a tenth, fails a check, and is open again.
        let service = format!("service=\"{name}\"");
        wait_until(DEADLINE, "another try that fails", || {
            balancer.log().lines().any(|line| {
                line.contains(&service) && line.contains("from=\"half-open\" to=\"open\"")
            })
        })
        .unwrap();
    }
    let host = &lab.backends[1];
    servers.insert(1, HttpServer::start(&host.netns, &host.name, &host.at(PORT)).unwrap());
    for (name, vip) in vips() {
        wait_until(DEADLINE, "a closed breaker", || state(name) == "closed").unwrap();
        let load = Load::of_time(vip, Duration::from_secs(600)).start(&lab.client().netns);
        wait_until(DEADLINE, "its share", || load.tally().by_backend.contains_key("b2")).unwrap();
        assert_eq!(load.stop().failed(), 0);
    }
}

#[test]
fn a_breaker_opens_by_refused_connections_without_any_check() {
    let lab = Lab::new(Options::default()).unwrap();
    let mut servers = web_servers(&lab);
    let text = config(&lab, TC.asked) + "[settings.breaker]\nmin-requests = 5\nopen-for = \"1h\"\n";
    let balancer = Balancer::start(&lab.balancer, &text);
    drop(servers.remove(1));
    for (name, vip) in vips() {
        let load = Load::of_time(vip, Duration::from_secs(600)).start(&lab.client().netns);
        wait_until(DEADLINE, "an open breaker", || balancer.backend(name, 1)["breaker"] == "open")
            .unwrap();
        let refused = load.stop().failed();
        assert!(refused > 0);
        let tally = Load::of_count(vip, 60).run(&lab.client().netns);
        assert_eq!((tally.failed(), tally.answered()), (0, 60), "{:?}", tally.failures);
        assert!(!tally.by_backend.contains_key("b2"));
        for number in [0, 2] {
            assert_eq!(balancer.backend(name, number)["breaker"], "closed");
        }
    }
}

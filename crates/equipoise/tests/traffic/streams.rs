//! Connections that this host takes up itself: led by the server that a client names, told of to the backend, and alive whatever becomes
//! of the control plane.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use equipoise_lab::client::{Connect, HttpConnection, download, http_get};
use equipoise_lab::load::Load;
use equipoise_lab::serve::HttpServer;
use equipoise_lab::topology::{Lab, Options};
use equipoise_lab::{program, scale, wait_until};
use serde_json::Value;

use crate::balanced::{
    Attach, BINARY, Balancer, DEADLINE, PORT, TC, backends, config, service, settings, vips,
    web_servers,
};
use crate::restart::{self, Servers, Traffic};

#[path = "streams/tls.rs"]
mod tls;

use tls::{Client, Identity, Secure, Server};

const NAMES: [&str; 4] = ["api.example.com", "x.example.com", "y.x.example.com", "other.org"];

/// A server on each backend, of the family of the VIP; those of `told` are told who has connected.
fn servers(lab: &Lab, identity: &Identity, told: bool) -> Vec<Server> {
    let hosts = lab.backends.iter().flat_map(|host| host.at(PORT).map(|at| (host, at)));
    hosts.map(|(host, at)| Server::start(&host.netns, (&host.name, at), (identity, told))).collect()
}

/// A service over the last backend, with the first for one name and the second for all that end like it.
fn named(lab: &Lab, (name, vip): (&str, SocketAddr), more: &str) -> String {
    let all = backends(lab, vip);
    let one = |at: usize| format!("backends = [{{ address = \"{}\"{more} }}]\n", all[at].0);
    let mut text = format!(
        "[[service]]\nname = \"{name}\"\n{}\
         listen = {{ interfaces = [\"front\"], address = \"{}\", port = {}, protocol = \"both\" }}\n",
        one(2),
        vip.ip(),
        vip.port()
    );
    for (names, at) in [("api.example.com", 0), ("*.Example.com", 1)] {
        write!(text, "[[service.name-route]]\nnames = [\"{names}\"]\n{}", one(at)).unwrap();
    }
    text
}

/// New flows of each pool of a service, by its route.
fn new_flows(balancer: &Balancer, service: &str) -> Vec<(String, u64)> {
    let status = balancer.status();
    let services = status["services"].as_array().unwrap();
    let service = services.iter().find(|s| s["name"] == service).unwrap();
    let pools = service["pools"].as_array().unwrap().iter();
    let count = |pool: &Value| {
        let backends = pool["backends"].as_array().unwrap().iter();
        backends.map(|backend| backend["new_flows"].as_u64().unwrap()).sum()
    };
    pools.map(|pool| (pool["route"].as_str().unwrap().to_owned(), count(pool))).collect()
}

/// The folder of those who take up an instance's connections.
fn workers(balancer: &Balancer) -> PathBuf {
    format!("/run/equipoise/{}.streams", balancer.instance).into()
}

pub(crate) fn a_name_leads_to_its_backend_however_it_comes(attach: Attach) {
    let lab = Lab::new(Options::default()).unwrap();
    let identity = Identity::of(&NAMES);
    let _servers = servers(&lab, &identity, false);
    let mut text = settings(attach.asked);
    vips().iter().for_each(|vip| text += &named(&lab, *vip, ""));
    let mut balancer = Balancer::start(&lab.balancer, &text);
    let client = &lab.client().netns;
    let mut held = Vec::new();
    for (name, vip) in vips() {
        for piece in [1, 7, 100_000] {
            for (server, backend) in NAMES.into_iter().zip(["b1", "b2", "b2", "b3"]) {
                let mut connection = Secure::open(client, vip, (&identity, server, piece));
                for bytes in [0, 10, 3_000_000] {
                    let says = connection.ask(bytes).unwrap();
                    assert_eq!(
                        says,
                        format!("{backend} told nobody says who"),
                        "{server}, {piece}"
                    );
                }
                held.push((connection, backend));
            }
        }
        // Who names nobody goes where others go.
        let mut plain = Client::plain(client, vip);
        assert_eq!(plain.ask(10).unwrap(), "b3 in plain text told nobody says who");
        let counts = [("default", 4), ("api.example.com", 3), ("*.example.com", 6)];
        let counts: Vec<_> = counts.map(|(route, count)| (route.to_owned(), count)).into();
        wait_until(DEADLINE, "all to be counted", || new_flows(&balancer, name) == counts).unwrap();
        assert!(balancer.verdict("streamed") > 0);
    }
    // They are listed with all others, by the addresses of both ends.
    let (code, listed) = balancer.ask(&["flows", "--json"]);
    assert_eq!(code, 0, "{listed}");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), held.len(), "{listed:?}");
    for (connection, _) in &held {
        assert!(listed.iter().any(|flow| flow["client"] == connection.address.to_string()));
    }
    // What is told of a connection is where it then goes.
    for (_, vip) in vips() {
        for (server, backend, route) in [
            ("API.example.com", 0, "api.example.com"),
            ("y.x.example.com", 1, "*.example.com"),
            ("other.org", 2, "default"),
        ] {
            let source = lab.client().at(4242)[usize::from(vip.is_ipv6())].to_string();
            let asked = ["explain", "tcp", &source, &vip.to_string(), "--sni", server, "--json"];
            let (code, said) = balancer.ask(&asked);
            let said: Value = serde_json::from_str(&said).unwrap();
            let address = backends(&lab, vip)[backend].0.to_string();
            let told = (&said["reason"], &said["route"], &said["backend"]);
            assert_eq!(told, (&"streamed".into(), &route.into(), &address.into()), "{said}");
            assert_eq!(code, 0);
        }
    }
    // Other names lead elsewhere from now on; those that are there go on where they are.
    let other = text.replace("api.example.com", "other.org");
    balancer.reload(&other);
    for (_, vip) in vips() {
        let mut connection = Secure::open(client, vip, (&identity, "other.org", 100));
        assert_eq!(connection.ask(1).unwrap(), "b1 told nobody says who");
        let mut connection = Secure::open(client, vip, (&identity, "api.example.com", 100));
        assert_eq!(connection.ask(1).unwrap(), "b2 told nobody says who");
    }
    // None has a route by name any more: what comes is rewritten again, and what is there goes on.
    let cut = |text: &str| text.split("[[service.name-route]]").next().unwrap().to_owned();
    let services = text.split("[[service]]").skip(1).map(cut);
    let without: String = services.map(|service| format!("[[service]]{service}")).collect();
    balancer.reload(&(settings(attach.asked) + &without));
    let before = balancer.verdict("streamed");
    for (_, vip) in vips() {
        let mut connection = Secure::open(client, vip, (&identity, "api.example.com", 100));
        assert_eq!(connection.ask(1).unwrap(), "b3 told nobody says who");
    }
    assert_eq!(balancer.verdict("streamed"), before);
    for (connection, backend) in &mut held {
        let says = connection.ask(100_000).unwrap();
        assert!(says.starts_with(&format!("{backend} ")), "{says}");
    }
    assert_eq!(balancer.status()["state"], "ok");
    drop(held);
    let folder = workers(&balancer);
    wait_until(DEADLINE, "nobody to be left to take up anything", || {
        std::fs::read_dir(&folder).is_ok_and(|mut left| left.next().is_none())
    })
    .unwrap();
    balancer.end();
    assert!(!folder.exists());
}

pub(crate) fn backends_are_told_who_has_connected(attach: Attach) {
    let lab = Lab::new(Options::default()).unwrap();
    let identity = Identity::of(&NAMES);
    let _servers = servers(&lab, &identity, true);
    let told = ", proxy-protocol = \"v2\"";
    let mut text = settings(attach.asked);
    vips().iter().for_each(|vip| text += &named(&lab, *vip, told));
    // One without names, whose backends are told all the same, on another port.
    for (name, vip) in vips() {
        let vip = SocketAddr::new(vip.ip(), 81);
        let list = service(&format!("{name}-plain"), vip, &backends(&lab, vip));
        text += &list.replace(", weight", &format!("{told}, weight"));
    }
    let balancer = Balancer::start(&lab.balancer, &text);
    let client = &lab.client().netns;
    for (name, vip) in vips() {
        let mut connection = Secure::open(client, vip, (&identity, "api.example.com", 5));
        let says = connection.ask(200_000).unwrap();
        assert_eq!(says, format!("b1 told {} to {vip}", connection.address));
        let vip = SocketAddr::new(vip.ip(), 81);
        for _ in 0..20 {
            let mut plain = Client::plain(client, vip);
            let says = plain.ask(1).unwrap();
            let (_, told) = says.split_once(" in plain text told ").unwrap();
            assert_eq!(told, format!("{} to {vip}", plain.address));
        }
        assert_eq!(new_flows(&balancer, &format!("{name}-plain")), [("default".to_owned(), 20)]);
    }
}

/// A configuration whose services have a route by name each, or whose backends are told who has connected where these speak before
/// their clients do, so that all of their connections are taken up.
fn taken_up(text: &str) -> String {
    let mut services = text.split("[[service]]");
    let mut all = services.next().unwrap().to_owned();
    for service in services {
        if service.contains("-echo") {
            let told = service.replace(", weight", ", proxy-protocol = \"v2\", weight");
            write!(all, "[[service]]{told}").unwrap();
            continue;
        }
        let address = service.split("address = \"").nth(2).unwrap().split('"').next().unwrap();
        let route = format!(
            "[[service.name-route]]\nnames = [\"named.test\"]\nbackends = [{{ address = \"{address}\" }}]\n"
        );
        write!(all, "[[service]]{service}{route}").unwrap();
    }
    all
}

pub(crate) fn connections_that_are_taken_up_outlive_whatever_becomes_of_the_control_plane(
    attach: Attach,
) {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = Servers::start_told(&lab);
    let text = taken_up(&restart::config(&lab, attach.asked, 20_000));
    let text = text.replacen("[settings]", "[settings]\non-exit = \"keep\"", 1);
    let mut balancer = Balancer::start(&lab.balancer, &text);
    let traffic = Traffic::start(&lab);
    assert!(balancer.verdict("streamed") > 0);
    let flows = |balancer: &Balancer| balancer.sum("web", "new_flows");
    let folder = tempfile::tempdir().unwrap();
    let dies = folder.path().join("dies");
    let script = "#!/bin/sh\nprintf '\"ready\"\\n' >&0; head -c 1 >/dev/null; exit 1\n";
    program::script(&dies, script).unwrap();
    let mut counted = 0;
    for round in 0..scale(2, 6) {
        traffic.wait_for_more_than(traffic.answered() + 20);
        balancer.reload(&text.replace("weight = 50", &format!("weight = {}", 51 + round)));
        balancer.daemon.take().unwrap().kill().unwrap();
        traffic.wait_for_more_than(traffic.answered() + 20);
        balancer.run();
        let now = flows(&balancer);
        assert!(now > counted, "{now} after {counted}");
        counted = now;
        let (code, said) = balancer.ask(&["--json", "upgrade", BINARY]);
        assert_eq!(code, 0, "{said}");
        let now = flows(&balancer);
        assert!(now >= counted, "{now} after {counted}");
        counted = now;
        traffic.wait_for_more_than(traffic.answered() + 20);
        // A binary that does not come to run changes nothing, also where everything was its own already.
        assert_ne!(balancer.ask(&["upgrade", "/bin/false"]).0, 0);
        assert_ne!(balancer.ask(&["upgrade", dies.to_str().unwrap()]).0, 0);
        let status = balancer.status();
        assert_eq!(status["state"], "ok", "{status}");
        // The process that was upgraded to is nobody's child here: it is ended as by a signal, which keeps all.
        let pid = i32::try_from(status["pid"].as_i64().unwrap()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        wait_until(DEADLINE, "its end", || balancer.ask(&["status"]).0 == 4).unwrap();
        balancer.daemon.take().unwrap().wait(DEADLINE).unwrap();
        traffic.wait_for_more_than(traffic.answered() + 20);
        balancer.run();
    }
    traffic.end().tell("reload, kill -9, upgrade, stop and start, streamed", attach.asked);
    let folder = workers(&balancer);
    assert!(folder.exists());
    assert_eq!(balancer.ask(&["stop"]).0, 0);
    assert!(!folder.exists(), "nobody takes up anything any more");
}

/// What has gone through a service, in bytes and packets.
fn moved(balancer: &Balancer, name: &str) -> [u64; 4] {
    ["bytes_in", "bytes_out", "packets_in", "packets_out"].map(|of| balancer.sum(name, of))
}

/// Counters that fall are taken as begun anew by whoever draws rates from them.
#[test]
fn what_an_idle_connection_has_moved_stays_counted_whoever_takes_over() {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = web_servers(&lab);
    let text = web(&lab, "");
    let text = text.replacen("[settings]", "[settings]\non-exit = \"keep\"", 1);
    let mut balancer = Balancer::start(&lab.balancer, &text);
    let [(name, vip), _] = vips();
    let client = &lab.client().netns;
    let mut held = HttpConnection::open(client, vip, &Connect::default()).unwrap();
    held.download(500_000, 1).unwrap();
    wait_until(DEADLINE, "what it has moved", || moved(&balancer, name)[1] > 500_000).unwrap();
    let before = moved(&balancer, name);
    balancer.daemon.take().unwrap().kill().unwrap();
    balancer.run();
    assert_eq!(moved(&balancer, name), before, "after another start");
    let (code, said) = balancer.ask(&["--json", "upgrade", BINARY]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(moved(&balancer, name), before, "after an upgrade");
    wait_until(DEADLINE, "it to be there", || balancer.sum(name, "live_flows") == 1).unwrap();
    held.download(1_000, 1).unwrap();
    drop(held);
    wait_until(DEADLINE, "its end", || balancer.sum(name, "live_flows") == 0).unwrap();
    let has_all = || moved(&balancer, name)[1] > before[1] + 1_000;
    wait_until(DEADLINE, "what it has moved since", has_all).unwrap();
    assert_eq!(balancer.ask(&["stop"]).0, 0);
}

/// The web servers of the lab, with connections taken up.
fn web(lab: &Lab, more: &str) -> String {
    let text = taken_up(&config(lab, TC.asked));
    text.replace("protocol = \"both\"", "protocol = \"tcp\"").replace("max-flows = 20000", more)
}

/// Who takes up an instance's connections: their processes.
fn pids(lab: &Lab, balancer: &Balancer) -> Vec<i32> {
    let said =
        lab.balancer.output("ss", &["-Hxlp", "src", &format!("{}/*", workers(balancer).display())]);
    let said = said.unwrap();
    let pids = said.lines().filter_map(|line| line.split("pid=").nth(1)?.split(',').next());
    pids.map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn another_takes_up_connections_where_one_is_killed() {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = web_servers(&lab);
    let mut balancer = Balancer::start(&lab.balancer, &web(&lab, ""));
    let client = &lab.client().netns;
    let mut counted = 0;
    for _ in 0..3 {
        let [(name, vip), _] = vips();
        let mut held = HttpConnection::open(client, vip, &Connect::default()).unwrap();
        held.download(100_000, 1).unwrap();
        let [pid] = pids(&lab, &balancer)[..] else { panic!("{:?}", pids(&lab, &balancer)) };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("CapPrm:\t0000000000000000\n"), "it may do nothing: {status}");
        let process = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
        assert!(held.download(1_000, 1).is_err(), "its connections end with it");
        wait_until(DEADLINE, "another one", || {
            pids(&lab, &balancer).first().is_some_and(|other| *other != pid)
        })
        .unwrap();
        wait_until(DEADLINE, "new connections", || {
            http_get(client, vip, "/", &Connect::default()).is_ok()
        })
        .unwrap();
        let tally = Load::of_count(vip, 50).run(client);
        assert_eq!(tally.failed(), 0, "{:?}", tally.failures);
        let now = balancer.sum(name, "new_flows");
        assert!(now >= counted + 51, "{now} after {counted}: what it has moved stays counted");
        counted = now;
    }
    assert_eq!(balancer.status()["state"], "ok");
    balancer.end();
    assert!(!workers(&balancer).exists());
}

#[test]
fn a_backend_that_does_not_answer_is_passed_over_and_none_at_all_is_told() {
    let lab = Lab::new(Options::default()).unwrap();
    let mut servers = web_servers(&lab);
    let balancer = Balancer::start(&lab.balancer, &web(&lab, "events = true"));
    let client = &lab.client().netns;
    servers.remove(0);
    for (name, vip) in vips() {
        let tally = Load::of_count(vip, 60).run(client);
        assert_eq!((tally.failed(), tally.answered()), (0, 60), "{:?}", tally.failures);
        assert_eq!(tally.by_backend.len(), 2);
        let refused = || balancer.backend(name, 0)["passive"]["refused"].as_u64().unwrap();
        wait_until(DEADLINE, "what the first has refused", || refused() > 5).unwrap();
    }
    servers.clear();
    for (_, vip) in vips() {
        let error = http_get(client, vip, "/", &Connect::default()).unwrap_err();
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        assert_eq!(kind, Some(ErrorKind::ConnectionReset), "{error:#}");
    }
}

/// A server that answers no SYN for now: as many wait to be accepted as it lets wait.
fn full(place: SocketAddr) -> (socket2::Socket, Vec<TcpStream>) {
    let server = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    server.set_reuse_address(true).unwrap();
    server.bind(&place.into()).unwrap();
    server.listen(0).unwrap();
    let wait = Duration::from_millis(300);
    let waiting: Vec<_> =
        std::iter::from_fn(|| TcpStream::connect_timeout(&place, wait).ok()).take(8).collect();
    assert!(waiting.len() < 8, "it answers all that come");
    (server, waiting)
}

#[test]
fn the_only_backend_has_as_long_to_answer_as_a_connection_may_take_to_open() {
    let lab = Lab::new(Options::default()).unwrap();
    let [(_, vip), _] = vips();
    let place = backends(&lab, vip)[0].0;
    let text = web(&lab, "");
    // What `taken_up` leads there by name is the first one; it is all that there is now.
    let others: Vec<_> =
        backends(&lab, vip)[1..].iter().map(|(place, _)| format!("\"{place}\"")).collect();
    let is_other = |line: &&str| others.iter().any(|other| line.contains(other));
    let text: Vec<&str> = text.lines().filter(|line| !is_other(line)).collect();
    let _balancer = Balancer::start(&lab.balancer, &text.join("\n"));
    let host = &lab.backends[0].netns;
    let (server, waiting) = host.run(|| full(place));
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    let began = Instant::now();
    let mut client = lab.client().netns.run(|| TcpStream::connect(vip)).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    // Who speaks first, and not TLS, names nobody.
    client.write_all(b"hello").unwrap();
    // A SYN is sent again after 1 s and 3 s, and later, when there is room.
    std::thread::sleep(Duration::from_secs(4));
    drop(waiting);
    let answering = std::thread::spawn(move || {
        // Those that have waited are closed already, and are not answered.
        let accepted = std::iter::from_fn(|| server.accept().ok());
        accepted.map(|(accepted, _)| accepted).find(|accepted| {
            let mut said = [0; 5];
            let mut accepted: &socket2::Socket = accepted;
            accepted.read_exact(&mut said).is_ok() && accepted.write_all(&said).is_ok()
        })
    });
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    let took = began.elapsed();
    assert_eq!(&answer, b"hello");
    assert!(took > Duration::from_secs(4) && took < Duration::from_secs(10), "{took:?}");
    drop(answering.join().unwrap());
}

#[test]
fn connections_that_are_taken_up_are_ended_as_others_are() {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = web_servers(&lab);
    let text = web(&lab, "");
    let mut balancer = Balancer::start(&lab.balancer, &text);
    let client = &lab.client().netns;
    let [(name, vip), _] = vips();
    let open = || {
        let connection = HttpConnection::open(client, vip, &Connect::default());
        connection.and_then(|mut held| held.download(1_000, 1).map(|_| held))
    };
    let closed = |balancer: &Balancer, why: &str, count: u64| {
        wait_until(DEADLINE, why, || {
            let closed = &balancer.status()["flow_table"]["events"]["closed"][why];
            closed.as_u64() == Some(count) && balancer.sum(name, "live_flows") == 0
        })
        .unwrap();
    };
    // By hand.
    let mut held: Vec<_> = (0..10).map(|_| open().unwrap()).collect();
    assert_eq!(balancer.sum(name, "live_flows"), 10);
    assert_eq!(balancer.ask(&["flows", "delete", "--service", name]).0, 0);
    assert!(held.iter_mut().all(|held| held.download(1_000, 1).is_err()));
    closed(&balancer, "by_hand", 10);
    // By a list.
    let mut held: Vec<_> = (0..10).map(|_| open().unwrap()).collect();
    let address = lab.client().v4.to_string();
    assert_eq!(balancer.ask(&["deny", "add", &address]).0, 0);
    assert!(held.iter_mut().all(|held| held.download(1_000, 1).is_err()));
    closed(&balancer, "denied", 10);
    assert_eq!(balancer.ask(&["deny", "remove", &address]).0, 0);
    // By their backend, which has left.
    let reset = text.replace("[[service]]\n", "[[service]]\non-backend-removed = \"reset\"\n");
    balancer.reload(&reset);
    let mut held: Vec<_> = (0..10).map(|_| open().unwrap()).collect();
    let second = backends(&lab, vip)[1].0;
    let of_second = balancer.backend(name, 1)["live_flows"].as_u64().unwrap();
    balancer.reload(&reset.replace(&format!("  {{ address = \"{second}\", weight = 30 }},\n"), ""));
    let broken = held.iter_mut().filter_map(|held| held.download(1_000, 1).err()).count();
    assert_eq!(broken as u64, of_second);
    drop(held);
    // By no more than a service may have.
    balancer.reload(&text.replace("[[service]]\n", "[[service]]\nmax-flows = 3\n"));
    let held: Vec<_> = (0..5).map(|_| open()).collect();
    assert_eq!(held.iter().filter(|held| held.is_ok()).count(), 3);
    let refused = |balancer: &Balancer| {
        let services = balancer.status()["services"].take();
        let service = services.as_array().unwrap().iter().find(|s| s["name"] == name).cloned();
        service.unwrap()["refused"]["flow_limit"].as_u64().unwrap_or(0)
    };
    wait_until(DEADLINE, "those that were refused", || refused(&balancer) == 2).unwrap();
    assert_eq!(balancer.status()["refused"]["flow_limit"], 2);
    let (_, said) = balancer.ask(&["limits", "--json"]);
    let limits: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(limits["refused"]["flow_limit"], 2, "{said}");
    // Another process counts on.
    balancer.daemon.take().unwrap().kill().unwrap();
    balancer.run();
    assert_eq!(refused(&balancer), 2);
    drop(held);
    // By doing nothing.
    let idle = "[[service]]\ntimeouts = { tcp-established = \"1s\" }\n";
    balancer.reload(&text.replace("[[service]]\n", idle));
    let opened = wait_until(DEADLINE, "room", || open().is_ok());
    opened.unwrap();
    let stream = client.run(|| TcpStream::connect(vip)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut idle = &stream;
    std::io::Write::write_all(&mut idle, b"GET / HTTP/1.1\r\nHost: vip\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let end = idle.read_to_end(&mut answer);
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(!answer.is_empty());
}

#[test]
fn a_drained_backend_keeps_what_is_taken_up_and_gets_no_more() {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers: Vec<HttpServer> = web_servers(&lab);
    let balancer = Balancer::start(&lab.balancer, &web(&lab, ""));
    let client = &lab.client().netns;
    let [(name, vip), _] = vips();
    let open = |_| HttpConnection::open(client, vip, &Connect::default()).unwrap();
    let mut held: Vec<_> = (0..30).map(open).collect();
    let by: Vec<String> = held.iter_mut().map(|held| held.download(1_000, 1).unwrap()).collect();
    let first = backends(&lab, vip)[0].0.to_string();
    assert_eq!(balancer.ask(&["drain", name, &first]).0, 0);
    let tally = Load::of_count(vip, 60).run(client);
    assert_eq!((tally.failed(), tally.by_backend.get("b1")), (0, None));
    let (code, said) = balancer.ask(&["drains", "--json"]);
    let drains: Value = serde_json::from_str(&said).unwrap();
    let of_first = by.iter().filter(|by| *by == "b1").count();
    assert_eq!((code, &drains["drains"][0]["live_flows"]), (0, &of_first.into()), "{said}");
    let again = held.iter_mut().map(|held| held.download(1_000, 1).unwrap());
    assert_eq!(again.collect::<Vec<_>>(), by);
    drop(held);
    assert_eq!(balancer.ask(&["undrain", name, &first]).0, 0);
    let waited = balancer.ask(&["drain", name, &first, "--wait", "--timeout", "30s"]);
    assert_eq!(waited.0, 0, "{}", waited.1);
}

/// What it costs that connections are taken up, beside packets that are rewritten, is told with `--nocapture`; that all arrives is tested.
#[test]
fn much_arrives_whole_by_packets_and_taken_up() {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = web_servers(&lab);
    let client = &lab.client().netns;
    let [(_, vip), _] = vips();
    for (how, text) in [("packets", config(&lab, TC.asked)), ("taken up", web(&lab, ""))] {
        let mut balancer = Balancer::start(&lab.balancer, &text);
        let time = Duration::from_secs(scale(1, 10));
        let tally = Load { workers: 8, ..Load::of_time(vip, time) }.run(client);
        assert_eq!(tally.failed(), 0, "{:?}", tally.failures);
        let requests = tally.answered() as f64 / tally.elapsed.as_secs_f64();
        let bytes = scale(50_000_000, 1_000_000_000);
        let began = Instant::now();
        download(client, vip, (bytes, 7), &Connect::within(DEADLINE)).unwrap();
        let rate = bytes as f64 * 8.0 / 1e9 / began.elapsed().as_secs_f64();
        println!(
            "{how}: {requests:.0} connections with a request each in a second; {rate:.2} Gbit/s on one"
        );
        balancer.end();
    }
}

//! Connections that this host takes up itself: led by the server that a client names, told of to the backend, and alive whatever becomes
//! of the control plane.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use equipoise_lab::client::{Connect, http_get};
use equipoise_lab::load::Load;
use equipoise_lab::topology::{Lab, Options};
use equipoise_lab::{scale, wait_until};
use serde_json::Value;

use crate::balanced::{
    Attach, BINARY, Balancer, DEADLINE, NATIVE, PORT, TC, backends, echo_servers, service, vips,
    web_servers,
};
use crate::restart::{self, Servers, Traffic};

mod tls;

use tls::{Client, Identity, Secure, Server};

const NAMES: [&str; 4] = ["api.example.com", "x.example.com", "y.x.example.com", "other.org"];

/// A server on each backend, of the family of the VIP; those of `told` are told who has connected.
fn servers(lab: &Lab, identity: &Identity, told: bool) -> Vec<Server> {
    let hosts = lab.backends.iter().flat_map(|host| host.at(PORT).map(|at| (host, at)));
    hosts.map(|(host, at)| Server::start(&host.netns, (&host.name, at), (identity, told))).collect()
}

fn head(attach: Attach) -> String {
    format!("[settings]\nattach = \"{}\"\nmax-flows = 20000\n", attach.asked)
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
    let mut text = head(attach);
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
                    assert_eq!(says, format!("{backend} told nobody says who"), "{server}, {piece}");
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
    balancer.reload(&(head(attach) + &without));
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
    let mut text = head(attach);
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

/// A configuration whose services have a route by name each, so that all of their connections are taken up.
fn taken_up(text: &str) -> String {
    let mut services = text.split("[[service]]");
    let mut all = services.next().unwrap().to_owned();
    for service in services {
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
    let _servers = Servers::start(&lab);
    let text = taken_up(&restart::config(&lab, attach.asked, 20_000));
    let text = text.replacen("[settings]", "[settings]\non-exit = \"keep\"", 1);
    let mut balancer = Balancer::start(&lab.balancer, &text);
    let traffic = Traffic::start(&lab);
    assert!(balancer.verdict("streamed") > 0);
    let flows = |balancer: &Balancer| balancer.sum("web", "new_flows");
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
        // A binary that does not come to run changes nothing.
        assert_ne!(balancer.ask(&["upgrade", "/bin/false"]).0, 0);
        let status = balancer.status();
        assert_eq!(status["state"], "ok", "{status}");
        // The process that was upgraded to is nobody's child here: it is ended as by a signal, which keeps all.
        let pid = i32::try_from(status["pid"].as_i64().unwrap()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        drop(balancer.daemon.take().unwrap().wait_or_kill());
        traffic.wait_for_more_than(traffic.answered() + 20);
        balancer.run();
    }
    traffic.end().tell("reload, kill -9, upgrade, stop and start, streamed", attach.asked);
    let folder = workers(&balancer);
    assert!(folder.exists());
    assert_eq!(balancer.ask(&["stop"]).0, 0);
    assert!(!folder.exists(), "nobody takes up anything any more");
}

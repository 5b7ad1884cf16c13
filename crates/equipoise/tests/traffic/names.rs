//! A name that changes under traffic: new flows follow it at once, and those that are there go on.

use std::net::{Ipv4Addr, SocketAddr};

use equipoise_lab::client::{Connect, EchoConnection, UdpAsker};
use equipoise_lab::dns::{DnsServer, Kind, Says};
use equipoise_lab::topology::{Lab, Options};
use equipoise_lab::{scale, wait_until};
use serde_json::Value;

use crate::balanced::{
    BINARY, Balancer, DEADLINE, PORT, TC, backends, echo_servers, service, udp_servers, vips,
};

/// Runs `equipoise dns lookup` where the system's files say this.
fn looked_up(lab: &Lab, [resolvers, hosts]: [&str; 2], name: &str) -> Value {
    const SCRIPT: &str = "mount --bind \"$1/resolv.conf\" /etc/resolv.conf
        mount --bind \"$1/hosts\" /etc/hosts
        shift; exec \"$@\"";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("resolv.conf"), resolvers).unwrap();
    std::fs::write(folder.path().join("hosts"), hosts).unwrap();
    let mut command = lab.balancer.command("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", SCRIPT, "sh"]);
    command.arg(folder.path()).args([BINARY, "dns", "lookup", name, "--json"]);
    let output = command.output().unwrap();
    let (said, errors) = (output.stdout, String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&said).unwrap_or_else(|error| panic!("{name}: {error}: {errors}"))
}

#[test]
fn the_systems_files_say_who_is_asked_where_the_configuration_does_not() {
    let lab = Lab::new(Options::default()).unwrap();
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
    let server = DnsServer::start_at(&lab.balancer, at).unwrap();
    let names = [
        ("api.corp.example", "10.0.0.1"),
        ("db.corp.example", "10.0.0.2"),
        ("db.lab.example", "10.0.0.3"),
        ("mail.lab.example", "10.0.0.4"),
        ("known.corp.example", "10.0.0.5"),
    ];
    names.iter().for_each(|(name, address)| server.host(name, &[address], 60));
    let files = ["nameserver 127.0.0.1\nsearch corp.example lab.example\n", "10.9.9.9 known\n"];
    let told = |name: &str| {
        let answer = looked_up(&lab, files, name);
        let first = &answer["addresses"][0]["address"];
        first.as_str().or(answer["error"]["kind"].as_str()).unwrap().to_owned()
    };
    for (name, expected) in [
        ("api", "10.0.0.1"),
        ("db", "10.0.0.2"),
        ("mail", "10.0.0.4"),
        ("mail.lab.example", "10.0.0.4"),
        ("known", "10.9.9.9"),
        ("known.corp.example.", "10.0.0.5"),
        ("api.", "unknown-host"),
        ("nobody", "unknown-host"),
    ] {
        assert_eq!(told(name), expected, "{name}");
    }
    // Without a search, a name is what it says.
    let alone = looked_up(&lab, ["nameserver 127.0.0.1\n", ""], "known");
    assert_eq!(alone["error"]["kind"], "unknown-host");
}

#[test]
fn a_name_that_changes_moves_new_flows_and_no_established_one() {
    let lab = Lab::new(Options::default()).unwrap();
    let (_echoes, _udp) = (echo_servers(&lab), udp_servers(&lab));
    let server = DnsServer::start_in(&lab.balancer, Ipv4Addr::LOCALHOST.into()).unwrap();
    // The name of each service stands for one backend at a time.
    let host = |name: &str| format!("{name}.internal");
    let stands_for = |number: usize| {
        for (name, vip) in vips() {
            let address = backends(&lab, vip)[number].0.ip().to_string();
            server.host(&host(name), &[&address], 1);
        }
    };
    stands_for(0);
    let services = vips().map(|(name, vip)| {
        let named = format!("{{ host = \"{}\", port = {PORT}, refresh = \"200ms\" }}", host(name));
        service(name, vip, &[]).replace("backends = [\n", &format!("backends = [{named}"))
    });
    let settings = format!(
        "[settings]\nattach = \"{}\"\nmax-flows = 20000\n[settings.dns]\nresolvers = [\"{}\"]\n",
        TC.asked,
        server.address()
    );
    let balancer = Balancer::start(&lab.balancer, &(settings + &services.concat()));
    let client = &lab.client().netns;
    let live = scale(60, 500);
    let mut established = Vec::new();
    for (_, vip) in vips() {
        let open = |_| EchoConnection::open(client, vip, &Connect::default()).unwrap();
        established.extend((0..live).map(open));
    }
    assert!(established.iter().all(|connection| connection.backend() == "b1"));
    let silent = established.split_off(established.len() / 2);
    let askers = vips().map(|(_, vip)| UdpAsker::open(client, vip, &Connect::default()).unwrap());
    askers.iter().for_each(|asker| assert_eq!(asker.ask(b"?").unwrap(), "b1"));

    let mut fresh = 0;
    for (number, backend) in [(1, "b2"), (2, "b3"), (1, "b2")] {
        stands_for(number);
        for (name, vip) in vips() {
            let address: Value = backends(&lab, vip)[number].0.to_string().into();
            // All that come meanwhile are served, by one or the other.
            wait_until(DEADLINE, "new flows at the other address", || {
                fresh += 1;
                let mut new = EchoConnection::open(client, vip, &Connect::default()).unwrap();
                new.ask(b"who?").unwrap();
                new.backend() == backend
            })
            .unwrap();
            let told = balancer.backend(name, 0);
            assert_eq!(told["address"], address);
            assert_eq!(told["names"], serde_json::json!([format!("{}:{PORT}", host(name))]));
        }
        for connection in &mut established {
            connection.ask(b"still there?").unwrap();
        }
        askers.iter().for_each(|asker| assert_eq!(asker.ask(b"?").unwrap(), backend));
    }
    assert!(fresh > 6, "the name changes while they come");
    // Those that have said nothing all the while, too.
    let mut all: Vec<_> = established.into_iter().chain(silent).collect();
    for connection in &mut all {
        connection.ask(b"and now?").unwrap();
        assert_eq!(connection.backend(), "b1");
    }
    assert_eq!(balancer.status()["state"], "ok");
    let (code, said) = balancer.ask(&["dns", "--json"]);
    assert_eq!(code, 0, "{said}");
    let names: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&names[0]["name"], &names[0]["consecutive_failures"]),
        (&host("web").into(), &0.into())
    );
}

/// The process that is to come next waits for names that nobody answers, and nobody waits for it meanwhile.
#[test]
fn an_upgrade_waits_for_names_while_the_process_before_still_answers() {
    let lab = Lab::new(Options::default()).unwrap();
    let _echoes = echo_servers(&lab);
    let server = DnsServer::start_in(&lab.balancer, Ipv4Addr::LOCALHOST.into()).unwrap();
    let (name, vip) = vips()[0];
    let host = "web.internal";
    server.host(host, &[&backends(&lab, vip)[0].0.ip().to_string()], 3600);
    let named = format!("{{ host = \"{host}\", port = {PORT}, refresh = \"1h\" }}");
    let service =
        service(name, vip, &[]).replace("backends = [\n", &format!("backends = [{named}"));
    let settings = format!(
        "[settings]\nattach = \"{}\"\nmax-flows = 20000\n[settings.dns]\nresolvers = [\"{}\"]\n",
        TC.asked,
        server.address()
    );
    let balancer = Balancer::start(&lab.balancer, &(settings + &service));
    let first = balancer.status()["pid"].clone();
    for kind in [Kind::V4, Kind::V6] {
        server.says(host, kind, Says::Silence);
    }
    let asked = server.asked(host);
    let mut upgrade = balancer.command().args(["upgrade", BINARY]).spawn().unwrap();
    wait_until(DEADLINE, "the next process asks", || server.asked(host) > asked).unwrap();
    assert_eq!(balancer.status()["pid"], first);
    assert!(upgrade.wait().unwrap().success());
    let status = balancer.status();
    assert_ne!(status["pid"], first);
    // What it stood for is what it is known for.
    let client = &lab.client().netns;
    EchoConnection::open(client, vip, &Connect::default()).unwrap().ask(b"who?").unwrap();
    assert_eq!(balancer.ask(&["stop"]).0, 0);
}

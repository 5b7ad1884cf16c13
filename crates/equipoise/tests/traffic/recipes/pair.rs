//! Two balancers with one configuration: what survives when the way to the VIP moves from one to the other, and what does not.
//!
//! A client behind a router, two balancers beside each other, three backends. `docs/two-balancers.md` is followed first, keepalived and all; then
//! each row of its table is brought about by itself.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use equipoise_lab::client::{Connect, HttpConnection};
use equipoise_lab::link::{self, End, Gro};
use equipoise_lab::load::Load;
use equipoise_lab::serve::HttpServer;
use equipoise_lab::topology::{Host, Lab, Options};
use equipoise_lab::{Daemon, Netns, wait_until};

use super::stage::Stage;
use super::{Looked, never};
use crate::balanced::{BINARY, Balancer, DEADLINE, PORT, vips, web_servers};
use crate::blocks::Document;

struct Pair {
    /// The first balancer is the lab's own.
    lab: Lab,
    second: Netns,
    router: Netns,
    client: Netns,
    /// The client's next port. None comes twice: where a connection has ended by the other balancer, the one that does not know keeps its port.
    next_port: Cell<u16>,
}

impl Pair {
    fn new() -> Self {
        let options = Options { clients: 2, backends: 3, vips: Vec::new(), ..Options::default() };
        let lab = Lab::new(options).unwrap();
        let [second, router, client] = [(); 3].map(|()| Netns::new().unwrap());
        let join = |netns: &Netns, device: &str, port: &str, bridge: &str| {
            let end = End { netns, device, gro: Gro::On };
            let other = End { netns: &lab.switch, device: port, gro: Gro::On };
            link::veth(end, other, lab.properties()).unwrap();
            lab.switch.ip(&format!("link set {port} master {bridge}")).unwrap();
        };
        join(&second, "front", "second-front", "clients");
        join(&second, "back", "second-back", "backends");
        join(&router, "eth0", "router", "clients");
        let end = End { netns: &router, device: "eth1", gro: Gro::On };
        link::veth(end, End { netns: &client, device: "eth0", gro: Gro::On }, lab.properties())
            .unwrap();
        second.ip("addr add 198.51.100.2/24 dev front\naddr add 10.0.0.2/24 dev back").unwrap();
        router.ip("addr add 198.51.100.254/24 dev eth0\naddr add 192.0.2.1/24 dev eth1").unwrap();
        router.sysctl("net/ipv4/ip_forward", "1").unwrap();
        client.ip("addr add 192.0.2.11/24 dev eth0\nroute add default via 192.0.2.1").unwrap();
        for (netns, devices) in
            [(&second, &["front", "back"][..]), (&router, &["eth0", "eth1"]), (&client, &["eth0"])]
        {
            devices.iter().for_each(|device| link::wait_ready(netns, device).unwrap());
        }
        for balancer in [&lab.balancer, &second] {
            balancer.ip("route add 192.0.2.0/24 via 198.51.100.254").unwrap();
        }
        Self { lab, second, router, client, next_port: Cell::new(20_000) }
    }

    /// Leads the VIP to a balancer, by the last number of its addresses, and so the backends' way back.
    fn lead_to(&self, last: u8) {
        self.router.ip(&format!("route replace 203.0.113.10/32 via 198.51.100.{last}")).unwrap();
        for backend in &self.lab.backends {
            backend.netns.ip(&format!("route replace default via 10.0.0.{last}")).unwrap();
        }
    }

    fn connect(&self) -> HttpConnection {
        let port = self.next_port.get();
        self.next_port.set(port + 1);
        let from = Connect { source_port: Some(port), ..Connect::within(Duration::from_secs(5)) };
        HttpConnection::open(&self.client, vips()[0].1, &from).unwrap()
    }

    /// Opens connections by the first balancer, leads the VIP to the second, and says of each connection of which backend it is and whether it goes on.
    /// `between` is done before the way is led elsewhere, `then` once it is.
    fn moved(&self, between: impl FnOnce(), then: impl FnOnce(&mut [Named])) -> Moved {
        self.lead_to(1);
        let mut open: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let mut connection = self.connect();
                (connection.ask("/").unwrap().backend, connection)
            })
            .collect();
        between();
        self.lead_to(2);
        then(&mut open);
        let mut moved = Moved::default();
        for (number, (backend, connection)) in open.iter_mut().enumerate() {
            let answer = connection.ask("/").map(|answer| answer.backend);
            let goes_on = answer.as_ref().is_ok_and(|other| other == backend);
            moved.0.entry(backend.clone()).or_default()[usize::from(goes_on)] += 1;
            if !goes_on {
                moved.1.push(format!("{number}, of {backend}: {answer:?}"));
            }
        }
        moved
    }
}

/// A connection that stays open, and its backend.
type Named = (String, HttpConnection);

const CONNECTIONS: usize = 60;

/// By backend, how many connections broke and how many went on; and how those that broke did.
#[derive(Debug, Default)]
struct Moved(BTreeMap<String, [usize; 2]>, Vec<String>);

impl Moved {
    fn go_on(&self) -> usize {
        self.0.values().map(|[_, go_on]| go_on).sum()
    }
}

/// The service of the page, with more keys.
fn service(more: &str) -> String {
    let backends: String =
        (11..14).map(|last| format!("  {{ address = \"10.0.0.{last}:{PORT}\" }},\n")).collect();
    format!(
        "[settings]\nattach = \"tc\"\nmax-flows = 20000\n[[service]]\nname = \"web\"\n\
         listen = {{ interfaces = [\"front\"], address = \"203.0.113.10\", port = 80 }}\n\
         backends = [\n{backends}]\n{more}\n"
    )
}

#[test]
fn connections_outlive_a_fail_over_between_two_balancers() {
    let pair = Pair::new();
    let _servers = web_servers(&pair.lab);
    let interfaces = [("eth0", "front"), ("eth1", "back")];
    let mut stage = Stage::default();
    stage.host("lb1", &pair.lab.balancer, &interfaces);
    stage.host("lb2", &pair.second, &interfaces);
    stage.other_host("router", &pair.router);
    for host in &pair.lab.backends {
        stage.other_host(&host.name, &host.netns);
    }
    let (mut looked, mut open) = (Looked::default(), Vec::new());
    let mut load = None;
    let all_go_on = |open: &mut Vec<Named>| {
        for (backend, connection) in open {
            assert_eq!(connection.ask("/").unwrap().backend, *backend);
        }
    };
    let has_both = |stage: &Stage, host: &str| {
        let begun = Instant::now();
        wait_until(DEADLINE, "both addresses", || {
            let addresses = stage.ask(host, "ip -brief address show");
            ["198.51.100.100/24", "10.0.0.254/24"].iter().all(|address| addresses.contains(address))
        })
        .unwrap();
        begun.elapsed()
    };
    let slot = |stage: &Stage, host: &str| {
        let told = stage.ask(host, "equipoise explain tcp 192.0.2.11:4242 203.0.113.10:80");
        let line = told.lines().find(|line| line.contains("slot")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("no slot: {told}"))
    };
    stage.follow(&Document::read("docs/two-balancers.md"), never, |stage, command| {
        if looked.at("lb2# equipoise explain", command) {
            assert_eq!(slot(stage, "lb1"), slot(stage, "lb2"));
        } else if looked.at("router# ip route replace 203.0.113.10/32 via 198.51.100.1", command) {
            open.extend((0..60).map(|_| {
                let mut connection = pair.connect();
                (connection.ask("/").unwrap().backend, connection)
            }));
            let forever = Duration::from_secs(3600);
            let connect = Connect::within(Duration::from_secs(2));
            let load_of = Load { connect, ..Load::of_time(vips()[0].1, forever) };
            load = Some(load_of.start(&pair.client));
        } else if looked.at("b3# ip route replace default via 10.0.0.2", command) {
            all_go_on(&mut open);
            let flows = stage.ask("lb2", "equipoise flows --json");
            let flows: serde_json::Value = serde_json::from_str(&flows).unwrap();
            assert!(flows.as_array().map_or(0, Vec::len) >= 60, "they go by the second balancer");
        } else if looked.at("lb2# keepalived", command) {
            has_both(stage, "lb1");
        } else if looked.at("b3# ip route replace default via 10.0.0.254", command) {
            all_go_on(&mut open);
        } else if looked.at("lb1# equipoise drain --self", command) {
            println!("over to lb2 in {:?}", has_both(stage, "lb2"));
            all_go_on(&mut open);
        } else if looked.at("lb1# equipoise undrain --self", command) {
            println!("back to lb1 in {:?}", has_both(stage, "lb1"));
            all_go_on(&mut open);
        }
    });
    // As if somebody had pulled the plug of the first.
    let begun = Instant::now();
    pair.lab.balancer.ip("link set front down\nlink set back down").unwrap();
    has_both(&stage, "lb2");
    all_go_on(&mut open);
    println!("over to lb2 after a failure in {:?}", begun.elapsed());
    let tally = load.take().unwrap().stop();
    println!("{tally:?}");
    // Four at a time, of which each may have waited for an answer at each of five moves; all that came later was answered.
    assert!(tally.failed() <= 20, "{:?}", tally.failures);
    assert!(tally.answered() > 1000, "{tally:?}");
    assert_eq!(looked.0.len(), 7, "{:?}", looked.0);
}

/// Each row of the page's table, on two balancers that go on running.
#[test]
fn a_peer_knows_what_configuration_and_packet_tell_and_nothing_else() {
    let pair = Pair::new();
    let _servers = web_servers(&pair.lab);
    // In the modes that keep the VIP, backends have it, too.
    let at_vip = |host: &Host| {
        for (key, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
            host.netns.sysctl(&format!("net/ipv4/conf/all/{key}"), value).unwrap();
        }
        host.netns.ip("addr add 203.0.113.10/32 dev lo").unwrap();
        HttpServer::start(&host.netns, &host.name, &[vips()[0].1]).unwrap()
    };
    let at_vip: Vec<_> = pair.lab.backends.iter().map(at_vip).collect();
    let daemons: Vec<_> = pair.lab.backends.iter().map(decapsulate).collect();
    let mut first = Balancer::start(&pair.lab.balancer, &service(""));
    let mut second = Balancer::start(&pair.second, &service(""));
    let mut moved = |text: &str| {
        first.reload(text);
        second.reload(text);
        pair.moved(|| {}, |_| {})
    };

    let all = ["affinity = \"source-ip\"", "mode = \"full-nat\"\nsnat-addresses = [\"10.9.9.9\"]"];
    for more in all {
        let moved = moved(&service(more));
        assert_eq!(moved.go_on(), CONNECTIONS, "{more}: {moved:?}");
    }
    for mode in ["dsr", "ipip", "gue"] {
        let text = service(&format!("mode = \"{mode}\"")).replace(&format!(":{PORT}\""), ":80\"");
        let moved = moved(&text);
        assert_eq!(moved.go_on(), CONNECTIONS, "{mode}: {moved:?}");
    }
    for more in ["on-unknown = \"reset\"", "mode = \"full-nat\""] {
        let moved = moved(&service(more));
        assert_eq!(moved.go_on(), 0, "{more}: {moved:?}");
    }
    for algorithm in ["random", "round-robin", "least-connections"] {
        let moved = moved(&service(&format!("algorithm = \"{algorithm}\"")));
        // One in three: 20 of 60, within four standard deviations.
        assert!((5..=35).contains(&moved.go_on()), "{algorithm}: {moved:?}");
    }
    let moved_alike = moved(&service(""));
    assert_eq!(moved_alike.go_on(), CONNECTIONS, "{moved_alike:?}");

    // A flow that the peer has taken up is an established one with the first acknowledgement of an answer, and found again when it has been forgotten.
    let moved = pair.moved(
        || {},
        |open| {
            wait_until(DEADLINE, "established flows", || {
                open.iter_mut().for_each(|(_, connection)| drop(connection.ask("/").unwrap()));
                second.status()["flow_table"]["established"].as_u64() >= Some(CONNECTIONS as u64)
            })
            .unwrap();
            let (code, said) = second.ask(&["flows", "delete", "--service", "web"]);
            assert_eq!(code, 0, "{said}");
        },
    );
    assert_eq!(moved.go_on(), CONNECTIONS, "{moved:?}");

    let drain = || {
        for balancer in [&first, &second] {
            let (code, said) = balancer.ask(&["drain", "web", "10.0.0.11:8080"]);
            assert_eq!(code, 0, "{said}");
        }
    };
    let moved = pair.moved(drain, |_| {});
    assert_eq!(moved.0["b1"][1], 0, "{moved:?}");
    // A slot in fifty may have moved though it was none of that backend's.
    assert!(moved.0["b2"][0] + moved.0["b3"][0] <= 4, "{moved:?}");
    drop(at_vip);
    drop(daemons);
}

/// `equipoise decap` on a backend that has the VIP, for packets of either balancer.
struct Decapsulating {
    daemon: Option<Daemon>,
    clean: Command,
}

fn decapsulate(host: &Host) -> Decapsulating {
    let instance = format!("pair-{}-{}", std::process::id(), host.name);
    let command = |arguments: &[&str]| {
        let mut command = host.netns.command(BINARY);
        command.args(["decap", "--instance", &instance]).args(arguments);
        command
    };
    let from = ["--from", "198.18.0.0/15", "10.0.0.1", "10.0.0.2"];
    let run = [&["-i", "eth0", "--address", "203.0.113.10"][..], &from].concat();
    let mut daemon = Daemon::start(command(&run)).unwrap();
    daemon.wait_for_log("decapsulating: instance", DEADLINE).unwrap();
    Decapsulating { daemon: Some(daemon), clean: command(&["--clean"]) }
}

impl Drop for Decapsulating {
    fn drop(&mut self) {
        let ended = self.daemon.take().map(|daemon| daemon.stop(DEADLINE));
        if std::thread::panicking() {
            let _ = self.clean.output();
        } else if let Some(ended) = ended {
            assert!(ended.unwrap().status.success());
        }
    }
}

/// What the page says of backends that speak first.
#[test]
fn a_backend_that_speaks_before_its_client_is_not_understood_by_a_peer() {
    let pair = Pair::new();
    let backend = &pair.lab.backends[0];
    let others = "  { address = \"10.0.0.12:8080\" },\n  { address = \"10.0.0.13:8080\" },\n";
    let alone = service("").replace(others, "");
    let _first = Balancer::start(&pair.lab.balancer, &alone);
    let _second = Balancer::start(&pair.second, &alone);
    let at = SocketAddr::from((backend.v4, PORT));
    let listener = backend.netns.run(|| TcpListener::bind(at)).unwrap();
    let open = || {
        pair.lead_to(1);
        let near = pair.client.run(|| TcpStream::connect(vips()[0].1)).unwrap();
        let mut far = listener.accept().unwrap().0;
        far.write_all(b"hello").unwrap();
        let mut read = [0; 5];
        (&near).read_exact(&mut read).unwrap();
        pair.lead_to(2);
        near.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        far.set_read_timeout(Some(DEADLINE)).unwrap();
        (near, far)
    };
    let mut read = [0; 5];

    // It is not heard, and says it again and again; with the client's next packet all is well.
    let (mut near, mut far) = open();
    far.write_all(b"news!").unwrap();
    let nothing = near.read_exact(&mut read).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    near.set_read_timeout(Some(DEADLINE)).unwrap();
    near.write_all(b"hello").unwrap();
    far.read_exact(&mut read).unwrap();
    near.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"news!");

    // Where clients know a way to backends, theirs is the RST of a host that knows no such connection.
    let (_near, mut far) = open();
    pair.router.ip("route add 10.0.0.0/24 via 198.51.100.2").unwrap();
    far.write_all(b"news!").unwrap();
    assert_eq!(far.read(&mut read).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

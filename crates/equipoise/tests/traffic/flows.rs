//! What becomes of flows: when their backend leaves, when their port is used again, and without a
//! control plane. Each hook has its own programs, so each is asked.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use equipoise_lab::client::{Connect, EchoConnection, UdpAsker, download, http_get};
use equipoise_lab::load::Load;
use equipoise_lab::serve::HttpServer;
use equipoise_lab::topology::{Lab, Options};
use equipoise_lab::{scale, wait_until};

use crate::balanced::{
    Attach, Balanced, Balancer, DEADLINE, PORT, backends, echo_servers, settings, vips, web_servers,
};

/// A service on a VIP for these backends, with further lines.
fn service(vip: SocketAddr, backends: &[SocketAddr], lines: &str) -> String {
    let backends: Vec<_> = backends.iter().map(|b| format!("{{ address = \"{b}\" }}")).collect();
    format!(
        "[[service]]\nname = \"flows{}\"\nbackends = [{}]\n\
         listen = {{ interfaces = [\"front\"], address = \"{}\", port = {}, protocol = \"both\" }}\n{lines}\n",
        vip.is_ipv6(),
        backends.join(", "),
        vip.ip(),
        vip.port()
    )
}

/// Both families, each with one backend of the lab.
fn one_backend(attach: Attach, lab: &Lab, number: usize, lines: &str) -> String {
    let mut text = settings(attach.asked);
    for (_, vip) in vips() {
        text += &service(vip, &[backends(lab, vip)[number].0], lines);
    }
    text
}

pub(crate) fn a_removed_backend_with_reset_makes_a_reading_client_fail_at_once(attach: Attach) {
    let mut balanced = Balanced::new(attach, Options::default());
    let lines = "on-backend-removed = \"reset\"";
    let config = |number| one_backend(attach, &balanced.lab, number, lines);
    let [first, second] = [config(0), config(1)];
    balanced.balancer.reload(&first);
    let client = balanced.client().clone();
    let streams: Vec<TcpStream> = vips()
        .into_iter()
        .flat_map(|(_, vip)| std::iter::repeat_n(vip, 5))
        .map(|vip| client.run(|| TcpStream::connect_timeout(&vip, DEADLINE)).unwrap())
        .collect();
    wait_until(DEADLINE, "established flows", || {
        balanced.balancer.status()["flow_table"]["established"] == 10
    })
    .unwrap();
    std::thread::scope(|scope| {
        let readers: Vec<_> = streams
            .into_iter()
            .map(|mut stream| {
                scope.spawn(move || {
                    stream.set_read_timeout(Some(DEADLINE)).unwrap();
                    (stream.read(&mut [0; 16]).map_err(|error| error.kind()), Instant::now())
                })
            })
            .collect();
        balanced.balancer.reload(&second);
        let removed = Instant::now();
        for reader in readers {
            let (read, at) = reader.join().unwrap();
            assert_eq!(read, Err(ErrorKind::ConnectionReset));
            let took = at.saturating_duration_since(removed);
            assert!(took < Duration::from_secs(1), "{took:?}");
        }
    });
    // The backend's ends are gone as well.
    let first = &balanced.lab.backends[0].netns;
    wait_until(DEADLINE, "the backend's ends to be reset", || {
        let left = ["ss", "-Htn", "state", "established"];
        first.output(left[0], &left[1..]).unwrap().trim().is_empty()
    })
    .unwrap();
    assert_eq!(balanced.balancer.status()["flow_table"]["events"]["closed"]["backend_gone"], 10);
}

pub(crate) fn a_removed_backend_that_is_kept_ends_its_downloads_well(attach: Attach) {
    let mut balanced = Balanced::new(attach, Options::default());
    for (number, (name, vip)) in vips().into_iter().enumerate() {
        let [first, second] = [0, 1].map(|backend| one_backend(attach, &balanced.lab, backend, ""));
        balanced.balancer.reload(&first);
        let client = balanced.client().clone();
        std::thread::scope(|scope| {
            const LENGTH: u64 = 300_000_000;
            let seed = number as u64;
            let long =
                scope.spawn(move || download(&client, vip, (LENGTH, seed), &Connect::default()));
            wait_until(DEADLINE, &format!("the download over {name}"), || {
                balanced.balancer.status()["flow_table"]["established"] == 1
            })
            .unwrap();
            balanced.balancer.reload(&second);
            assert!(!long.is_finished(), "the download was over before the backend left");
            assert_eq!(long.join().unwrap().unwrap(), "b1");
        });
    }
}

pub(crate) fn a_udp_client_of_a_removed_backend_is_answered_by_another(attach: Attach) {
    let mut balanced = Balanced::new(attach, Options::default());
    let [first, second] = [0, 1].map(|backend| one_backend(attach, &balanced.lab, backend, ""));
    balanced.balancer.reload(&first);
    let askers: Vec<_> = vips()
        .into_iter()
        .flat_map(|(_, vip)| std::iter::repeat_n(vip, 20))
        .map(|vip| UdpAsker::open(balanced.client(), vip, &Connect::default()).unwrap())
        .collect();
    for asker in &askers {
        for word in [b"one", b"two"] {
            assert_eq!(asker.ask(word).unwrap(), "b1");
        }
    }
    balanced.balancer.reload(&second);
    for asker in &askers {
        assert_eq!(asker.ask(b"three").unwrap(), "b2");
    }
}

/// As one host behind a NAT with few ports would.
pub(crate) fn a_range_of_ports_connects_a_thousand_times_in_a_row(attach: Attach) {
    let balanced = Balanced::new(attach, Options::default());
    for (name, vip) in vips() {
        for number in 0..1_000 {
            let from = Connect::from_port(20_000 + number % 50);
            if let Err(error) = http_get(balanced.client(), vip, "/", &from) {
                panic!("{vip} {number}: {error:#}");
            }
        }
        assert_eq!(balanced.balancer.sum(name, "new_flows"), 1_000);
    }
}

pub(crate) fn a_port_that_is_used_again_and_again_always_connects(attach: Attach) {
    let lab = Lab::new(Options { backends: 2, ..Options::default() }).unwrap();
    let mut servers = web_servers(&lab);
    let text = settings(attach.asked)
        + &vips()
            .map(|(_, vip)| {
                service(vip, &backends(&lab, vip).iter().map(|b| b.0).collect::<Vec<_>>(), "")
            })
            .concat();
    let balancer = Balancer::start(&lab.balancer, &text);
    let client = &lab.client().netns;
    for round in 0..scale(40, 400) {
        for (_, vip) in vips() {
            http_get(client, vip, "/", &Connect::from_port(4000 + round % 4)).unwrap();
        }
        if round % 10 == 9 {
            // A rolling restart: each server in turn goes with its connections and comes back.
            for number in 0..servers.len() {
                let host = &lab.backends[number];
                drop(servers.remove(number));
                let again = HttpServer::start(&host.netns, &host.name, &host.at(PORT)).unwrap();
                servers.insert(number, again);
            }
        }
    }
    assert_eq!(balancer.verdict("no_source_port") + balancer.verdict("flow_refused"), 0);
}

pub(crate) fn without_a_control_plane_dead_flows_make_room(attach: Attach) {
    const FLOWS: usize = 200;
    // So few that no set of the table is full of live ones, wherever they fall.
    const FRESH: usize = 30;
    let lab = Lab::new(Options::default()).unwrap();
    let echoes = echo_servers(&lab);
    let lines = "on-full = \"drop\"\ntimeouts = { tcp-opening = \"4s\", tcp-established = \"4s\", tcp-closing = \"4s\" }";
    let text = format!("[settings]\nattach = \"{}\"\nmax-flows = {FLOWS}\n", attach.asked)
        + &vips()
            .map(|(_, vip)| {
                service(vip, &backends(&lab, vip).iter().map(|b| b.0).collect::<Vec<_>>(), lines)
            })
            .concat();
    let mut balancer = Balancer::start(&lab.balancer, &text);
    let client = &lab.client().netns;
    let open = |vip: SocketAddr, count: usize| -> Vec<EchoConnection> {
        let connect = Connect::within(Duration::from_secs(5));
        (0..count).map(|_| EchoConnection::open(client, vip, &connect).unwrap()).collect()
    };
    for (_, vip) in vips() {
        // A table full of flows whose clients say nothing more.
        let silent = open(vip, FLOWS);
        if balancer.daemon.as_mut().unwrap().is_running() {
            balancer.signal(libc::SIGKILL);
            balancer.daemon.as_mut().unwrap().wait(DEADLINE).unwrap();
        }
        let begun = Instant::now();
        wait_until(DEADLINE, "more than the timeout", || begun.elapsed() > Duration::from_secs(5))
            .unwrap();
        // At once, each of them finds the room of a dead one and stays.
        let mut fresh = open(vip, FRESH);
        for connection in &mut fresh {
            connection.ask(b"still there?").unwrap();
        }
        drop(silent);
    }
    assert!(!balancer.daemon.as_mut().unwrap().is_running());
    drop(echoes);
}

pub(crate) fn a_load_beyond_its_limit_goes_to_other_backends(attach: Attach) {
    let mut balanced = Balanced::new(attach, Options::default());
    let mut text = settings(attach.asked);
    for (_, vip) in vips() {
        let all = backends(&balanced.lab, vip);
        let limited = format!("{{ address = \"{}\", max-flows = 3 }}, ", all[0].0);
        let one = service(vip, &[all[1].0], "");
        text += &one.replace("backends = [", &format!("backends = [{limited}"));
    }
    balanced.balancer.reload(&text);
    for (_, vip) in vips() {
        let held: Vec<_> = (0..40)
            .map(|_| balanced.client().run(|| TcpStream::connect_timeout(&vip, DEADLINE)).unwrap())
            .collect();
        let tally = Load::of_count(vip, 50).run(balanced.client());
        assert_eq!((tally.failed(), tally.answered()), (0, 50), "{:?}", tally.failures);
        assert_eq!(tally.by_backend.keys().collect::<Vec<_>>(), ["b2"]);
        drop(held);
    }
    let moved = balanced.balancer.status()["flow_table"]["pressure"]["moved_backend_limit"].clone();
    assert!(moved.as_u64().unwrap() > 0);
}

/// A listener on the first backend that talks with each client on a thread of its own.
fn listen(lab: &Lab, vip: SocketAddr, talk: fn(TcpStream)) -> SocketAddr {
    let host = &lab.backends[0];
    let at = host.at(PORT).into_iter().find(|at| at.is_ipv6() == vip.is_ipv6()).unwrap();
    let listener = host.netns.run(|| TcpListener::bind(at)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || talk(stream));
        }
    });
    at
}

/// How long the flows of the tests below live once they are over.
const CLOSING: Duration = Duration::from_secs(1);
const PART: usize = 100_000;

/// Sends the rest long after the client has finished.
fn late(mut stream: TcpStream) {
    let mut asked = Vec::new();
    stream.read_to_end(&mut asked).unwrap();
    std::thread::sleep(3 * CLOSING);
    stream.write_all(&vec![7; PART]).unwrap();
}

pub(crate) fn connections_end_well_whichever_end_is_first(attach: Attach) {
    let lab = Lab::new(Options { backends: 1, ..Options::default() }).unwrap();
    let lines = "timeouts = { tcp-closing = \"1s\" }";
    let text = settings(attach.asked)
        + &vips().map(|(_, vip)| service(vip, &[listen(&lab, vip, late)], lines)).concat();
    let balancer = Balancer::start(&lab.balancer, &text);
    let connect = |vip: SocketAddr| {
        let stream = lab.client().netns.run(|| TcpStream::connect(vip)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    };
    let closed = |why: &str| {
        let status = balancer.status();
        status["flow_table"]["events"]["closed"][why].as_u64().unwrap_or(0)
    };
    // The client finishes first and goes on listening.
    let half_open: Vec<_> = vips()
        .into_iter()
        .map(|(_, vip)| {
            let mut stream = connect(vip);
            stream.write_all(b"that was all").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            stream
        })
        .collect();
    for mut stream in half_open {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest.len(), PART, "a half-open connection was cut");
    }
    wait_until(DEADLINE, "flows that clients have ended", || closed("client_fin") == 2).unwrap();
    // One that goes without a word more.
    for (_, vip) in vips() {
        let stream = connect(vip);
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    wait_until(DEADLINE, "flows that clients have reset", || closed("client_reset") == 2).unwrap();
    assert_eq!(closed("backend_fin") + closed("backend_reset") + closed("idle"), 0);
    wait_until(DEADLINE, "an empty table", || balancer.status()["flow_table"]["live"] == 0)
        .unwrap();
}

pub(crate) fn connections_that_backends_end_are_told_so(attach: Attach) {
    fn finish(stream: TcpStream) {
        drop(stream);
    }
    let lab = Lab::new(Options { backends: 1, ..Options::default() }).unwrap();
    let text = settings(attach.asked)
        + &vips().map(|(_, vip)| service(vip, &[listen(&lab, vip, finish)], "")).concat();
    let balancer = Balancer::start(&lab.balancer, &text);
    for (_, vip) in vips() {
        let mut stream = lab.client().netns.run(|| TcpStream::connect(vip)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    let closed = || balancer.status()["flow_table"]["events"]["closed"]["backend_fin"].clone();
    wait_until(DEADLINE, "flows that backends have ended", || closed() == 2).unwrap();
}

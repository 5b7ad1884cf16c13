//! Crowds against the running kernel: connections that stand, and connections that do not. Needs root.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use equipoise_lab::crowd::{Broken, Crowd, Habit, MESSAGE, Outcome};
use equipoise_lab::flood::{Flood, Frames, Kind, Random, hardware_address};
use equipoise_lab::serve::TcpEcho;
use equipoise_lab::topology::{VIP_V4, VIP_V6};
use equipoise_lab::{Lab, Netns, Options, wait_until};

const SOON: Duration = Duration::from_secs(10);
const PORT: u16 = 7;

/// What a connection meets after its first exchange.
#[derive(Clone, Copy)]
enum Fate {
    Echo,
    Reset,
    Close,
    Damage,
    Silence,
}

/// A server whose connections meet their fates in the order in which they come.
struct Server {
    to: SocketAddr,
    threads: JoinHandle<Vec<JoinHandle<usize>>>,
}

impl Server {
    fn start(netns: &Netns, fates: &[Fate]) -> Self {
        let listener = netns.run(|| TcpListener::bind("127.0.0.1:0")).unwrap();
        let to = listener.local_addr().unwrap();
        let fates = fates.to_vec();
        let threads = thread::spawn(move || {
            let meet = |fate| {
                let (stream, _) = listener.accept().unwrap();
                thread::spawn(move || serve(stream, fate).unwrap_or(0))
            };
            fates.into_iter().map(meet).collect()
        });
        Self { to, threads }
    }

    /// The bytes that each connection brought, once all have ended.
    fn received(self) -> Vec<usize> {
        let threads = self.threads.join().unwrap();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }
}

/// Serves a connection, and gives the number of bytes that came.
fn serve(mut stream: TcpStream, fate: Fate) -> io::Result<usize> {
    stream.write_all(b"odd\n")?;
    let mut buffer = [0; MESSAGE];
    stream.read_exact(&mut buffer)?;
    stream.write_all(&buffer)?;
    let mut received = MESSAGE;
    match fate {
        Fate::Reset => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?,
        Fate::Close => {}
        Fate::Echo | Fate::Damage | Fate::Silence => loop {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            received += count;
            if matches!(fate, Fate::Damage) {
                buffer[count - 1] ^= 1;
            }
            if !matches!(fate, Fate::Silence) {
                stream.write_all(&buffer[..count])?;
            }
        },
    }
    Ok(received)
}

fn assert_whole(outcome: &Outcome, count: usize) {
    let broken: Vec<String> = outcome.broken.iter().map(Broken::to_string).collect();
    assert_eq!((outcome.whole, broken), (count, Vec::new()));
}

#[test]
fn five_hundred_connections_in_each_family_stand_through_a_flood() {
    let lab = Lab::new(Options { backends: 1, ..Options::default() }).unwrap();
    let (client, backend) = (&lab.client().netns, &lab.backends[0]);
    let _server = TcpEcho::start(&backend.netns, "b1", &backend.at(PORT)).unwrap();
    let next_hop = hardware_address(&lab.balancer, "front").unwrap();
    let sources = ["198.18.0.0/15", "2001:db8:5::/48"];
    for ((to, vip), from) in
        backend.at(PORT).into_iter().zip([VIP_V4.into(), VIP_V6.into()]).zip(sources)
    {
        let crowd = Crowd::of(to, 500).start(client).unwrap();
        let frames = Frames::Random(Random {
            kind: Kind::Ack,
            from: from.parse().unwrap(),
            to: SocketAddr::new(vip, 80),
            next_hop,
            seed: 1,
        });
        let time = Duration::from_secs(1);
        let flood = Flood { device: "eth0".to_owned(), frames, count: u64::MAX, time, rate: None };
        let report = flood.run(client).unwrap();
        // Each busy one has asked again, whatever room the flood left.
        wait_until(SOON, "busy connections", || crowd.exchanges() >= 250).unwrap();
        let outcome = crowd.check();
        println!(
            "{:.0} packets/s beside {} exchanges, the slowest in {:?}",
            report.per_second(),
            outcome.exchanges,
            outcome.slowest
        );
        assert_whole(&outcome, 500);
    }
}

#[test]
fn the_silent_send_nothing_until_they_are_checked() {
    let netns = Netns::new().unwrap();
    let server = Server::start(&netns, &[Fate::Echo; 20]);
    let crowd = Crowd { interval: Duration::from_millis(10), ..Crowd::of(server.to, 20) };
    let crowd = crowd.start(&netns).unwrap();
    wait_until(SOON, "ten exchanges each", || crowd.exchanges() >= 100).unwrap();
    let outcome = crowd.check();
    assert_whole(&outcome, 20);
    let received = server.received();
    let (busy, silent) = received.split_at(10);
    assert_eq!(silent, [2 * MESSAGE; 10], "the first exchange and the check");
    assert!(busy.iter().all(|bytes| *bytes > 5 * MESSAGE), "{busy:?}");
    let total: usize = received.iter().sum();
    // The first of each is not counted.
    assert_eq!(outcome.exchanges as usize, total / MESSAGE - 20);
}

#[test]
fn each_broken_connection_is_told_with_how_it_broke() {
    let fates = [Fate::Echo, Fate::Reset, Fate::Close, Fate::Damage, Fate::Silence];
    let netns = Netns::new().unwrap();
    let server = Server::start(&netns, &[fates, fates].concat());
    let crowd = Crowd { timeout: Duration::from_millis(500), ..Crowd::of(server.to, 10) };
    let crowd = crowd.start(&netns).unwrap();
    wait_until(SOON, "the busy ones to break", || crowd.broken() == 4).unwrap();
    let outcome = crowd.check();
    assert_eq!((outcome.whole, outcome.broken.len()), (2, 8));
    for (broken, number) in outcome.broken.iter().zip([1, 2, 3, 4, 6, 7, 8, 9]) {
        assert_eq!((broken.number, broken.backend.as_str()), (number, "odd"));
        assert_eq!(broken.habit, if number < 5 { Habit::Busy } else { Habit::Silent });
        let wanted = match fates[number % 5] {
            Fate::Echo => unreachable!("an echo breaks nothing"),
            Fate::Reset => "Connection reset",
            Fate::Close => "the other end closed it",
            Fate::Damage => "other bytes came back",
            Fate::Silence => "no echo within 500ms",
        };
        assert!(broken.reason.contains(wanted), "{broken}");
    }
    assert_eq!(outcome.by_reason()["other bytes came back"], 2);
}

#[test]
fn a_server_that_stops_breaks_all() {
    let netns = Netns::new().unwrap();
    let server = TcpEcho::start(&netns, "b1", &["[::1]:0".parse().unwrap()]).unwrap();
    let to = server.addresses()[0];
    let crowd = Crowd::of(to, 40).start(&netns).unwrap();
    drop(server);
    let outcome = crowd.check();
    assert_eq!((outcome.whole, outcome.broken.len()), (0, 40));
    assert!(Crowd::of(to, 1).start(&netns).is_err());
}

#[test]
fn a_crowd_that_is_dropped_waits_for_no_echo() {
    let netns = Netns::new().unwrap();
    let server = Server::start(&netns, &[Fate::Silence]);
    let crowd = Crowd { busy: 1, silent: 0, timeout: 3 * SOON, ..Crowd::of(server.to, 1) };
    let crowd = crowd.start(&netns).unwrap();
    let begun = Instant::now();
    drop(crowd);
    assert!(server.received()[0] >= MESSAGE);
    assert!(begun.elapsed() < SOON);
}

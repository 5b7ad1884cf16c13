//! Many checks at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use equipoise::probe::Prober;
use equipoise_core::health::{Effect, FailureKind, ProbeId};
use tokio::net::{TcpListener, UdpSocket};

use crate::check;

#[tokio::test]
async fn slow_checks_put_no_other_off() {
    const SLOW: u64 = 500;
    const QUICK: u64 = 2000;
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let silent = (silent.local_addr().unwrap(), silent);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let quick = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    let (prober, mut outcomes) = Prober::start().unwrap();
    let slow_check = check("type = 'udp'\ntimeout = '20s'");
    let quick_check = check("type = 'tcp'\ntimeout = '10s'");
    let probe = |number| ProbeId { target: number, number };
    let began = Instant::now();
    for number in 0..SLOW {
        let (check, vip_at) = (Arc::clone(&slow_check), None);
        prober
            .order(Effect::Probe { probe: probe(number), address: silent.0, check, vip_at }, None);
    }
    for number in SLOW..SLOW + QUICK {
        let (check, vip_at) = (Arc::clone(&quick_check), None);
        prober.order(Effect::Probe { probe: probe(number), address: quick, check, vip_at }, None);
    }
    let mut quick = 0;
    while quick < QUICK {
        for (probe, outcome) in outcomes.recv().await.unwrap() {
            assert!(probe.number >= SLOW, "{probe:?}: {outcome:?}");
            outcome.unwrap();
            quick += 1;
        }
    }
    assert!(began.elapsed() < Duration::from_secs(10) * equipoise_lab::patience());
}

#[tokio::test]
async fn cancelled_checks_are_heard_of_no_more_and_leave_no_socket() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let (prober, mut outcomes) = Prober::start().unwrap();
    let check = check("type = 'udp'\ntimeout = '1s'\nsend = 'x'");
    for number in 0..20 {
        let probe = ProbeId { target: number % 2, number };
        let (check, vip_at) = (Arc::clone(&check), None);
        prober.order(Effect::Probe { probe, address, check, vip_at }, None);
    }
    // Each has a socket of its own, which is told by where it comes from.
    let mut sockets = BTreeMap::new();
    while sockets.len() < 20 {
        let (_, from) = silent.recv_from(&mut [0; 8]).await.unwrap();
        sockets.insert(from.port(), ());
    }
    prober.order(Effect::Cancel { target: 0 }, None);
    let mut heard = Vec::new();
    while heard.len() < 10 {
        for (probe, outcome) in outcomes.recv().await.unwrap() {
            assert_eq!(outcome.unwrap_err().kind, FailureKind::Timeout);
            heard.push(probe);
        }
    }
    assert!(heard.iter().all(|probe| probe.target == 1), "{heard:?}");
    let is_free = |port| std::net::UdpSocket::bind(("0.0.0.0", port)).is_ok();
    equipoise_lab::wait_until(Duration::from_secs(10), "closed sockets", || {
        sockets.keys().all(|port| is_free(*port))
    })
    .unwrap();
    drop(prober);
    assert!(outcomes.recv().await.is_none(), "the thread ends with its handle");
}

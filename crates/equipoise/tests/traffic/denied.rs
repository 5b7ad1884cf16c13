//! Limits under real traffic: a client that comes to be denied, and one that asks for more than its rate.

use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use equipoise_common::verdict::Verdict;
use equipoise_lab::topology::Options;
use equipoise_lab::wait_until;

use crate::balanced::{Attach, Balanced, DEADLINE, backends, vips};

/// Both families, each with one backend of the lab, and these limits for all.
fn config(attach: Attach, balanced: &Balanced, limits: &str) -> String {
    let mut text = format!(
        "[settings]\nattach = \"{}\"\nmax-flows = 20000\n[settings.limits]\n{limits}\n",
        attach.asked
    );
    for (_, vip) in vips() {
        text += &format!(
            "[[service]]\nname = \"limits{}\"\nbackends = [{{ address = \"{}\" }}]\n\
             listen = {{ interfaces = [\"front\"], address = \"{}\", port = {} }}\n",
            vip.is_ipv6(),
            backends(&balanced.lab, vip)[0].0,
            vip.ip(),
            vip.port()
        );
    }
    text
}

pub(crate) fn a_client_that_comes_to_be_denied_is_cut_off_and_a_busy_one_is_held_back(
    attach: Attach,
) {
    let mut balanced = Balanced::new(attach, Options::default());
    let limits = "per-source = { rate = 1, burst = 3, prefix = { v4 = 8, v6 = 16 } }";
    balanced.balancer.reload(&config(attach, &balanced, limits));
    let client = balanced.client().clone();
    let connect = |vip: SocketAddr, patience: Duration| {
        client.run(|| TcpStream::connect_timeout(&vip, patience))
    };
    let mut streams = Vec::new();
    for (_, vip) in vips() {
        streams.extend((0..3).map(|_| connect(vip, DEADLINE).unwrap()));
        // Its first packet is lost; the one that the client sends again, a second later, is not.
        connect(vip, DEADLINE).unwrap();
    }
    assert!(
        balanced.balancer.status()["verdicts"][Verdict::SourceLimit.name()].as_u64() >= Some(2)
    );

    balanced.balancer.reload(&config(attach, &balanced, "deny = [\"0.0.0.0/0\", \"::/0\"]"));
    for mut stream in streams {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let read = stream.read(&mut [0; 16]).map_err(|error| error.kind());
        assert_eq!(read, Err(ErrorKind::ConnectionReset));
    }
    let first = &balanced.lab.backends[0].netns;
    wait_until(DEADLINE, "the backend's ends to be reset", || {
        first.output("ss", &["-Htn", "state", "established"]).unwrap().trim().is_empty()
    })
    .unwrap();
    for (_, vip) in vips() {
        let refused = connect(vip, Duration::from_millis(300)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::TimedOut);
    }
    let status = balanced.balancer.status();
    assert!(status["verdicts"][Verdict::SourceDenied.name()].as_u64() >= Some(2));
    assert!(status["flow_table"]["events"]["closed"]["denied"].as_u64() >= Some(6), "{status}");

    balanced.balancer.reload(&config(attach, &balanced, ""));
    for (_, vip) in vips() {
        connect(vip, DEADLINE).unwrap();
    }
}

pub(crate) fn what_operators_end_and_deny_ends_at_once_and_comes_back_when_the_time_is_up(
    attach: Attach,
) {
    let mut balanced = Balanced::new(attach, Options::default());
    balanced.balancer.reload(&config(attach, &balanced, ""));
    let client = balanced.client().clone();
    let connect = |vip: SocketAddr, patience: Duration| {
        client.run(|| TcpStream::connect_timeout(&vip, patience))
    };
    let asked = |line: &str| {
        let (code, said) = balanced.balancer.ask(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(code, 0, "{line}: {said}");
        said
    };
    let is_reset = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let read = stream.read(&mut [0; 16]).map_err(|error| error.kind());
        assert_eq!(read, Err(ErrorKind::ConnectionReset));
    };
    for (_, vip) in vips() {
        let name = format!("limits{}", vip.is_ipv6());
        let mut streams = [(); 2].map(|()| connect(vip, DEADLINE).unwrap());
        assert_eq!(asked(&format!("flows delete --service {name} --reset")), "2 flows ended\n");
        streams.iter_mut().for_each(is_reset);
        let mut stream = connect(vip, DEADLINE).unwrap();
        let all = if vip.is_ipv6() { "::/0" } else { "0.0.0.0/0" };
        asked(&format!("deny add {all} --service {name} --for 2s"));
        is_reset(&mut stream);
        let refused = connect(vip, Duration::from_millis(300)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::TimedOut);
        connect(vip, DEADLINE).expect("it is let in again when the time is up");
        // One token at once, and the next one a second later.
        asked(&format!("limits set {name} per-source 1 --burst 1"));
        connect(vip, DEADLINE).unwrap();
        let refused = connect(vip, Duration::from_millis(300)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::TimedOut);
        asked(&format!("limits clear {name}"));
        connect(vip, Duration::from_millis(300)).unwrap();
    }
    let closed = &balanced.balancer.status()["flow_table"]["events"]["closed"];
    assert_eq!((closed["by_hand"].as_u64(), closed["denied"].as_u64()), (Some(4), Some(2)));
}

//! Interfaces that go down, that vanish, and that come back under traffic: no connection breaks and none fails to open, and the balancer tells
//! what is missing for as long as it is.

use equipoise_lab::topology::{Lab, Options};
use equipoise_lab::wait::wait_for;
use equipoise_lab::{link, scale};
use serde_json::Value;

use crate::balanced::{Attach, Balancer, DEADLINE, tc_mode};
use crate::restart::{Servers, Traffic, config};

/// What `status` says of a device.
fn interface(status: &Value, device: &str) -> Option<Value> {
    let all = status["interfaces"].as_array().unwrap();
    all.iter().find(|interface| interface["name"] == device).cloned()
}

/// Waits for a status of which this holds.
fn wait_for_status(balancer: &Balancer, what: &str, holds: impl Fn(&Value) -> bool) {
    let waited = wait_for(DEADLINE, what, || Some(balancer.status()).filter(&holds));
    waited.unwrap_or_else(|error| panic!("{error}: {}", balancer.status()));
}

/// Waits until all is well, with the programs on both devices as was asked.
fn wait_until_attached(balancer: &Balancer, attach: Attach) {
    let mode = if attach.hook == "tc" { tc_mode() } else { attach.mode };
    wait_for_status(balancer, "programs on both devices", |status| {
        let is_on = |device| {
            interface(status, device).is_some_and(|i| i["hook"] == attach.hook && i["mode"] == mode)
        };
        status["state"] == "ok" && is_on("front") && is_on("back")
    });
}

pub(crate) fn connections_outlive_interfaces_that_go_and_come_back(attach: Attach) {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = Servers::start(&lab);
    // What gives a machine its addresses gives them back when an interface comes up.
    for device in ["front", "back"] {
        let key = format!("net/ipv6/conf/{device}/keep_addr_on_down");
        lab.balancer.sysctl(&key, "1").unwrap();
    }
    let mut balancer = Balancer::start(&lab.balancer, &config(&lab, attach.asked, 20_000));
    wait_until_attached(&balancer, attach);
    let traffic = Traffic::start(&lab);
    for _ in 0..scale(2, 5) {
        for device in ["front", "back"] {
            let answered = traffic.answered();
            lab.balancer.ip(&format!("link set {device} down")).unwrap();
            let is_noticed = |status: &Value| match device {
                // Whoever listens there is to have it.
                "front" => interface(status, device).is_some(),
                _ => interface(status, device).is_none(),
            };
            wait_for_status(&balancer, "the end of a link", is_noticed);
            lab.balancer.ip(&format!("link set {device} up")).unwrap();
            wait_until_attached(&balancer, attach);
            traffic.wait_for_more_than(answered + 20);
        }
        // The device is another one then, of the same name.
        let answered = traffic.answered();
        let before = balancer.log().matches("attached interface=\"back\"").count();
        let address = link::mac(&lab.balancer, "back").unwrap();
        lab.back_vanishes().unwrap();
        wait_for_status(&balancer, "the end of a device", |s| interface(s, "back").is_none());
        lab.back_returns(&address).unwrap();
        wait_until_attached(&balancer, attach);
        traffic.wait_for_more_than(answered + 20);
        assert!(balancer.log().matches("attached interface=\"back\"").count() > before);
    }
    traffic.end().tell("interfaces down and up, one vanished and back", attach.asked);
    balancer.end();
}

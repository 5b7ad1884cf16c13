//! Checks of backends that get packets as they are: they go to the VIP there as those do, and tell what is broken.

use std::time::Duration;

use equipoise_lab::serve::{HttpServer, TcpEcho};
use equipoise_lab::topology::{Host, Lab, Layout, Options};
use equipoise_lab::{Daemon, wait_until};
use serde_json::Value;

use crate::balanced::{Attach, Balancer, DEADLINE, settings, vips};
use crate::modes::{answers_alone, decapsulating, in_mode, own_vips};

const CHECK: &str = "[settings.health-check]\ntype = \"http\"\npath = \"/\"\ninterval = \"200ms\"\n\
                     fast-interval = \"200ms\"\ntimeout = \"400ms\"\nunhealthy-threshold = 2\n";

pub(crate) fn checks_go_the_way_the_packets_go_and_tell_what_is_broken(attach: Attach) {
    for mode in ["dsr", "ipip", "gue"] {
        let lab = Lab::new(Options { layout: Layout::OneArm, ..Options::default() }).unwrap();
        let mut delivered = Delivered::new(&lab, mode);
        let mut servers: Vec<_> = lab.backends.iter().map(web_server).map(Some).collect();
        let settings = settings(attach.asked);
        let text = settings + CHECK + &in_mode(&lab, mode, false);
        let balancer = Balancer::start(&lab.balancer, &text);
        until(&balancer, [HEALTHY; 3]);
        for (name, vip) in vips() {
            let vip = Value::from(vip.ip().to_string());
            assert!(told(&balancer, name).iter().all(|told| told["check"]["vip"] == vip));
        }

        // Nobody listens; the VIP, or what takes packets out of the tunnel, is not there; somebody answers nonsense.
        servers[0] = None;
        delivered.break_off(&lab, 1);
        servers[2] = None;
        let nonsense = TcpEcho::start(&lab.backends[2].netns, "b3", &everywhere(&lab.backends[2]));
        until(&balancer, ["port-closed", "vip-or-tunnel", "application"]);
        let (code, text) = balancer.ask(&["health", "web"]);
        assert_eq!(code, 0);
        let missing = "vip-or-tunnel: by VIP 203.0.113.10, no answer within 400ms; straight to its address, a good answer";
        assert!(text.contains(missing), "{text}");
        drop(nonsense);
        for (server, host) in servers.iter_mut().zip(&lab.backends).filter(|(s, _)| s.is_none()) {
            *server = Some(web_server(host));
        }
        delivered.mend(&lab, 1);
        until(&balancer, [HEALTHY; 3]);

        // Nothing of it is there.
        lab.switch.ip("link set b3 down").unwrap();
        until(&balancer, [HEALTHY, HEALTHY, "host-down"]);
        lab.switch.ip("link set b3 up").unwrap();
        until(&balancer, [HEALTHY; 3]);

        // Checks are no packets of the service, and nothing that a drain waits for.
        assert!(balancer.verdict("probe_sent") > 0 && balancer.verdict("probe_answer") > 0);
        for (name, _) in vips() {
            for key in ["new_flows", "live_flows", "packets_in", "packets_out"] {
                assert_eq!(balancer.sum(name, key), 0, "{key} of {name}");
            }
        }
        drop(balancer);
        drop(servers);
        delivered.end();
    }
}

const HEALTHY: &str = "healthy";

/// How packets get to the VIPs at the backends.
enum Delivered {
    /// They have them.
    Dsr,
    /// `equipoise decap` has.
    Decapsulated(Vec<Option<Daemon>>),
}

impl Delivered {
    fn new(lab: &Lab, mode: &str) -> Self {
        if mode == "dsr" {
            lab.backends.iter().for_each(|host| own_vips(lab, host));
            return Self::Dsr;
        }
        lab.backends.iter().for_each(|host| answers_alone(lab, host));
        Self::Decapsulated(lab.backends.iter().map(decapsulating).map(Some).collect())
    }

    fn break_off(&mut self, lab: &Lab, number: usize) {
        let [v4, v6] = vips().map(|(_, vip)| vip.ip());
        match self {
            Self::Dsr => {
                let script = format!("addr del {v4}/32 dev lo\naddr del {v6}/128 dev lo");
                lab.backends[number].netns.ip(&script).unwrap();
            }
            Self::Decapsulated(daemons) => ended(daemons[number].take()),
        }
    }

    fn mend(&mut self, lab: &Lab, number: usize) {
        let host = &lab.backends[number];
        let [v4, v6] = vips().map(|(_, vip)| vip.ip());
        match self {
            Self::Dsr => {
                let script = format!("addr add {v4}/32 dev lo\naddr add {v6}/128 dev lo nodad");
                host.netns.ip(&script).unwrap();
            }
            Self::Decapsulated(daemons) => daemons[number] = Some(decapsulating(host)),
        }
    }

    fn end(self) {
        if let Self::Decapsulated(daemons) = self {
            daemons.into_iter().for_each(ended);
        }
    }
}

fn ended(daemon: Option<Daemon>) {
    let stopped = daemon.unwrap().stop(DEADLINE).unwrap();
    assert!(stopped.status.success(), "{}", stopped.log);
}

/// The VIPs at a backend, and its own addresses.
fn everywhere(host: &Host) -> Vec<std::net::SocketAddr> {
    vips().into_iter().map(|(_, vip)| vip).chain(host.at(80)).collect()
}

fn web_server(host: &Host) -> HttpServer {
    HttpServer::start(&host.netns, &host.name, &everywhere(host)).unwrap()
}

fn told(balancer: &Balancer, name: &str) -> Vec<Value> {
    let (code, text) = balancer.ask(&["health", name, "--json"]);
    assert_eq!(code, 0, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Waits until the backends of both services are healthy, or unhealthy for the cause that is given.
fn until(balancer: &Balancer, wanted: [&str; 3]) {
    let mut seen = Vec::new();
    let in_a_word = |told: &Value| {
        let cause = told["check"]["error"]["cause"].as_str();
        let health = told["health"].as_str().unwrap();
        if health == "unhealthy" { cause.unwrap_or("unhealthy") } else { health }.to_owned()
    };
    let is_so = wait_until(DEADLINE + Duration::from_secs(10), &format!("{wanted:?}"), || {
        seen = vips().map(|(name, _)| told(balancer, name)).to_vec();
        seen.iter().all(|all| all.iter().map(in_a_word).eq(wanted))
    });
    assert!(is_so.is_ok(), "{is_so:?}: {seen:#?}");
}

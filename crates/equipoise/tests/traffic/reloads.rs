//! Reload after reload under connections that stay and connections that come: none breaks, none fails, and each change is in force.
//!
//! The file itself is what is changed; the instance watches it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use equipoise_lab::crowd::Crowd;
use equipoise_lab::load::Load;
use equipoise_lab::serve::TcpEcho;
use equipoise_lab::topology::{Host, Lab, Options};
use equipoise_lab::{scale, wait_until};
use serde_json::Value;

use crate::balanced::{Attach, Balancer, DEADLINE, backends, udp_servers, vips, web_servers};

/// Of the servers that echo.
const ECHO: u16 = 9000;
/// Where connections stay.
const HELD: u16 = 81;
const ALGORITHMS: [&str; 4] = ["maglev", "random", "round-robin", "least-connections"];

pub(crate) fn reloads_under_traffic_break_nothing_and_each_is_in_force(attach: Attach) {
    let lab = Lab::new(Options::default()).unwrap();
    let (_web, _udp) = (web_servers(&lab), udp_servers(&lab));
    let echo = |host: &Host| TcpEcho::start(&host.netns, &host.name, &host.at(ECHO)).unwrap();
    let _echo: Vec<_> = lab.backends.iter().map(echo).collect();
    let mut random = Random(std::process::id().into());
    let mut wanted = Wanted::default();
    let balancer = Balancer::start(&lab.balancer, &wanted.text(&lab, attach));
    assert_eq!(balancer.status()["config"]["watching"], true);

    let client = &lab.client().netns;
    let held = |vip: SocketAddr| SocketAddr::new(vip.ip(), HELD);
    let count = scale(40, 250);
    let crowds = vips().map(|(_, vip)| Crowd::of(held(vip), count).start(client).unwrap());
    let loads = vips().map(|(_, vip)| {
        let load = Load { workers: 2, ..Load::of_time(vip, Duration::from_secs(3600)) };
        load.of_bytes(5_000).start(client)
    });
    let reloads = scale(8, 50);
    for number in 0..reloads {
        let generation = |status: &Value| status["config"]["generation"].as_u64().unwrap();
        let before = generation(&balancer.status());
        let answered = loads.each_ref().map(|load| load.tally().answered());
        wanted.change(&mut random, number);
        balancer.replace(&wanted.text(&lab, attach));
        let what = format!("reload {number}: {wanted:?}");
        wait_until(DEADLINE, &what, || generation(&balancer.status()) == before + 1).unwrap();
        wanted.assert_in_force(&balancer, &what);
        wait_until(DEADLINE, "connections after it", || {
            loads.iter().zip(answered).all(|(load, then)| load.tally().answered() > then + 20)
        })
        .unwrap();
    }
    let mut new = 0;
    for load in loads {
        let tally = load.stop();
        assert_eq!(tally.failed(), 0, "{:?}", tally.failures);
        new += tally.answered();
    }
    let mut whole = 0;
    for crowd in crowds {
        let outcome = crowd.check();
        assert!(outcome.broken.is_empty(), "{:?}", outcome.by_reason());
        whole += outcome.whole;
    }
    assert_eq!(whole, 2 * count);
    println!(
        "| {reloads} reloads with random changes | {} | {whole} | 0 | {new} | 0 |",
        attach.asked
    );
}

/// What the file is to say next.
#[derive(Clone, Debug, Default)]
struct Wanted {
    weights: [u64; 3],
    algorithm: &'static str,
    affinity: bool,
    held_algorithm: &'static str,
    established_hours: u64,
    /// A service that is there or not, and moves.
    extra: Option<Extra>,
    /// How new connections get to their backends.
    mode: &'static str,
    /// Whether clients have a route of their own, to the first two backends.
    routed: bool,
    /// Whether backends are checked.
    checked: bool,
    /// Whether the third backend is there for new connections.
    third: bool,
    rate: u64,
}

/// Where a service is that comes, goes and moves.
#[derive(Clone, Copy, Debug)]
struct Extra {
    port: u16,
    protocol: &'static str,
    /// Whether it is on `lo` as well, which nothing else is.
    on_loopback: bool,
}

impl Wanted {
    fn change(&mut self, random: &mut Random, number: u64) {
        let mut weight = || 1 + random.below(100);
        self.weights = [weight(), weight(), weight()];
        self.algorithm = ALGORITHMS[random.below(4) as usize];
        self.affinity = random.below(3) == 0;
        self.held_algorithm = ALGORITHMS[random.below(4) as usize];
        self.established_hours = 1 + random.below(20);
        self.third = random.below(2) == 0;
        self.extra = (random.below(3) > 0).then(|| Extra {
            port: 8443 + random.below(2) as u16,
            protocol: ["tcp", "udp", "both"][random.below(3) as usize],
            on_loopback: random.below(2) == 0,
        });
        self.mode = ["nat", "full-nat"][random.below(2) as usize];
        (self.routed, self.checked) = (random.below(2) == 0, random.below(2) == 0);
        // So that each differs from the one before.
        self.rate = 900_000 + number;
    }

    fn text(&self, lab: &Lab, attach: Attach) -> String {
        let mut text = format!(
            "[settings]\nattach = {{ default = \"{}\", lo = \"tc\" }}\nmax-flows = 20000\n",
            attach.asked
        );
        if self.checked {
            text += "[settings.health-check]\ntype = \"tcp\"\ninterval = \"1s\"\n";
        }
        for (name, vip) in vips() {
            let at = |port: u16| -> Vec<SocketAddr> {
                let all = backends(lab, vip).into_iter();
                all.map(|(backend, _)| SocketAddr::new(backend.ip(), port)).collect()
            };
            let web: Vec<_> = backends(lab, vip).into_iter().map(|(backend, _)| backend).collect();
            let shown = if self.third { 3 } else { 2 };
            self.service(&mut text, (name, vip), (self.algorithm, &web[..shown]));
            let affinity = if self.affinity { "source-ip" } else { "none" };
            let mode = if self.mode.is_empty() { "nat" } else { self.mode };
            // Flows that are over do not hold the ports of ours for long.
            let timeouts = "timeouts = { tcp-closing = \"1s\" }";
            writeln!(text, "affinity = \"{affinity}\"\nmode = \"{mode}\"\n{timeouts}").unwrap();
            if self.routed {
                let client = if vip.is_ipv4() { "198.51.100.0/24" } else { "2001:db8:c::/64" };
                writeln!(
                    text,
                    "[[service.source-route]]\nsource = \"{client}\"\n\
                     backends = [{{ address = \"{}\" }}, {{ address = \"{}\" }}]",
                    web[0], web[1]
                )
                .unwrap();
            }
            let held = SocketAddr::new(vip.ip(), HELD);
            let name = format!("{name}-held");
            self.service(&mut text, (&name, held), (self.held_algorithm, &at(ECHO)));
            let hours = self.established_hours;
            writeln!(
                text,
                "timeouts = {{ tcp-established = \"{}h\" }}\nlimits = {{ per-source = {{ rate = {} }} }}",
                hours.max(1),
                self.rate.max(900_000)
            )
            .unwrap();
            if let Some(Extra { port, protocol, on_loopback }) = self.extra {
                let mut extra = String::new();
                let other = SocketAddr::new(vip.ip(), port);
                self.service(&mut extra, (&format!("{name}-extra"), other), ("maglev", &web));
                let place = format!("port = {port}, protocol = \"{protocol}\"");
                extra = extra.replace(&format!("port = {port}"), &place);
                if on_loopback {
                    extra = extra.replace("[\"front\"]", "[\"front\", \"lo\"]");
                }
                text += &extra;
            }
        }
        text
    }

    fn service(
        &self,
        text: &mut String,
        (name, vip): (&str, SocketAddr),
        (algorithm, backends): (&str, &[SocketAddr]),
    ) {
        let algorithm = if algorithm.is_empty() { "maglev" } else { algorithm };
        write!(
            text,
            "[[service]]\nname = \"{name}\"\nalgorithm = \"{algorithm}\"\n\
             listen = {{ interfaces = [\"front\"], address = \"{}\", port = {} }}\nbackends = [",
            vip.ip(),
            vip.port()
        )
        .unwrap();
        for (backend, weight) in backends.iter().zip(self.weights) {
            write!(text, "{{ address = \"{backend}\", weight = {} }}, ", weight.max(1)).unwrap();
        }
        text.push_str("]\n");
    }

    /// What `status` tells is what was written, and what is in the maps is what is planned of it.
    fn assert_in_force(&self, balancer: &Balancer, what: &str) {
        let (code, planned) = balancer.ask(&["plan", balancer.file().to_str().unwrap()]);
        assert!(code == 0 && planned.starts_with("0 steps"), "{what}: {planned}");
        let status = balancer.status();
        assert_eq!(status["state"], "ok", "{what}: {}", status["reasons"]);
        assert_eq!(status["config"]["last_error"], Value::Null, "{what}");
        let attached = status["interfaces"].as_array().unwrap().iter();
        let attached: Vec<_> = attached.map(|i| i["name"].as_str().unwrap()).collect();
        let expected = match self.extra {
            Some(Extra { on_loopback: true, .. }) => &["back", "front", "lo"][..],
            _ => &["back", "front"],
        };
        assert_eq!(attached, expected, "{what}");
        let services = status["services"].as_array().unwrap();
        let services: BTreeMap<&str, &Value> =
            services.iter().map(|s| (s["name"].as_str().unwrap(), s)).collect();
        for (name, _) in vips() {
            let pools = services[name]["pools"].as_array().unwrap();
            assert_eq!(pools.len(), 1 + usize::from(self.routed), "{what}");
            let pool = pools.iter().find(|pool| pool["route"] == "default").unwrap();
            assert_eq!(pool["algorithm"], self.algorithm, "{what}");
            assert_eq!(pool["affinity"] == "source-ip", self.affinity, "{what}");
            let backends = pool["backends"].as_array().unwrap();
            let weights = backends.iter();
            let weights: Vec<_> =
                weights.map(|b| b["effective_weight"].as_f64().unwrap() as u64).collect();
            assert_eq!(weights, self.weights[..if self.third { 3 } else { 2 }], "{what}");
            let is_checked = backends.iter().all(|backend| backend["health"] != "none");
            assert_eq!(is_checked, self.checked, "{what}: {}", backends[0]);
            let held = format!("{name}-held");
            assert_eq!(services[&*held]["pools"][0]["algorithm"], self.held_algorithm, "{what}");
            let extra = services.get(&*format!("{held}-extra"));
            assert_eq!(extra.is_some(), self.extra.is_some(), "{what}");
            if let (Some(told), Some(Extra { port, protocol, .. })) = (extra, self.extra) {
                let listen = &told["listen"];
                assert_eq!(
                    (&listen["port"], &listen["protocol"]),
                    (&port.into(), &protocol.into())
                );
            }
        }
        let (code, config) = balancer.ask(&["config", "--json"]);
        assert_eq!(code, 0, "{config}");
        let config: Value = serde_json::from_str(&config).unwrap();
        let all = config["service"].as_array().unwrap();
        for (name, _) in vips() {
            let of = |name: &str| all.iter().find(|service| service["name"] == name).unwrap();
            assert_eq!(of(name)["mode"], self.mode, "{what}");
            let held = of(&format!("{name}-held"));
            let hours = format!("{}h", self.established_hours);
            assert_eq!(held["timeouts"]["tcp_established"], hours, "{what}");
            assert_eq!(held["limits"]["per_source"]["rate"], self.rate, "{what}");
        }
    }
}

impl Balancer {
    /// Puts another file in the place of the configuration.
    fn replace(&self, text: &str) {
        let (new, file) = (self.file().with_extension("new"), self.file());
        fs::write(&new, text).unwrap();
        fs::rename(new, file).unwrap();
    }
}

/// Numbers that differ from run to run (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % end
    }
}

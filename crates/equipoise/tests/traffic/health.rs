//! Health checks under traffic: who fails them gets no new flows, who passes them again gets them back.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData};
use equipoise_common::value::Pool;
use equipoise_lab::client::{Connect, HttpConnection, UdpAsker};
use equipoise_lab::load::Load;
use equipoise_lab::serve::{HttpServer, TcpEcho};
use equipoise_lab::topology::{Lab, Options};
use equipoise_lab::{patience, wait_until};
use serde_json::Value;

use crate::balanced::{
    Attach, Balancer, DEADLINE, PORT, TC, backends, service, settings, udp_servers, vips,
    web_servers,
};

const INTERVAL: Duration = Duration::from_millis(200);
const THRESHOLD: u32 = 3;
/// The port of the checks, where it is not that of the service.
const CHECKED: u16 = 9000;

fn check(more: &str) -> String {
    format!(
        "[settings.health-check]\ntype = \"tcp\"\ninterval = \"{}ms\"\nfast-interval = \"{}ms\"\ntimeout = \"1s\"\n\
         unhealthy-threshold = {THRESHOLD}\n{more}\n",
        INTERVAL.as_millis(),
        INTERVAL.as_millis(),
    )
}

fn until_all_are(balancer: &Balancer, health: &str) {
    wait_until(DEADLINE, &format!("all {health}"), || {
        vips().iter().all(|(name, _)| (0..3).all(|b| balancer.backend(name, b)["health"] == health))
    })
    .unwrap();
}

pub(crate) fn a_backend_that_fails_its_checks_gets_no_new_flows_until_it_passes_them(
    attach: Attach,
) {
    let lab = Lab::new(Options::default()).unwrap();
    let mut servers = web_servers(&lab);
    let text = settings(attach.asked)
        + &check("")
        + &vips().map(|(name, vip)| service(name, vip, &backends(&lab, vip))).concat();
    let balancer = Balancer::start(&lab.balancer, &text);
    until_all_are(&balancer, "healthy");
    for (name, vip) in vips() {
        let load = Load::of_time(vip, Duration::from_secs(600)).start(&lab.client().netns);
        wait_until(DEADLINE, "answers of all", || load.tally().by_backend.len() == 3).unwrap();
        assert_eq!(load.tally().failed(), 0, "{:?}", load.tally().failures);

        let gone = servers.remove(1);
        drop(gone);
        let killed = Instant::now();
        wait_until(DEADLINE, "no weight", || balancer.backend(name, 1)["effective_weight"] == 0.0)
            .unwrap();
        let took = killed.elapsed();
        // Looking takes a while, too.
        assert!(
            took < (THRESHOLD * INTERVAL + Duration::from_millis(500)) * patience(),
            "{took:?}"
        );
        assert_eq!(balancer.backend(name, 1)["health"], "unhealthy");
        assert_eq!(balancer.backend(name, 1)["share"], 0.0);

        // Those that had begun before may fail; none of those that begin now does.
        let settled = load.tally().answered() + 20;
        wait_until(DEADLINE, "what had begun", || load.tally().answered() > settled).unwrap();
        let before = load.tally();
        wait_until(DEADLINE, "many more", || load.tally().answered() > settled + 500).unwrap();
        let after = load.tally();
        assert_eq!(after.failed(), before.failed(), "{:?}", after.failures);
        assert_eq!(after.by_backend["b2"], before.by_backend["b2"]);

        let host = &lab.backends[1];
        servers.insert(1, HttpServer::start(&host.netns, &host.name, &host.at(PORT)).unwrap());
        let mut seen = Vec::new();
        wait_until(DEADLINE, "all of its weight", || {
            let weight = balancer.backend(name, 1)["effective_weight"].as_f64().unwrap();
            if seen.last() != Some(&weight) {
                seen.push(weight);
            }
            weight == 30.0
        })
        .unwrap();
        assert!(seen.is_sorted() && seen.iter().any(|weight| *weight > 0.0 && *weight < 30.0));
        let back = load.tally().by_backend["b2"];
        wait_until(DEADLINE, "its share", || load.tally().by_backend["b2"] > back + 50).unwrap();
        let ended = load.stop();
        assert_eq!(ended.failed(), after.failed(), "{:?}", ended.failures);
    }
}

/// As packets see it: by the slots in the kernel's maps, while connections come all the time.
#[test]
fn a_share_comes_back_step_by_step_in_the_kernels_maps() {
    let lab = Lab::new(Options::default()).unwrap();
    let mut servers = web_servers(&lab);
    let step = "interval = \"500ms\"\nfast-interval = \"500ms\"\n";
    let settings = format!(
        "[settings]\nattach = \"{}\"\nmax-flows = 20000\n[settings.health-check]\ntype = \"tcp\"\n{step}",
        TC.asked
    );
    let services = vips().map(|(name, vip)| service(name, vip, &backends(&lab, vip)));
    let balancer = Balancer::start(&lab.balancer, &(settings + &services.concat()));
    until_all_are(&balancer, "healthy");
    // Each service has a pool of each family, and ids go by the order of the file.
    for ((name, vip), (pool, second)) in vips().into_iter().zip([(0, 1), (3, 4)]) {
        let slots = Slots::of(&balancer, pool);
        assert_eq!(slots.percent(second), 30);
        let load = Load::of_time(vip, Duration::from_secs(600)).start(&lab.client().netns);
        // A busy machine may let whole steps go by between two looks: what one round does not see, another does.
        let mut seen = BTreeSet::new();
        for round in 1.. {
            drop(servers.remove(1));
            wait_until(DEADLINE, "no slot", || slots.percent(second) == 0).unwrap();
            let settled = load.tally().answered() + 20;
            wait_until(DEADLINE, "what had begun", || load.tally().answered() > settled).unwrap();
            let failed = load.tally().failed();

            let host = &lab.backends[1];
            servers.insert(1, HttpServer::start(&host.netns, &host.name, &host.at(PORT)).unwrap());
            let mut last = 0;
            wait_until(DEADLINE, "all of its slots", || {
                let percent = slots.percent(second);
                assert!(percent >= last, "{name}: {percent} after {last}");
                last = percent;
                seen.insert(percent);
                percent == 30
            })
            .unwrap();
            assert_eq!(balancer.backend(name, 1)["effective_weight"], 30.0);
            let back = load.tally().by_backend["b2"];
            wait_until(DEADLINE, "its share", || load.tally().by_backend["b2"] > back + 50)
                .unwrap();
            let tally = load.tally();
            assert_eq!(tally.failed(), failed, "{:?}", tally.failures);
            // A quarter, a half and three quarters of 30, beside 50 and 20.
            let steps = [10, 18, 24, 30];
            assert!(seen.iter().all(|seen| *seen == 0 || steps.contains(seen)), "{name}: {seen:?}");
            if steps.iter().all(|step| seen.contains(step)) {
                break;
            }
            assert!(round < 6, "{name}: in {round} rounds {seen:?}");
        }
        drop(load);
    }
}

/// The slots of a pool, as they are in the kernel.
struct Slots {
    pools: Array<MapData, Pool>,
    slots: Array<MapData, u32>,
    pool: u32,
}

impl Slots {
    fn of(balancer: &Balancer, pool: u32) -> Self {
        let map = |name: &str| {
            let pin = format!("/sys/fs/bpf/equipoise/{}/maps/{name}", balancer.instance);
            Map::Array(MapData::from_pin(pin).unwrap())
        };
        let (pools, slots) = (map("POOLS").try_into().unwrap(), map("SLOTS").try_into().unwrap());
        Self { pools, slots, pool }
    }

    /// How many of a hundred slots are a backend's.
    fn percent(&self, backend: u32) -> u32 {
        loop {
            let run = self.pools.get(&self.pool, 0).unwrap();
            let slots = run.offset..run.offset + run.length;
            let of_it = slots.filter(|slot| self.slots.get(slot, 0).unwrap() == backend).count();
            // One that was flipped meanwhile may have been given up, and written anew.
            if self.pools.get(&self.pool, 0).unwrap() == run {
                return (100.0 * of_it as f64 / f64::from(run.length)).round() as u32;
            }
        }
    }
}

pub(crate) fn flows_of_a_backend_that_is_down_are_treated_as_the_service_says(attach: Attach) {
    let lab = Lab::new(Options::default()).unwrap();
    let (_web, _udp) = (web_servers(&lab), udp_servers(&lab));
    for policy in ["keep", "reset", "reselect"] {
        let mut checked: Vec<_> = lab
            .backends
            .iter()
            .map(|b| TcpEcho::start(&b.netns, &b.name, &b.at(CHECKED)).unwrap())
            .collect();
        let settings = settings(attach.asked);
        let services = vips().map(|(name, vip)| {
            service(name, vip, &backends(&lab, vip)) + &format!("on-backend-down = \"{policy}\"\n")
        });
        let text = settings + &check(&format!("port = {CHECKED}")) + &services.concat();
        let balancer = Balancer::start(&lab.balancer, &text);
        until_all_are(&balancer, "healthy");

        let mut streams = Vec::new();
        let mut askers = Vec::new();
        for (_, vip) in vips() {
            streams.push(to_second(&lab, vip));
            askers.push(asker_of_second(&lab, vip));
        }
        checked.remove(1);
        wait_until(DEADLINE, "no weight", || {
            vips().iter().all(|(name, _)| balancer.backend(name, 1)["effective_weight"] == 0.0)
        })
        .unwrap();
        for asker in &askers {
            assert_ne!(asker.ask(b"again").unwrap(), "b2", "{policy}");
        }
        for mut connection in streams {
            match policy {
                "keep" => assert_eq!(connection.download(100_000, 5).unwrap(), "b2"),
                // Told at once, and the other backend knows nothing of it.
                _ => assert!(connection.download(100_000, 5).is_err(), "{policy}"),
            }
        }
        let closed = &balancer.status()["flow_table"]["events"]["closed"]["backend_gone"];
        assert_eq!(closed.as_u64().unwrap_or(0), if policy == "reset" { 2 } else { 0 });
        // Another one connects at once.
        for (_, vip) in vips() {
            for _ in 0..20 {
                let stream = lab.client().netns.run(|| TcpStream::connect_timeout(&vip, DEADLINE));
                drop(stream.unwrap());
            }
        }
        if policy == "reset" {
            silent_clients_are_told(&lab, &balancer, &mut checked);
        }
    }
}

/// The answers to checks, ICMP errors among them, reach this host's own sockets.
pub(crate) fn pages_and_datagrams_are_checked_past_the_programs(attach: Attach) {
    let lab = Lab::new(Options::default()).unwrap();
    let (mut web, mut udp) = (web_servers(&lab), udp_servers(&lab));
    let settings = settings(attach.asked);
    let services = vips().map(|(name, vip)| {
        let second = SocketAddr::new(vip.ip(), 81);
        service(name, vip, &backends(&lab, vip))
            + "[service.health-check]\ntype = \"http\"\npath = \"/\"\nexpected-body = \"b\"\n"
            + &service(&format!("{name}-udp"), second, &backends(&lab, vip))
            + "[service.health-check]\ntype = \"udp\"\nsend = \"?\"\nexpect = \":?\"\n"
    });
    let text = settings + &check("") + &services.concat();
    let balancer = Balancer::start(&lab.balancer, &text);
    until_all_are(&balancer, "healthy");
    drop((web.remove(1), udp.remove(1)));
    let told = |name: &str| {
        let (code, text) = balancer.ask(&["health", name, "--json"]);
        assert_eq!(code, 0, "{text}");
        let told: Value = serde_json::from_str(&text).unwrap();
        let of = |told: &Value| (told["health"].clone(), told["check"]["error"]["kind"].clone());
        told.as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    for name in ["web", "web-udp", "web6", "web6-udp"] {
        wait_until(DEADLINE, &format!("a failure of {name}"), || {
            let good = (Value::from("healthy"), Value::Null);
            let bad = (Value::from("unhealthy"), Value::from("connection-refused"));
            told(name) == [good.clone(), bad, good]
        })
        .unwrap();
    }
    let (code, text) = balancer.ask(&["wait", "web", "--healthy", "2", "--timeout", "20s"]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = balancer.ask(&["wait", "web", "--healthy", "3", "--timeout", "1s"]);
    assert_eq!(code, 6, "{text}");
}

/// A client that only reads is told that its backend is down.
fn silent_clients_are_told(lab: &Lab, balancer: &Balancer, checked: &mut Vec<TcpEcho>) {
    let host = &lab.backends[1];
    checked.push(TcpEcho::start(&host.netns, &host.name, &host.at(CHECKED)).unwrap());
    wait_until(DEADLINE, "all of its weight", || {
        vips().iter().all(|(name, _)| balancer.backend(name, 1)["effective_weight"] == 30.0)
    })
    .unwrap();
    let mut streams: Vec<_> = vips()
        .into_iter()
        .flat_map(|(_, vip)| std::iter::repeat_n(vip, 40))
        .map(|vip| lab.client().netns.run(|| TcpStream::connect_timeout(&vip, DEADLINE)).unwrap())
        .collect();
    checked.pop();
    wait_until(DEADLINE, "no weight", || {
        vips().iter().all(|(name, _)| balancer.backend(name, 1)["effective_weight"] == 0.0)
    })
    .unwrap();
    for stream in &streams {
        stream.set_nonblocking(true).unwrap();
    }
    let (mut told, all) = (0, streams.len());
    wait_until(DEADLINE, "as many clients as there are closed flows", || {
        streams.retain_mut(|stream| {
            let read = stream.read(&mut [0; 16]).map_err(|error| error.kind());
            read != Err(ErrorKind::ConnectionReset)
        });
        told = (all - streams.len()) as u64;
        let closed = &balancer.status()["flow_table"]["events"]["closed"]["backend_gone"];
        told > 0 && closed.as_u64() == Some(told + 2)
    })
    .unwrap();
}

/// A connection to the second backend.
fn to_second(lab: &Lab, vip: SocketAddr) -> HttpConnection {
    let open = || {
        let mut connection =
            HttpConnection::open(&lab.client().netns, vip, &Connect::default()).unwrap();
        (connection.download(100, 1).unwrap() == "b2").then_some(connection)
    };
    (0..200).find_map(|_| open()).expect("three in ten go there")
}

/// A socket whose backend is the second.
fn asker_of_second(lab: &Lab, vip: SocketAddr) -> UdpAsker {
    let open = || {
        let asker = UdpAsker::open(&lab.client().netns, vip, &Connect::default()).unwrap();
        (asker.ask(b"who").unwrap() == "b2").then_some(asker)
    };
    (0..200).find_map(|_| open()).expect("three in ten go there")
}

//! The steps of a packet in words, and what they come to: which service, which backend and why not another, what is rewritten, where it
//! leaves.

use std::net::IpAddr;

use equipoise_common::flow::{Meta, flag};
use equipoise_common::key::TCP;
use equipoise_common::step::{Step, What};
use equipoise_common::value::Mode;
use equipoise_common::verdict::{Hook, Kind, Verdict};
use equipoise_core::config::target;

use super::frame::Seen;
use super::scene::{Pool, Scene};
use crate::dataplane::kernel::Explained;
use crate::host::Way;
use crate::status::explain::{Becomes, Mtu, Out, Rewrite, Told, WhyNot};
use crate::stream::Would;

/// What the steps of a packet come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Story {
    pub(super) service: Option<String>,
    pub(super) route: Option<String>,
    pub(super) backend: Option<String>,
    pub(super) why_not: Vec<WhyNot>,
    pub(super) rewrite: Rewrite,
    pub(super) out: Option<Out>,
    pub(super) mtu: Option<Mtu>,
    pub(super) steps: Vec<Told>,
}

/// What was met, by number.
#[derive(Default)]
struct Met {
    service: Option<u32>,
    pool: Option<u32>,
    backend: Option<u32>,
    /// Backends that have no room or no token for it.
    refused: Vec<(u32, String)>,
    is_known: bool,
    is_reply: bool,
    /// Whether this host takes its connection up.
    is_streamed: bool,
    interface: Option<u32>,
    overhead: u32,
}

/// The word for what becomes of a packet.
pub(super) const fn kind(verdict: Verdict) -> &'static str {
    match verdict.kind() {
        Kind::Forward => "forward",
        Kind::Stack => "stack",
        Kind::Answer => "answer",
        Kind::Pass => "pass",
        Kind::Drop => "drop",
    }
}

impl Story {
    /// Of a packet that came so to a hook.
    pub(super) fn new(scene: &Scene, hook: Hook, came: &[u8], explained: &Explained) -> Self {
        let (before, after) = (Seen::of(came), Seen::of(&explained.frame));
        let mut met = Met::default();
        let mut steps = Vec::new();
        for step in &explained.steps {
            let Some(what) = What::from_number(step.what) else { continue };
            met.note(what, step);
            let text = in_words(scene, what, step, before.as_ref());
            steps.push(Told { hook: hook.name().to_owned(), step: what.name().to_owned(), text });
        }
        let pool = met.pool_of(scene);
        let chosen = met.backend.and_then(|id| scene.backend(id)).map(|(_, member)| member);
        let leaves = explained.verdict.kind() == Kind::Forward;
        Self {
            service: pool.map(|pool| pool.service.clone()).or_else(|| met.service_of(scene)),
            route: pool.map(|pool| pool.route.clone()),
            backend: met.backend.map(|id| scene.name(id)),
            why_not: pool.map(|pool| met.why_not(pool, before.as_ref())).unwrap_or_default(),
            rewrite: rewrite(before, after),
            out: met.interface.filter(|_| leaves).map(|index| Out {
                interface: scene.device(index).0,
                next_hop: chosen.filter(|_| !met.is_reply).and_then(|member| {
                    match scene.ways.get(&member.address.ip())? {
                        Way::Via { next_hop, .. } => Some(*next_hop),
                        Way::Local | Way::Unreachable => None,
                    }
                }),
            }),
            mtu: met.interface.zip(after).and_then(|(index, after)| {
                let link = scene.device(index).1?;
                Some(Mtu { link, overhead: met.overhead, packet: after.length })
            }),
            steps,
        }
    }
}

impl Story {
    /// Its connection is taken up by this host, and goes on so.
    pub(super) fn go_on(
        &mut self,
        scene: &Scene,
        (hook, would): (Hook, Would),
        name: Option<&str>,
        seen: &Seen,
    ) {
        let met = Met { pool: Some(would.pool), backend: would.backend, ..Met::default() };
        let Some(pool) = met.pool_of(scene) else { return };
        self.route = Some(pool.route.clone());
        self.backend = would.backend.map(|id| scene.name(id));
        self.why_not = met.why_not(pool, Some(seen));
        let route = &pool.route;
        let led = match name {
            _ if !would.asks => format!("its source is led by route {route}"),
            Some(name) => format!("a client that names {name} is led by route {route}"),
            None => format!("a client that names no server is led by route {route}"),
        };
        let to = self.backend.as_deref().unwrap_or("nobody, and is reset");
        let texts = [led, format!("a connection of this host's own goes to {to}")];
        self.steps.extend(texts.map(|text| Told {
            hook: hook.name().to_owned(),
            step: "stream".to_owned(),
            text,
        }));
    }
}

impl Met {
    fn note(&mut self, what: What, step: &Step) {
        let (first, second) = (step.first, step.second);
        match what {
            What::FlowHit => {
                self.backend = Some(first);
                self.is_known = true;
                self.is_reply = Meta(second).has(flag::REPLY);
            }
            What::Service => (self.service, self.pool) = (Some(first), Some(second as u32)),
            What::Routed => self.pool = Some(first),
            What::Slot => self.backend = Some(second as u32),
            What::BackendFull => {
                self.refused.push((first, format!("it has {second} flows, which is its limit")));
            }
            What::BackendOverLimit => {
                self.refused.push((first, format!("it has had {second} new flows a second")));
            }
            What::Unremembered => {
                self.backend = Some(first);
                self.is_reply = true;
            }
            What::Encapsulated => self.overhead = second as u32,
            What::Route => self.interface = Some(second as u32),
            What::Verdict => self.is_streamed = first == Verdict::Streamed as u32,
            What::Parsed
            | What::FlowMiss
            | What::FlowExpired
            | What::NoService
            | What::PortChanged
            | What::Rewritten
            | What::SourceChanged
            | What::MssLowered
            | What::Access
            | What::SourceOverLimit => {}
        }
    }

    fn pool_of<'a>(&self, scene: &'a Scene) -> Option<&'a Pool> {
        let of_backend = self.backend.and_then(|id| scene.backend(id)).map(|(pool, _)| pool);
        let by_id = || self.pool.and_then(|id| scene.pool_ids.get(&id));
        of_backend.or_else(|| by_id().map(|&at| &scene.pools[at]))
    }

    fn service_of(&self, scene: &Scene) -> Option<String> {
        self.service.and_then(|id| scene.services.get(&id)).cloned()
    }

    /// The other backends of the pool, and why each is not the one.
    fn why_not(&self, pool: &Pool, before: Option<&Seen>) -> Vec<WhyNot> {
        let chosen = self.backend;
        let others =
            pool.backends.iter().filter(|member| member.id.is_none() || member.id != chosen);
        let why = |member: &super::scene::Member| {
            let refused = self.refused.iter().find(|(id, _)| member.id == Some(*id));
            if let Some((_, why)) = refused {
                return why.clone();
            }
            if self.is_known {
                return "its flow went to another when it was opened".to_owned();
            }
            let is_v6 = |address: IpAddr| address.is_ipv6();
            let is_other = before
                .is_some_and(|seen| is_v6(seen.destination.ip()) != is_v6(member.address.ip()));
            if let Some(out) = &member.out {
                return out.clone();
            }
            if is_other && !pool.is_tunnel {
                return "it is of another address family".to_owned();
            }
            if self.is_streamed {
                let share = member.share * 100.0;
                return format!(
                    "which one it is shows when this host has taken the connection up; it gets {share:.1} % of new flows"
                );
            }
            format!("{}; it gets {:.1} % of new flows", pool.pick, member.share * 100.0)
        };
        others
            .map(|member| WhyNot { backend: target::text(member.address), reason: why(member) })
            .collect()
    }
}

fn rewrite(before: Option<Seen>, after: Option<Seen>) -> Rewrite {
    let (Some(before), Some(after)) = (before, after) else { return Rewrite::default() };
    let becomes = |from: String, to: String| (from != to).then_some(Becomes { from, to });
    Rewrite {
        source: becomes(target::text(before.source), target::text(after.source)),
        destination: becomes(target::text(before.destination), target::text(after.destination)),
        hop_limit: becomes(before.hop_limit.to_string(), after.hop_limit.to_string()),
        outer: after
            .outer
            .filter(|_| before.outer.is_none())
            .map(|(from, to)| Becomes { from: from.to_string(), to: to.to_string() }),
    }
}

/// A step in words.
fn in_words(scene: &Scene, what: What, step: &Step, seen: Option<&Seen>) -> String {
    let (first, second) = (step.first, step.second);
    match what {
        What::Parsed => {
            let protocol = if first == TCP { "tcp" } else { "udp" };
            match seen {
                Some(Seen { source, destination, .. }) => {
                    format!("{protocol} {source} to {destination}")
                }
                None => format!("{protocol}, ports {} to {}", second >> 16, second & 0xffff),
            }
        }
        What::FlowHit => {
            let meta = Meta(second);
            let whose = if meta.has(flag::REPLY) { "a reply of a flow" } else { "of a flow" };
            let (name, state) = (scene.name(first), meta.state().name());
            format!("the flow table knows it: {whose} to {name}, {state}")
        }
        What::FlowMiss => "the flow table does not know it".to_owned(),
        What::FlowExpired => {
            format!("its flow to {} is past its time, as good as none", scene.name(first))
        }
        What::Service => match scene.services.get(&first) {
            Some(name) => format!("it is for service {name}"),
            None => "it is for a service that has just left".to_owned(),
        },
        What::NoService => format!("no service has port {second} of this address here"),
        What::Access => match second {
            0 => format!("the prefix of {first} bits that decides lets its source in"),
            1 => format!("the prefix of {first} bits that decides denies its source"),
            _ => "no prefix tells of its source".to_owned(),
        },
        What::SourceOverLimit => {
            format!("its source has had the {second} new flows a second that it may have")
        }
        What::Routed => {
            let pool = scene.pool_ids.get(&first).map(|&at| &scene.pools[at]);
            let route = pool.map_or("that has just left", |pool| &*pool.route);
            format!("its source is led by route {route}")
        }
        What::Slot => {
            format!("slot {first} of the pool is {}'s", scene.name(second as u32))
        }
        What::BackendFull => {
            format!("{} has {second} flows, which is its limit", scene.name(first))
        }
        What::BackendOverLimit => {
            format!(
                "{} has had the {second} new flows a second that it may have",
                scene.name(first)
            )
        }
        What::Unremembered => {
            format!("it answers, from {}, a packet that was not remembered", scene.name(first))
        }
        What::PortChanged => {
            let name = scene.name(first);
            format!("its port is another flow's at {name}: it gets port {second} there")
        }
        What::SourceChanged => {
            format!("its source becomes ours at {}: port {second}", scene.name(first))
        }
        What::Encapsulated => {
            let mode = [Mode::Ipip, Mode::Gue, Mode::Dsr].into_iter().find(|m| *m as u32 == first);
            match mode {
                Some(Mode::Ipip) => format!("it is put inside an IP packet, {second} bytes more"),
                Some(Mode::Gue) => format!("it is put inside a GUE packet, {second} bytes more"),
                _ => format!("{second} bytes go before it"),
            }
        }
        What::MssLowered => format!("its MSS of {first} bytes becomes {second}"),
        What::Rewritten => format!("its ports become {second} to {first}"),
        What::Route => route(scene, first, second as u32),
        What::Verdict => match Verdict::ALL.get(first as usize) {
            Some(verdict) => format!("{}: {}", verdict.name(), verdict.meaning().trim()),
            None => format!("verdict {first}"),
        },
    }
}

/// What the kernel says of a way: results of `bpf_fib_lookup` (`BPF_FIB_LKUP_RET_*`).
fn route(scene: &Scene, result: u32, interface: u32) -> String {
    let (name, mtu) = scene.device(interface);
    match result {
        0 => format!("the kernel's way is by {name}, and it knows the neighbour"),
        1 => "a blackhole route: no way".to_owned(),
        2 => "an unreachable route: no way".to_owned(),
        3 => "a route that prohibits: no way".to_owned(),
        4 => "it is for this host itself".to_owned(),
        5 => format!("forwarding is off on the interface that it comes by: no way by {name}"),
        7 => format!("the kernel's way is by {name}, where the neighbour is not known yet"),
        8 => match mtu {
            Some(mtu) => format!("the way by {name} carries {mtu} bytes at most: too small"),
            None => format!("the way by {name} is too small"),
        },
        other => format!("the kernel knows no way (result {other})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::explain::frame::{self, Part};
    use crate::driver::explain::scene::Member;
    use crate::status::explain::Addresses;

    fn scene() -> Scene {
        let member = |id, address: &str, out: Option<&str>, share| Member {
            id: Some(id),
            address: address.parse().unwrap(),
            out: out.map(str::to_owned),
            share,
        };
        let backends = vec![
            member(4, "10.0.0.1:8080", None, 0.6),
            member(5, "10.0.0.2:8080", None, 0.4),
            member(6, "10.0.0.3:8080", Some("it is draining"), 0.0),
            member(7, "[2001:db8::1]:8080", None, 1.0),
        ];
        let pick = "the hash of its addresses leads to another's slot";
        let (service, route) = ("web".to_owned(), "default".to_owned());
        let via = |next_hop: &str| Way::Via {
            interface: 3,
            next_hop: next_hop.parse().unwrap(),
            source: None,
        };
        Scene {
            services: [(1, "web".to_owned())].into(),
            pool_ids: [(2, 0)].into(),
            pools: vec![Pool { service, route, pick, is_tunnel: false, backends }],
            backends: (4..8).map(|id| (id, (0, id as usize - 4))).collect(),
            devices: [(3, ("eth1".to_owned(), 1500))].into(),
            ways: [("10.0.0.1".parse().unwrap(), via("10.9.9.9"))].into(),
        }
    }

    fn step(what: What, first: u32, second: u64) -> Step {
        Step { what: what as u32, first, second }
    }

    fn frame(destination: &str) -> Vec<u8> {
        let asked = Addresses {
            protocol: "tcp".to_owned(),
            source: "198.51.100.7:4242".parse().unwrap(),
            destination: destination.parse().unwrap(),
        };
        frame::make(&asked, Part::First, [2; 6]).unwrap()
    }

    #[test]
    fn a_new_flow_is_told_from_service_to_link() {
        let steps = vec![
            step(What::Parsed, TCP, 4242 << 16 | 80),
            step(What::FlowMiss, 0, 0),
            step(What::Service, 1, 2),
            step(What::Slot, 17, 5),
            step(What::BackendFull, 5, 100),
            step(What::Slot, 18, 4),
            step(What::Route, 0, 3),
            step(What::Rewritten, 8080, 4242),
            step(What::Verdict, Verdict::ForwardedRequest as u32, 0),
        ];
        let explained = Explained {
            action: "redirect",
            verdict: Verdict::ForwardedRequest,
            frame: frame("10.0.0.1:8080"),
            steps,
        };
        let story = Story::new(&scene(), Hook::Xdp, &frame("203.0.113.10:80"), &explained);
        assert_eq!(story.service.as_deref(), Some("web"));
        assert_eq!(story.route.as_deref(), Some("default"));
        assert_eq!(story.backend.as_deref(), Some("10.0.0.1:8080"));
        let why: Vec<_> = story.why_not.iter().map(|w| (&*w.backend, &*w.reason)).collect();
        assert_eq!(
            why,
            [
                ("10.0.0.2:8080", "it has 100 flows, which is its limit"),
                ("10.0.0.3:8080", "it is draining"),
                ("[2001:db8::1]:8080", "it is of another address family"),
            ]
        );
        let destination = story.rewrite.destination.unwrap();
        assert_eq!((&*destination.from, &*destination.to), ("203.0.113.10:80", "10.0.0.1:8080"));
        assert_eq!((story.rewrite.source, story.rewrite.outer), (None, None));
        let out = story.out.unwrap();
        assert_eq!((&*out.interface, out.next_hop), ("eth1", "10.9.9.9".parse().ok()));
        assert_eq!(story.mtu, Some(Mtu { link: 1500, overhead: 0, packet: 40 }));
        assert_eq!(story.steps.len(), 9);
        assert_eq!(story.steps[0].text, "tcp 198.51.100.7:4242 to 203.0.113.10:80");
    }

    #[test]
    fn a_connection_that_this_host_takes_up_has_no_backend_yet() {
        let steps = vec![
            step(What::FlowMiss, 0, 0),
            step(What::Service, 1, 2),
            step(What::Verdict, Verdict::Streamed as u32, 0),
        ];
        let came = frame("203.0.113.10:80");
        let (action, verdict) = ("pass", Verdict::Streamed);
        let explained = Explained { action, verdict, frame: came.clone(), steps };
        let story = Story::new(&scene(), Hook::Xdp, &came, &explained);
        assert_eq!((story.service.as_deref(), story.backend, story.out), (Some("web"), None, None));
        assert_eq!(story.rewrite, Rewrite::default());
        let why: Vec<_> = story.why_not.iter().map(|w| &*w.reason).collect();
        let shows = "which one it is shows when this host has taken the connection up";
        assert_eq!(
            why,
            [
                &format!("{shows}; it gets 60.0 % of new flows"),
                &format!("{shows}; it gets 40.0 % of new flows"),
                "it is draining",
                "it is of another address family",
            ]
        );
        assert_eq!(kind(verdict), "stack");
        let told = "streamed: TCP of no flow, for a pool whose connections this host takes up";
        assert!(story.steps[2].text.starts_with(told), "{}", story.steps[2].text);
    }

    #[test]
    fn what_is_for_nobody_has_neither_service_nor_way() {
        let steps = vec![
            step(What::FlowMiss, 0, 0),
            step(What::NoService, 2, 81),
            step(What::Verdict, Verdict::NoService as u32, 0),
        ];
        let came = frame("203.0.113.10:81");
        let (action, verdict) = ("pass", Verdict::NoService);
        let explained = Explained { action, verdict, frame: came.clone(), steps };
        let story = Story::new(&scene(), Hook::Xdp, &came, &explained);
        assert_eq!((story.service, story.backend, story.out), (None, None, None));
        assert_eq!(story.rewrite, Rewrite::default());
        assert!(story.why_not.is_empty());
        assert_eq!(kind(verdict), "pass");
    }
}

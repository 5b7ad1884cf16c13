//! What `check --host` says beyond what is wrong: what the kernel cannot do, and packets that are too large on their way to backends.
//!
//! Pure functions of a configuration and of what was found. Nothing that the packet programs themselves deal with stops a start: a
//! packet that is too large is answered with its limit, and TCP ends may be told to send smaller ones (`mss-clamp`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use equipoise_core::config::{Backend, Config, Mode, MssClamp, Protocol, Service, problem_at};

use super::check::Findings;
use super::{Reading, Way};
use crate::dataplane::kernel::Ability;

/// What IPv6 needs of every link.
const LEAST_V6: u32 = 1280;

/// What is missing of the kernel: a problem where nothing runs without, a note where there is something else.
pub fn kernel(config: &Config, abilities: &[Ability]) -> Findings {
    let mut findings = Findings::default();
    let at = |message, allowed: Option<&str>| {
        problem_at(&config.places, "settings", message, allowed.map(str::to_owned))
    };
    let mut untold = BTreeSet::new();
    for Ability { what, instead, found } in abilities {
        match (found, instead) {
            (Ok(true), _) => {}
            (Ok(false), None) => {
                let message = format!("this kernel has no {what}, which the packet programs need");
                findings.problems.push(at(message, None));
            }
            (Ok(false), Some(instead)) => {
                findings.notes.push(at(format!("this kernel has no {what}: {instead}"), None));
            }
            (Err(reason), _) => drop(untold.insert(reason)),
        }
    }
    for reason in untold {
        let message = format!("what this kernel can do was not told: {reason}");
        let allowed = "root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON";
        findings.notes.push(at(message, Some(allowed)));
    }
    findings
}

/// What this process lacks to run an instance itself; another user may have it.
pub fn privileges(config: &Config, missing: Option<String>) -> Findings {
    let at = |message| problem_at(&config.places, "settings", message, None);
    Findings { notes: missing.map(at).into_iter().collect(), ..Findings::default() }
}

/// Where packets of full size from clients do not fit on the way to backends, with what is put around them.
pub fn sizes(config: &Config, reading: &Reading) -> Findings {
    let mut findings = Findings::default();
    for (position, service) in config.services.iter().enumerate() {
        let key = format!("service[{position}]");
        let Some(arrives) = arrives(service, reading) else { continue };
        // Of many backends behind one link, one is told.
        let mut told = BTreeSet::new();
        for backend in service.all_backends() {
            let Some(link) = Link::to(service, backend, reading) else { continue };
            if !told.insert((link.name, link.around)) {
                continue;
            }
            for (part, message, allowed) in link.messages(service, arrives) {
                let key = format!("{key}.{part}");
                findings.notes.push(problem_at(&config.places, &key, message, Some(allowed)));
            }
        }
    }
    findings
}

/// The largest packet that comes from clients; `lo` carries what never leaves this machine, and is not counted.
fn arrives(service: &Service, reading: &Reading) -> Option<u32> {
    let devices = service.listen.interfaces.iter().filter_map(|name| reading.devices.get(name));
    devices.filter(|device| !device.loopback && device.mtu > 0).map(|device| device.mtu).max()
}

/// The link to a backend.
struct Link<'a> {
    name: &'a str,
    mtu: u32,
    /// Bytes that are put around each packet.
    around: u32,
    backend: IpAddr,
}

impl<'a> Link<'a> {
    fn to(service: &Service, backend: &Backend, reading: &'a Reading) -> Option<Self> {
        let ip = backend.address.ip();
        let Way::Via { interface, .. } = reading.ways.get(&ip)? else { return None };
        let (name, device) = reading.by_index(*interface)?;
        let header = if ip.is_ipv4() { 20 } else { 40 };
        let around = match service.delivery.mode {
            Mode::Nat | Mode::FullNat | Mode::Dsr => 0,
            Mode::Ipip => header,
            Mode::Gue => header + 8,
        };
        let usable = !device.loopback && device.mtu > around;
        usable.then_some(Self { name, mtu: device.mtu, around, backend: ip })
    }

    /// What goes to the backend in one piece.
    fn room(&self) -> u32 {
        self.mtu - self.around
    }

    /// The room, and where it comes from.
    fn told(&self, mode: Mode) -> String {
        let Self { name, mtu, around, backend } = self;
        let room = self.room();
        match around {
            0 => format!("packets to {backend} have {room} bytes by `{name}`"),
            _ => format!(
                "packets to {backend} have {room} bytes: {mtu} by `{name}`, less {around} for {mode}"
            ),
        }
    }

    /// Part of the service, what is said of it, and what would do.
    fn messages(&self, service: &Service, arrives: u32) -> Vec<(&'static str, String, String)> {
        let (room, mode) = (self.room(), service.delivery.mode);
        let mut all = Vec::new();
        let wider = format!("an MTU of {} bytes of `{}`", arrives + self.around, self.name);
        // Without the options that TCP may have.
        let headers = match service.listen.address {
            Some(IpAddr::V4(_)) => 40,
            Some(IpAddr::V6(_)) | None => 60,
        };
        let told = self.told(mode);
        let fits = room.saturating_sub(headers);
        if headers == 60 && mode.is_tunnel() && room < LEAST_V6 {
            let message = format!("{told}; IPv6 needs {LEAST_V6}");
            let enough = LEAST_V6 + self.around;
            all.push(("mode", message, format!("an MTU of {enough} bytes of `{}`", self.name)));
        }
        let clamped = match service.delivery.mss_clamp {
            MssClamp::Auto => mode.is_tunnel(),
            MssClamp::Off => false,
            MssClamp::Bytes(bytes) if u32::from(bytes) > fits => {
                let message = format!(
                    "{told}; a segment of {bytes} bytes is a packet of {}",
                    u32::from(bytes) + headers
                );
                all.push(("mss-clamp", message, format!("{fits} at most")));
                return all;
            }
            MssClamp::Bytes(_) => true,
        };
        if room >= arrives {
            return all;
        }
        let sent = format!("{told}, and clients send up to {arrives}");
        if !clamped && service.listen.protocol != Protocol::Udp {
            let message = format!(
                "{sent}: full TCP segments do not fit until clients heed the ICMP errors that tell them so"
            );
            let clamp = if mode.is_tunnel() { "\"auto\"".to_owned() } else { fits.to_string() };
            all.push(("mss-clamp", message, format!("mss-clamp = {clamp}, or {wider}")));
        }
        if service.listen.protocol != Protocol::Tcp {
            let message = format!(
                "{sent}: larger datagrams are answered with an ICMP error and do not arrive"
            );
            all.push(("mode", message, wider));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Device;
    use equipoise_core::config::{Problem, parse};

    fn machine(front: u32, back: u32) -> Reading {
        let device = |index, mtu| Device { index, mtu, ..Device::default() };
        let way = |address: &str| {
            let next_hop = address.parse().unwrap();
            (next_hop, Way::Via { interface: 3, next_hop, source: None })
        };
        Reading {
            devices: [
                ("eth0".to_owned(), device(2, front)),
                ("eth1".to_owned(), device(3, back)),
                ("lo".to_owned(), Device { loopback: true, ..device(1, 65_536) }),
            ]
            .into(),
            ways: ["10.0.0.1", "10.0.0.2", "2001:db8::1"].map(way).into(),
            ..Reading::default()
        }
    }

    /// What is noted of a service with these keys: the last part of its place, what is said, what would do.
    fn noted(
        keys: &str,
        backends: &[&str],
        (front, back): (u32, u32),
    ) -> Vec<(String, String, String)> {
        let backends: String =
            backends.iter().map(|at| format!("{{ address = \"{at}\" }},")).collect();
        let text = format!(
            "[[service]]\nname = 'web'\n\
             listen = {{ interfaces = ['eth0', 'lo'], address = '203.0.113.10', port = 80, protocol = 'tcp' }}\n\
             {keys}\nbackends = [{backends}]\n"
        );
        let text = match keys.contains("# udp") {
            true => text.replace("'tcp'", "'udp'"),
            false => text,
        };
        let found = sizes(&parse("a.toml", &text).unwrap().config, &machine(front, back));
        assert_eq!(found.problems, []);
        let told = |problem: Problem| {
            let key = problem.key.rsplit('.').next().unwrap_or_default().to_owned();
            (key, problem.message, problem.allowed.unwrap_or_default())
        };
        found.notes.into_iter().map(told).collect()
    }

    const V4: &[&str] = &["10.0.0.1:80", "10.0.0.2:80"];
    const V6: &[&str] = &["[2001:db8::1]:80"];

    #[test]
    fn segments_are_lowered_to_what_fits_unless_that_is_off() {
        assert_eq!(noted("mode = 'ipip'", V4, (1500, 1500)), []);
        let off = "mode = 'ipip'\nmss-clamp = 'off'";
        let [(key, message, allowed)] = &noted(off, V4, (1500, 1500))[..] else { panic!() };
        assert_eq!(key, "mss-clamp");
        assert!(
            message.starts_with(
                "packets to 10.0.0.1 have 1480 bytes: 1500 by `eth1`, less 20 for ipip, and clients send up to 1500"
            ),
            "{message}"
        );
        assert_eq!(allowed, "mss-clamp = \"auto\", or an MTU of 1520 bytes of `eth1`");
        assert_eq!(noted(off, V4, (1500, 1520)), []);
    }

    #[test]
    fn what_is_put_around_depends_on_the_mode_and_the_backends_family() {
        for (mode, backends, around) in
            [("ipip", V4, 20), ("ipip", V6, 40), ("gue", V4, 28), ("gue", V6, 48)]
        {
            let keys = format!("mode = '{mode}'\nmss-clamp = 'off'");
            assert_eq!(noted(&keys, backends, (1500, 1500 + around)), [], "{mode}");
            let [(_, message, _)] = &noted(&keys, backends, (1500, 1499 + around))[..] else {
                panic!("{mode}")
            };
            assert!(message.contains(&format!("less {around} for {mode}")), "{message}");
        }
    }

    #[test]
    fn datagrams_have_nobody_to_lower_them() {
        let notes = noted("mode = 'gue' # udp", V4, (1500, 1500));
        let [(key, message, allowed)] = &notes[..] else { panic!("{notes:?}") };
        assert_eq!((key.as_str(), allowed.as_str()), ("mode", "an MTU of 1528 bytes of `eth1`"));
        assert!(message.contains("larger datagrams are answered"), "{message}");
    }

    #[test]
    fn a_number_is_held_against_the_room() {
        assert_eq!(noted("mode = 'ipip'\nmss-clamp = 1440", V4, (1500, 1500)), []);
        let notes = noted("mode = 'ipip'\nmss-clamp = 1441", V4, (1500, 1500));
        let [(key, message, allowed)] = &notes[..] else { panic!("{notes:?}") };
        assert_eq!((key.as_str(), allowed.as_str()), ("mss-clamp", "1440 at most"));
        assert!(message.ends_with("a segment of 1441 bytes is a packet of 1481"), "{message}");
    }

    #[test]
    fn a_narrower_link_behind_is_told_without_a_tunnel_too() {
        assert_eq!(noted("", V4, (1500, 1500)), []);
        let notes = noted("", V4, (9000, 1500));
        let [(key, message, allowed)] = &notes[..] else { panic!("{notes:?}") };
        assert_eq!(key, "mss-clamp");
        assert!(message.starts_with("packets to 10.0.0.1 have 1500 bytes by `eth1`"), "{message}");
        assert!(allowed.starts_with("mss-clamp = 1460, or"), "{allowed}");
        assert_eq!(noted("mss-clamp = 1460", V4, (9000, 1500)), []);
    }

    fn config() -> Config {
        let text = "[[service]]\nname = 'web'\nlisten = { interfaces = ['eth0'], port = 80 }\n\
                    backends = [{ address = '10.0.0.1:80' }]\n";
        parse("a.toml", text).unwrap().config
    }

    #[test]
    fn kernel_without_what_is_needed_is_a_problem_and_without_the_rest_a_note() {
        let ability = |what, instead, found| Ability { what, instead, found };
        let found = kernel(
            &config(),
            &[
                ability("XDP programs", None, Ok(true)),
                ability("ring buffers", None, Ok(false)),
                ability("links", Some("filters take their place"), Ok(false)),
                ability("a", None, Err("not permitted".to_owned())),
                ability("b", None, Err("not permitted".to_owned())),
            ],
        );
        let said = |problems: &[Problem]| {
            problems.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>()
        };
        assert_eq!(
            said(&found.problems),
            ["this kernel has no ring buffers, which the packet programs need"]
        );
        assert_eq!(
            said(&found.notes),
            [
                "this kernel has no links: filters take their place",
                "what this kernel can do was not told: not permitted"
            ]
        );
    }

    #[test]
    fn what_this_process_may_not_do_is_a_note() {
        assert_eq!(privileges(&config(), None), Findings::default());
        let found = privileges(&config(), Some("missing: CAP_BPF".to_owned()));
        assert_eq!(found.notes[0].message, "missing: CAP_BPF");
    }
}

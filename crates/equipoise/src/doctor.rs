//! What of a machine breaks a load balancer on it: measured, judged, and put right where that is safe.
//!
//! [`Case`] is all that is known: a configuration, a running instance's status, and what was [`measured::measure`]d. [`examine`] is a pure
//! function of it: each rule of `rules/` turns facts into [`Finding`]s, good ones too. [`fix::fix`] takes the remedies that findings
//! carry, and says how each is taken back. Never changes a firewall, somebody's program, an address or a route.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use equipoise_core::config::{AttachMode, Config};
use serde::Serialize;

use crate::dataplane::kernel::verifier;
use crate::driver::wanted_here;
use crate::host::Device;
use crate::host::offloads::Turn;
use crate::status::{InterfaceStatus, Status};

pub mod fix;
pub mod measured;
mod rules;

use measured::Measured;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Good to know; nothing is lost by it.
    Notice,
    /// Slower than it could be, or right until something else happens.
    Warning,
    /// Packets are lost, or nothing runs.
    Problem,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// Which rule has found it, as `docs/doctor.md` names it.
    pub rule: &'static str,
    /// What it is about: an interface, a backend, a service; empty for the machine.
    pub subject: String,
    /// What was measured.
    pub measured: String,
    /// What comes of it; empty for what is as it should be.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub effect: String,
    /// What helps; empty for what is as it should be.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub help: String,
    /// What `--fix` does about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Remedy>,
}

/// Every rule, in the order of `docs/doctor.md`.
const RULES: [&str; 31] = [
    "kernel",
    "abilities",
    "verifier",
    "privileges",
    "bpffs",
    "memlock",
    "settings",
    "jit",
    "clock",
    "link",
    "hook",
    "foreign-xdp",
    "foreign-tc",
    "queues",
    "lro",
    "gro",
    "vlan-offload",
    "checksum-offload",
    "redirect",
    "configuration",
    "vip",
    "ipv6",
    "mtu",
    "forwarding",
    "rp-filter",
    "route",
    "neighbour",
    "return-path",
    "firewall",
    "conntrack",
    "instance",
];

impl Finding {
    fn ok(rule: &'static str, subject: &str, measured: impl Into<String>) -> Self {
        debug_assert!(RULES.contains(&rule), "{rule} is not in the list of rules");
        Self {
            level: Level::Ok,
            rule,
            subject: subject.to_owned(),
            measured: measured.into(),
            effect: String::new(),
            help: String::new(),
            remedy: None,
        }
    }

    fn because(self, level: Level, effect: impl Into<String>) -> Self {
        Self { level, effect: effect.into(), ..self }
    }

    fn helped(self, help: impl Into<String>) -> Self {
        Self { help: help.into(), ..self }
    }

    /// Helped by what the remedy does.
    fn cured(self, remedy: Remedy) -> Self {
        Self { help: remedy.to_string(), remedy: Some(remedy), ..self }
    }

    /// Whether `--fix` does something about it: not for what nothing is lost by.
    pub fn is_to_be_fixed(&self) -> bool {
        self.level >= Level::Warning && self.remedy.is_some()
    }
}

/// Something that can be done, and taken back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Remedy {
    /// A kernel setting.
    Setting {
        /// Below `/proc/sys/net`.
        path: String,
        /// What it is.
        from: String,
        /// What it is to be.
        to: String,
    },
    /// An offload of a device.
    Offload {
        /// The device.
        device: String,
        /// The kernel's name of it.
        feature: String,
        /// What it is to be; it is the other one.
        to: Turn,
    },
    /// The BPF file system.
    MountPins,
}

impl Remedy {
    /// The command that takes it back.
    pub fn back(&self) -> String {
        match self {
            Self::Setting { path, from, .. } => format!("sysctl -w {}=\"{from}\"", sysctl(path)),
            Self::Offload { device, feature, to } => {
                format!("ethtool -K {device} {feature} {}", to.back().name())
            }
            Self::MountPins => "umount /sys/fs/bpf".to_owned(),
        }
    }
}

/// The command that does the same.
impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting { path, to, .. } => write!(f, "sysctl -w {}={to}", sysctl(path)),
            Self::Offload { device, feature, to } => {
                write!(f, "ethtool -K {device} {feature} {}", to.name())
            }
            Self::MountPins => f.write_str("mount -t bpf bpffs /sys/fs/bpf"),
        }
    }
}

/// As `sysctl` writes it; dots in interface names are slashes there.
fn sysctl(path: &str) -> String {
    let turned = path.chars().map(|c| match c {
        '/' => '.',
        '.' => '/',
        c => c,
    });
    format!("net.{}", turned.collect::<String>())
}

/// All that is known.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// What is wanted of the machine; none where nobody has said.
    pub config: Option<Config>,
    /// How the running instance is; none where none runs.
    pub running: Option<Status>,
    /// What the machine is like.
    pub measured: Measured,
    /// What the kernel's verifier makes of the packet programs.
    pub verified: Verified,
}

/// Instructions that the kernel's verifier walks for each packet program, or why it refuses one; none where that was not asked.
pub type Verified = Option<Result<BTreeMap<String, u32>, String>>;

impl Case {
    /// The interfaces that programs are to hang on: without a configuration all that are up, but for `lo`.
    fn interfaces(&self) -> Vec<(&str, &Device)> {
        let devices = &self.measured.reading.devices;
        let wanted: BTreeSet<String> = match &self.config {
            Some(config) => wanted_here(config, &self.measured.reading),
            None => {
                let up = devices.iter().filter(|(_, device)| device.up && !device.loopback);
                up.map(|(name, _)| name.clone()).collect()
            }
        };
        let there = devices.iter().filter(|(name, _)| wanted.contains(*name));
        there.map(|(name, device)| (name.as_str(), device)).collect()
    }

    /// The hook that is asked for.
    fn asked(&self, interface: &str) -> AttachMode {
        let mode = |config: &Config| config.settings.attach.mode(interface);
        self.config.as_ref().map_or(AttachMode::Auto, mode)
    }

    /// What the running instance says of an interface.
    fn attached(&self, interface: &str) -> Option<&InterfaceStatus> {
        self.running.as_ref()?.interfaces.iter().find(|status| status.name == interface)
    }

    /// Whether a device has, or is to get, XDP in its driver.
    fn is_native(&self, name: &str, device: &Device) -> bool {
        match self.attached(name) {
            Some(status) => status.mode == "native",
            None => match self.asked(name) {
                AttachMode::Auto => device.native_xdp() && device.features.is_some(),
                AttachMode::Xdp => true,
                AttachMode::XdpGeneric | AttachMode::Tc => false,
            },
        }
    }

    /// Asks the verifier: of the programs that run; where none do, or their pins cannot be seen, of those that these interfaces would get,
    /// which takes seconds.
    pub fn verify(&self) -> Verified {
        if self.measured.process.is_some() {
            return None;
        }
        let instance = self.running.as_ref().map(|status| status.instance.as_str());
        let running = instance.map(verifier::of_instance).unwrap_or_default();
        if !running.is_empty() {
            return Some(Ok(running));
        }
        let mode = |(name, device): (&str, &Device)| match self.asked(name) {
            AttachMode::Auto if self.is_native(name, device) => AttachMode::Xdp,
            mode => mode,
        };
        let modes: Vec<AttachMode> = self.interfaces().into_iter().map(mode).collect();
        Some(verifier::by_trying(&modes).map_err(|error| error.to_string()))
    }

    fn setting(&self, path: &str) -> Option<&str> {
        self.measured.settings.get(path).map(String::as_str)
    }

    /// A setting of an interface that is a number, as the kernel goes by it where that is the larger of it and that of `all`.
    fn in_force(&self, interface: &str, setting: &str) -> u32 {
        let number = |name: &str| {
            let text = self.setting(&format!("ipv4/conf/{name}/{setting}"));
            text.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        number("all").max(number(interface))
    }

    /// Setting an interface's value of this to another one.
    fn to_set(&self, path: &str, to: &str) -> Remedy {
        let from = self.setting(path).unwrap_or("0").to_owned();
        Remedy::Setting { path: path.to_owned(), from, to: to.to_owned() }
    }
}

/// Judges everything, the worst first.
pub fn examine(case: &Case) -> Vec<Finding> {
    let mut findings = rules::all(case);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_are_commands_and_so_is_the_way_back() {
        let setting = Remedy::Setting {
            path: "ipv4/conf/eth0.7/rp_filter".to_owned(),
            from: "1".to_owned(),
            to: "2".to_owned(),
        };
        assert_eq!(setting.to_string(), "sysctl -w net.ipv4.conf.eth0/7.rp_filter=2");
        assert_eq!(setting.back(), "sysctl -w net.ipv4.conf.eth0/7.rp_filter=\"1\"");
        let offload = Remedy::Offload {
            device: "v0".to_owned(),
            feature: "tx-checksum-ip-generic".to_owned(),
            to: Turn::Off,
        };
        assert_eq!(offload.to_string(), "ethtool -K v0 tx-checksum-ip-generic off");
        assert_eq!(offload.back(), "ethtool -K v0 tx-checksum-ip-generic on");
    }

    #[test]
    fn nothing_is_done_about_what_nothing_is_lost_by() {
        let finding = Finding::ok("kernel", "", "m").cured(Remedy::MountPins);
        assert!(!finding.is_to_be_fixed());
        assert!(!finding.clone().because(Level::Notice, "e").is_to_be_fixed());
        assert!(finding.because(Level::Warning, "e").is_to_be_fixed());
        assert!(!Finding::ok("kernel", "", "m").because(Level::Problem, "e").is_to_be_fixed());
    }

    #[test]
    fn document_has_a_row_for_each_rule_in_their_order() {
        let text = include_str!("../../../docs/doctor.md");
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        let rows: Vec<&str> = rows.map(|(rule, _)| rule).collect();
        assert_eq!(rows, RULES);
    }

    #[test]
    fn worst_findings_come_first() {
        let levels: Vec<Level> = examine(&Case::default()).iter().map(|f| f.level).collect();
        assert!(levels.len() > 2 && levels.is_sorted_by(|a, b| a >= b), "{levels:?}");
    }
}

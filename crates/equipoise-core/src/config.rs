//! The checked configuration: what the rest of the program may rely on.
//!
//! [`parse`] turns the text of a file into a [`Config`] or into *all* of its problems, each with
//! its place. A `Config` in hand is valid in itself; whether this machine can serve it is asked
//! later, with facts. Knows nothing of files, of the machine or of the data plane.

mod check;
mod file;
mod flags;
mod path;
mod problem;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use equipoise_common::limit;
use serde::Serialize;

pub use flags::{flags_text, from_flags};
pub use problem::{Problem, problem_at};

/// A configuration that passed, and what is worth a warning.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// What works less than it seems to, in the order of the text.
    pub notes: Vec<Problem>,
}

/// Reads and checks the text of a file, whose kind is the extension of its name.
///
/// On failure: all that is wrong, in the order of the text; never nothing.
pub fn parse(name: &str, text: &str) -> Result<Checked, Vec<Problem>> {
    let file::Reading { root, mut faults } = file::read(name, text);
    let Some(root) = root else {
        problem::arrange(text, &mut faults);
        return Err(faults);
    };
    let check::Verdict { config, problems, notes } = check::check(text, &root);
    if let (Some(config), []) = (config, faults.as_slice()) {
        return Ok(Checked { config, notes });
    }
    problem::arrange(text, &mut faults);
    // What stands where the text itself is at fault was not meant as it was read.
    let meant = |problem: &Problem| !problem::any_meets(&faults, problem);
    let meant: Vec<_> = problems.into_iter().filter(meant).collect();
    faults.extend(meant);
    problem::arrange(text, &mut faults);
    Err(faults)
}

/// A whole, valid configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Config {
    /// The services, in the order of the file; at least one.
    pub services: Vec<Service>,
    /// Everything that is not of one service.
    pub settings: Settings,
    /// Where each key stands in the text, by its path (`service[0].listen.interfaces[1]`).
    #[serde(skip)]
    pub places: BTreeMap<String, Range<usize>>,
}

/// What clients connect to, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Service {
    /// Unique among services.
    pub name: String,
    /// Where it is reached.
    pub listen: Listen,
    /// How a backend is picked for a new flow.
    pub algorithm: Algorithm,
    /// The backends of its pool, both families in one list, in the order of the file.
    pub backends: Vec<Backend>,
    /// Whether the VIP is put on the first listening interface at start and taken away at stop.
    pub manage_address: bool,
}

/// Where a service is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Listen {
    /// Names of interfaces, without repetition; at least one.
    pub interfaces: Vec<String>,
    /// The VIP; absent for the interfaces' own addresses, which are followed as they change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The port, never 0.
    pub port: u16,
    /// Which protocols are balanced.
    pub protocol: Protocol,
}

/// Protocols of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP alone.
    Tcp,
    /// UDP alone.
    Udp,
    /// Both, each with flows of its own.
    Both,
}

/// How a slot of the pool is picked for a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// By the hash of the five-tuple; the same on every machine with the same configuration.
    Maglev,
    /// At random.
    Random,
}

/// Where packets go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Backend {
    /// Address and port; written in JSON and in commands as in the file.
    pub address: SocketAddr,
    /// Configured weight; 0 keeps flows and gets no new ones.
    pub weight: u16,
}

/// Everything that is not of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// Which hook the programs take, per interface.
    pub attach: Attach,
    /// On which interfaces replies are awaited.
    pub backend_interfaces: BackendInterfaces,
    /// Flows that the flow table holds.
    pub max_flows: u32,
    /// What becomes of the data plane when the process ends.
    pub on_exit: OnExit,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            attach: Attach::default(),
            backend_interfaces: BackendInterfaces::Auto,
            max_flows: limit::FLOWS,
            on_exit: OnExit::Detach,
        }
    }
}

/// Which hook the programs take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Attach {
    /// For interfaces without an entry of their own.
    pub default: AttachMode,
    /// For these interfaces.
    pub interfaces: BTreeMap<String, AttachMode>,
}

impl Default for Attach {
    fn default() -> Self {
        Self { default: AttachMode::Auto, interfaces: BTreeMap::new() }
    }
}

impl Attach {
    /// The mode asked for on an interface.
    pub fn mode(&self, interface: &str) -> AttachMode {
        self.interfaces.get(interface).copied().unwrap_or(self.default)
    }
}

/// A way to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachMode {
    /// What suits the device.
    Auto,
    /// XDP in the driver.
    Xdp,
    /// XDP in the stack.
    XdpGeneric,
    /// TC ingress.
    Tc,
}

/// On which interfaces replies are awaited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendInterfaces {
    /// Those that routes to the backends lead to, followed as they change.
    Auto,
    /// These.
    Named(Vec<String>),
}

/// What becomes of the data plane when the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnExit {
    /// Programs are detached and everything of ours is removed.
    Detach,
    /// Programs and maps stay pinned; packets flow on.
    Keep,
}

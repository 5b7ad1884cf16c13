//! A client with a tunnel and a backend that runs `equipoise decap`, in namespaces.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use equipoise_lab::link::{Checksums, End, Gro, Properties, veth, wait_ready};
use equipoise_lab::{Daemon, Netns};
use serde_json::Value;

use crate::bench::{self, OWN, OWN6, VIP, VIP6};
use crate::tunnel::Tunnel;
use crate::wire::{Around, How};

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const BINARY: &str = env!("CARGO_BIN_EXE_equipoise");

/// A hook to run on, as it is asked for and as it is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attach {
    pub(crate) asked: &'static str,
    pub(crate) told: [&'static str; 2],
    /// What its counters are called.
    pub(crate) hook: &'static str,
}

pub(crate) const NATIVE: Attach = Attach { asked: "xdp", told: ["xdp", "native"], hook: "xdp" };
pub(crate) const GENERIC: Attach =
    Attach { asked: "xdp-generic", told: ["xdp", "generic"], hook: "xdp" };
pub(crate) const TC: Attach = Attach { asked: "tc", told: ["tc", "tcx"], hook: "tc-ingress" };

/// How the link is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) checksums: Checksums,
    pub(crate) gro: Gro,
}

impl Default for Link {
    fn default() -> Self {
        Self { checksums: Checksums::Complete, gro: Gro::Off }
    }
}

pub(crate) fn vips() -> [SocketAddr; 2] {
    [VIP, VIP6].map(|vip| vip.parse().unwrap())
}

/// Sources as the balancer's: one for each flow.
pub(crate) fn arounds() -> Vec<Around> {
    let both =
        |how| [Around::new(how, bench::BALANCER, OWN), Around::new(how, bench::BALANCER6, OWN6)];
    How::ALL.into_iter().flat_map(both).collect()
}

const CLIENT: &str = "\
addr add 10.0.0.1/24 dev eth0
addr add 2001:db8:b::1/64 dev eth0 nodad";

/// Answers come directly; requests go by the tunnel.
const TUNNEL: &str = "\
addr add 198.51.100.7/32 dev tun0
addr add 2001:db8:c::7/128 dev tun0 nodad
route add 203.0.113.10/32 dev tun0 src 198.51.100.7
route add 2001:db8:f::10/128 dev tun0 src 2001:db8:c::7";

const BACKEND: &str = "\
addr add 10.0.0.11/24 dev eth0
addr add 2001:db8:b::11/64 dev eth0 nodad
route add default via 10.0.0.1
route add ::/0 via 2001:db8:b::1";

/// Two hosts.
pub(crate) struct Hosts {
    pub(crate) client: Netns,
    pub(crate) backend: Netns,
    pub(crate) tunnel: Tunnel,
}

impl Hosts {
    pub(crate) fn new(link: Link) -> Self {
        let (client, backend) = (Netns::new().unwrap(), Netns::new().unwrap());
        join(&client, &backend, link);
        let to = bench::link_address(&backend);
        let tunnel = Tunnel::start(&client, to, arounds()[0]);
        client.ip(TUNNEL).unwrap();
        // One of the encapsulations is larger than those that segments leave room for.
        client.ip("link set eth0 mtu 1504").unwrap();
        Self { client, backend, tunnel }
    }
}

/// Joins the two, with addresses.
pub(crate) fn join(client: &Netns, backend: &Netns, link: Link) {
    let end = |netns, gro| End { netns, device: "eth0", gro };
    let properties = Properties { mtu: 1500, queues: 1, checksums: link.checksums };
    veth(end(client, Gro::Off), end(backend, link.gro), properties).unwrap();
    client.ip(CLIENT).unwrap();
    backend.ip(BACKEND).unwrap();
    wait_ready(client, "eth0").unwrap();
    wait_ready(backend, "eth0").unwrap();
}

/// `equipoise decap` on the backend.
pub(crate) struct Process {
    pub(crate) daemon: Option<Daemon>,
    pub(crate) instance: String,
    netns: Netns,
}

impl Process {
    /// Nothing runs yet.
    pub(crate) fn prepare(hosts: &Hosts) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let instance = format!("decap-{}-{number}", std::process::id());
        Self { daemon: None, instance, netns: hosts.backend.clone() }
    }

    /// Runs on `eth0`, with both VIPs on `lo`.
    pub(crate) fn with_vips(hosts: &Hosts, attach: Attach) -> Self {
        let mut process = Self::prepare(hosts);
        process.run(&[&WITH_VIPS[..], &["--attach", attach.asked]].concat());
        process
    }

    /// Runs, and waits until it decapsulates.
    pub(crate) fn run(&mut self, arguments: &[&str]) {
        let mut command = self.command();
        command.args(["decap", "-i", "eth0", "--json"]).args(arguments);
        let mut daemon = Daemon::start(command).unwrap();
        daemon.wait_for_log("\"state\": \"running\"", DEADLINE).unwrap();
        self.daemon = Some(daemon);
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = self.netns.command(BINARY);
        command.args(["--instance", &self.instance]).env("NO_COLOR", "1");
        command
    }

    /// Runs `equipoise decap` to its end: exit code, standard output and error.
    pub(crate) fn ask(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.command().arg("decap").args(arguments).output().unwrap();
        let text =
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap(), text)
    }

    pub(crate) fn log(&self) -> String {
        self.daemon.as_ref().map(Daemon::log).unwrap_or_default()
    }

    /// Asks for its counters, and waits until it has told them.
    pub(crate) fn ask_counters(&mut self) -> Value {
        let documents = |log: &str| log.matches("\n}\n").count();
        let daemon = self.daemon.as_mut().unwrap();
        let before = documents(&daemon.log());
        daemon.signal(libc::SIGUSR1).unwrap();
        daemon
            .wait_until_ready(DEADLINE, "its counters", |daemon| documents(&daemon.log()) > before)
            .unwrap();
        last_report(&daemon.log())
    }

    /// Ends it as `systemctl stop` would, and gives its last counters.
    pub(crate) fn end(&mut self) -> Value {
        let stopped = self.daemon.take().unwrap().stop(DEADLINE).unwrap();
        assert!(stopped.status.success(), "{}", stopped.log);
        last_report(&stopped.log)
    }

    pub(crate) fn kill(&mut self) {
        self.daemon.take().unwrap().kill().unwrap();
    }
}

pub(crate) const WITH_VIPS: [&str; 4] = ["--address", "203.0.113.10", "2001:db8:f::10", "--lo"];

/// The last document among lines of a log.
pub(crate) fn last_report(log: &str) -> Value {
    let start = log.rfind("\n{\n").map_or(0, |at| at + 1);
    let end = log[start..].find("\n}\n").map_or(log.len(), |at| start + at + 3);
    serde_json::from_str(&log[start..end]).unwrap_or_else(|error| panic!("{error}\n{log}"))
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("its log:\n{}", self.log());
        }
        self.daemon = None;
        let _ = self.ask(&["--clean"]);
    }
}

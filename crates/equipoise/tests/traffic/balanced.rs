//! A lab with a running balancer: real namespaces, real servers, the real binary.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use equipoise_lab::refuse::{Call, Refusals};
use equipoise_lab::serve::{HttpServer, TcpEcho, UdpEcho};
use equipoise_lab::topology::{Host, Lab, Options};
use equipoise_lab::{Daemon, Netns};
use serde_json::Value;
use tempfile::TempDir;

/// For what comes true by itself, on a machine that may be busy with other things.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_equipoise");
/// The servers' port.
pub(crate) const PORT: u16 = 8080;
pub(crate) const WEIGHTS: [u32; 3] = [50, 30, 20];

/// A hook to run on, as the configuration names it, and as `status` tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attach {
    pub(crate) asked: &'static str,
    pub(crate) hook: &'static str,
    pub(crate) mode: &'static str,
}

impl Attach {
    /// As tables of results have it.
    pub(crate) fn name(self) -> &'static str {
        if self.mode == CLSACT.mode { "tc (clsact)" } else { self.asked }
    }
}

pub(crate) const NATIVE: Attach = Attach { asked: "xdp", hook: "xdp", mode: "native" };
pub(crate) const GENERIC: Attach = Attach { asked: "xdp-generic", hook: "xdp", mode: "generic" };
pub(crate) const TC: Attach = Attach { asked: "tc", hook: "tc", mode: "tcx" };
/// As kernels before 6.6 have it, which know no links there; [`Balancer::start_at`] makes this kernel one of them.
pub(crate) const CLSACT: Attach = Attach { asked: "tc", hook: "tc", mode: "clsact" };

/// How programs hang on TC in the running kernel: it shows its functions, and has one for the newer way from 6.6 on.
pub(crate) fn tc_mode() -> &'static str {
    let functions = std::fs::read_to_string("/proc/kallsyms").unwrap();
    let is_there = functions.lines().any(|line| line.ends_with(" tcx_prog_attach"));
    if is_there { "tcx" } else { "clsact" }
}

/// The balancer's process, and what it is asked through.
pub(crate) struct Balancer {
    pub(crate) daemon: Option<Daemon>,
    pub(crate) instance: String,
    netns: Netns,
    folder: TempDir,
    /// What each of its processes is refused from its start on.
    refusals: Option<Refusals>,
}

fn begin(mut command: Command, refusals: Option<&Refusals>) -> Daemon {
    let Some(refusals) = refusals else { return Daemon::start(command).unwrap() };
    Refusals::prepare(&mut command);
    let daemon = Daemon::start(command).unwrap();
    refusals.watch(daemon.pid()).unwrap();
    daemon
}

impl Balancer {
    /// Starts on a configuration, and waits until it balances.
    pub(crate) fn start(netns: &Netns, config: &str) -> Self {
        let mut balancer = Self::prepare(netns, config);
        balancer.run();
        balancer
    }

    /// All but starting.
    pub(crate) fn prepare(netns: &Netns, config: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let instance =
            format!("traffic-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::tempdir().unwrap();
        let balancer =
            Self { daemon: None, instance, netns: netns.clone(), folder, refusals: None };
        balancer.write(config);
        balancer
    }

    /// Starts where programs can hang as is asked for, and in no newer way.
    pub(crate) fn start_at(netns: &Netns, config: &str, attach: Attach) -> Self {
        let mut balancer = Self::prepare(netns, config);
        if attach.mode == CLSACT.mode {
            let refusals = Refusals::default();
            refusals.refuse(Call::Link, 1, libc::EINVAL);
            balancer.refusals = Some(refusals);
        }
        balancer.run();
        balancer
    }

    pub(crate) fn run(&mut self) {
        self.run_with(&[]);
    }

    /// Starts with these variables in its environment.
    pub(crate) fn run_with(&mut self, environment: &[(&str, &str)]) {
        let mut command = self.command();
        command.envs(environment.iter().copied());
        self.start_by(command);
    }

    /// Starts another binary.
    pub(crate) fn run_by(&mut self, binary: &Path) {
        let command = self.command_of(binary);
        self.start_by(command);
    }

    fn start_by(&mut self, mut command: Command) {
        command.args(["run", "-c"]).arg(self.file());
        let mut daemon = begin(command, self.refusals.as_ref());
        daemon.wait_for_log("running: instance", DEADLINE).unwrap();
        self.daemon = Some(daemon);
    }

    /// Starts with calls to the kernel of which some are refused.
    pub(crate) fn run_with_refusals(&mut self, refusals: &Refusals) {
        self.refusals = Some(refusals.clone());
        self.run();
    }

    /// The same, of a start that comes to nothing: exit code, and what it has said.
    pub(crate) fn fails_to_run(&self, refusals: &Refusals) -> (Option<i32>, String) {
        let mut command = self.command();
        command.args(["run", "-c"]).arg(self.file());
        let mut daemon = begin(command, Some(refusals));
        let status = daemon.wait(DEADLINE).unwrap();
        (status.code(), daemon.log())
    }

    /// The configuration file.
    pub(crate) fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("equipoise.toml")
    }

    pub(crate) fn write(&self, config: &str) {
        std::fs::write(self.file(), config).unwrap();
    }

    /// `equipoise` with this instance's name.
    pub(crate) fn command(&self) -> Command {
        self.command_of(Path::new(BINARY))
    }

    fn command_of(&self, binary: &Path) -> Command {
        self.named(self.netns.command(binary))
    }

    fn named(&self, mut command: Command) -> Command {
        command.args(["--instance", &self.instance]).env("NO_COLOR", "1");
        command
    }

    /// Runs a command of it to its end: exit code, standard output and error.
    pub(crate) fn ask(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = self.named(Command::new(BINARY));
        let output = self.netns.output_of(command.args(arguments)).unwrap();
        let text =
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap(), text)
    }

    pub(crate) fn log(&self) -> String {
        self.daemon.as_ref().map(Daemon::log).unwrap_or_default()
    }

    pub(crate) fn status(&self) -> Value {
        let (code, text) = self.ask(&["status", "--json"]);
        assert_eq!(code, 0, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// A verdict's count.
    pub(crate) fn verdict(&self, name: &str) -> u64 {
        self.status()["verdicts"][name].as_u64().unwrap_or_else(|| panic!("no verdict {name}"))
    }

    /// The sum of a number over all backends of a service.
    pub(crate) fn sum(&self, service: &str, key: &str) -> u64 {
        let status = self.status();
        let services = status["services"].as_array().unwrap();
        let service = services.iter().find(|s| s["name"] == service).unwrap();
        let pools = service["pools"].as_array().unwrap();
        pools
            .iter()
            .flat_map(|pool| pool["backends"].as_array().unwrap())
            .map(|b| b[key].as_u64().unwrap())
            .sum()
    }

    /// A backend of a service's own pool, by its number.
    pub(crate) fn backend(&self, service: &str, number: usize) -> Value {
        let status = self.status();
        let services = status["services"].as_array().unwrap();
        let service = services.iter().find(|s| s["name"] == service).unwrap();
        service["pools"][0]["backends"][number].clone()
    }

    /// Sends a signal.
    pub(crate) fn signal(&mut self, signal: i32) {
        self.daemon.as_mut().unwrap().signal(signal).unwrap();
    }

    /// Reads a new configuration by SIGHUP, and waits until it is in force.
    pub(crate) fn reload(&mut self, config: &str) {
        let generation = |status: &Value| status["config"]["generation"].as_u64().unwrap();
        let before = generation(&self.status());
        self.write(config);
        self.signal(libc::SIGHUP);
        equipoise_lab::wait_until(DEADLINE, "the new configuration", || {
            generation(&self.status()) > before
        })
        .unwrap();
    }

    /// Ends it as `systemctl stop` would, and says what it has logged.
    pub(crate) fn end(&mut self) -> String {
        let stopped = self.daemon.take().unwrap().stop(DEADLINE).unwrap();
        assert!(stopped.status.success(), "{}", stopped.log);
        stopped.log
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if self.daemon.is_some() && std::thread::panicking() {
            eprintln!("the balancer's log:\n{}", self.log());
            eprintln!("its status:\n{}", self.ask(&["status", "--json"]).1);
        }
        // Whatever the test has left of it.
        let _ = self.ask(&["stop"]);
        // Drains outlive that.
        let _ = std::fs::remove_dir_all(format!("/var/lib/equipoise/{}", self.instance));
        let _ = std::fs::remove_dir("/var/lib/equipoise");
    }
}

/// Clients, a balancer that runs, and backends that answer.
pub(crate) struct Balanced {
    pub(crate) balancer: Balancer,
    _http: Vec<HttpServer>,
    _udp: Vec<UdpEcho>,
    pub(crate) lab: Lab,
}

impl Balanced {
    pub(crate) fn new(attach: Attach, options: Options) -> Self {
        let lab = Lab::new(options).unwrap();
        let http = web_servers(&lab);
        let udp = udp_servers(&lab);
        let balancer = Balancer::start(&lab.balancer, &config(&lab, attach.asked));
        let balanced = Self { balancer, _http: http, _udp: udp, lab };
        balanced.assert_hook(attach);
        balanced
    }

    /// Every interface is attached as was asked.
    pub(crate) fn assert_hook(&self, attach: Attach) {
        let status = self.balancer.status();
        let interfaces = status["interfaces"].as_array().unwrap();
        assert_eq!(interfaces.len(), self.lab.balancer_devices().len());
        let mode = if attach.hook == "tc" { tc_mode() } else { attach.mode };
        for interface in interfaces {
            assert_eq!(
                (&interface["hook"], &interface["mode"]),
                (&attach.hook.into(), &mode.into()),
                "{interface}"
            );
        }
    }

    pub(crate) fn client(&self) -> &Netns {
        &self.lab.client().netns
    }
}

/// An HTTP server on every backend, both families.
pub(crate) fn web_servers(lab: &Lab) -> Vec<HttpServer> {
    let start = |b: &Host| HttpServer::start(&b.netns, &b.name, &b.at(PORT)).unwrap();
    lab.backends.iter().map(start).collect()
}

/// A TCP server on every backend, both families, that echoes.
pub(crate) fn echo_servers(lab: &Lab) -> Vec<TcpEcho> {
    let start = |b: &Host| TcpEcho::start(&b.netns, &b.name, &b.at(PORT)).unwrap();
    lab.backends.iter().map(start).collect()
}

/// A UDP server on every backend, both families.
pub(crate) fn udp_servers(lab: &Lab) -> Vec<UdpEcho> {
    let start = |b: &Host| UdpEcho::start(&b.netns, &b.name, &b.at(PORT)).unwrap();
    lab.backends.iter().map(start).collect()
}

/// The lab's VIPs, both families and protocols, over all backends with the weights 50, 30, 20.
pub(crate) fn config(lab: &Lab, attach: &str) -> String {
    let services = vips().map(|(name, vip)| service(name, vip, &backends(lab, vip)));
    settings(attach) + &services.concat()
}

/// Settings of small tables: to make large ones costs more than most tests.
pub(crate) fn settings(attach: &str) -> String {
    format!("[settings]\nattach = \"{attach}\"\nmax-flows = 20000\n")
}

pub(crate) fn vips() -> [(&'static str, SocketAddr); 2] {
    use equipoise_lab::topology::{VIP_V4, VIP_V6};
    [("web", (VIP_V4, 80).into()), ("web6", (VIP_V6, 80).into())]
}

/// Address and weight of each backend, of the family of `vip`.
pub(crate) fn backends(lab: &Lab, vip: SocketAddr) -> Vec<(SocketAddr, u32)> {
    let address = |at: [SocketAddr; 2]| if vip.is_ipv4() { at[0] } else { at[1] };
    let weight = |number: usize| WEIGHTS.get(number).copied().unwrap_or(1);
    lab.backends
        .iter()
        .enumerate()
        .map(|(number, b)| (address(b.at(PORT)), weight(number)))
        .collect()
}

pub(crate) fn service(name: &str, vip: SocketAddr, backends: &[(SocketAddr, u32)]) -> String {
    let mut text = format!(
        "[[service]]\nname = \"{name}\"\nalgorithm = \"random\"\n\
         listen = {{ interfaces = [\"front\"], address = \"{}\", port = {}, protocol = \"both\" }}\nbackends = [\n",
        vip.ip(),
        vip.port()
    );
    for (address, weight) in backends {
        writeln!(text, "  {{ address = \"{address}\", weight = {weight} }},").unwrap();
    }
    text + "]\n"
}

/// The configured weights by the backends' names.
pub(crate) fn weights(lab: &Lab) -> BTreeMap<String, u64> {
    lab.backends
        .iter()
        .zip(WEIGHTS)
        .map(|(b, weight)| (b.name.clone(), u64::from(weight)))
        .collect()
}

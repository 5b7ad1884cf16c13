//! The demo: a client, the balancer and three HTTP backends in namespaces, with real connections
//! over IPv4 and IPv6 through the real binary.
//!
//! It ends at the time given, or at Ctrl-C, and leaves nothing behind. It succeeds only if every
//! request got its answer.

mod screen;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use equipoise_lab::load::{Load, RunningLoad, Tally};
use equipoise_lab::serve::HttpServer;
use equipoise_lab::topology::{VIP_V4, VIP_V6};
use equipoise_lab::{Daemon, Host, Lab, Options};
use serde_json::Value;

use self::screen::{Frame, Row, Screen};
use crate::install::{self, Need};
use crate::leak::Bpffs;
use crate::step::{cargo, succeed};
use crate::target_directory;

/// Weights of the backends, one each.
const WEIGHTS: [u64; 3] = [50, 30, 20];
/// The one that URLs leave out.
const VIP_PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;
/// Connections at a time, over each address family.
const WORKERS: usize = 2;
/// How long the balancer may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);
const FRAME: Duration = Duration::from_secs(1);
/// How soon Ctrl-C is heeded.
const PULSE: Duration = Duration::from_millis(50);

static ASKED_TO_STOP: AtomicBool = AtomicBool::new(false);

/// Runs it for a time, or until it is asked to stop.
pub(crate) fn run(time: Option<Duration>) -> Result<()> {
    ensure!(
        install::is_root(),
        "the demo makes network namespaces and loads kernel programs: run it as root"
    );
    install::ensure(&[Need::Toolchain, Need::Bench])?;
    succeed(&mut cargo(&["build", "--release", "--locked", "--package", "equipoise"]))?;
    heed_signals();
    let bpffs = Bpffs::look()?;
    let outcome = Demo::start().and_then(|demo| demo.show(time));
    let restored = bpffs.restore();
    outcome.and(restored)
}

struct Demo {
    // In the order in which they end.
    balancer: Daemon,
    _servers: Vec<HttpServer>,
    lab: Lab,
    files: Files,
    services: Vec<Service>,
}

/// A service of the demo, and what the client sees of it.
struct Service {
    name: &'static str,
    vip: SocketAddr,
    backends: Vec<(String, SocketAddr)>,
}

impl Demo {
    fn start() -> Result<Self> {
        let lab = Lab::new(Options { backends: WEIGHTS.len(), ..Options::default() })?;
        let servers = lab
            .backends
            .iter()
            .map(|host| HttpServer::start(&host.netns, &host.name, &host.at(BACKEND_PORT)));
        let servers = servers.collect::<Result<_>>()?;
        let services = vec![
            Service::new("web", VIP_V4.into(), &lab.backends),
            Service::new("web-v6", VIP_V6.into(), &lab.backends),
        ];
        let files = Files::new()?;
        let config: Vec<String> = services.iter().map(Service::config).collect();
        let config = config.join("\n");
        fs::write(files.config(), &config)?;
        println!("\n# {}\n{config}", files.config().display());
        let mut command = lab.balancer.command(program());
        command.arg("--instance").arg(&files.instance).arg("--socket").arg(files.socket());
        command.arg("run").arg("--config").arg(files.config());
        let mut balancer = Daemon::start(command)?;
        balancer
            .wait_until_ready(PATIENCE, "an answer on its socket", |_| files.status().is_ok())?;
        Ok(Self { balancer, _servers: servers, lab, files, services })
    }

    /// Drives connections and shows them; gives whether all were answered.
    fn show(mut self, time: Option<Duration>) -> Result<()> {
        let (client, socket) = (self.lab.client().netns.path(), self.files.socket());
        println!("Attached: {}\n", hooks(&self.files.status()?["interfaces"]).join(", "));
        println!("By hand, while this runs:");
        for service in &self.services {
            println!("  nsenter --net={} curl -g {}", client.display(), service.url());
        }
        println!("  {} status --socket {}\n", program().display(), socket.display());
        let begun = Instant::now();
        let loads: Vec<RunningLoad> = self
            .services
            .iter()
            .map(|service| service.load(time).start(&self.lab.client().netns))
            .collect();
        let mut screen = Screen::new();
        while wait_for_next_frame(begun, time) {
            ensure!(
                self.balancer.is_running(),
                "the balancer has ended; it said:\n{}",
                self.balancer.log()
            );
            screen.show(&self.frame(begun, loads.iter().map(RunningLoad::tally)));
        }
        let tallies: Vec<Tally> = loads.into_iter().map(RunningLoad::stop).collect();
        screen.show(&self.frame(begun, tallies.iter().cloned()));
        let Self { balancer, files, .. } = self;
        let stopped = balancer.stop(PATIENCE)?;
        ensure!(
            stopped.status.success(),
            "the balancer ended with {}; it said:\n{}",
            stopped.status,
            stopped.log
        );
        drop(files);
        judge(&tallies)
    }

    fn frame(&self, begun: Instant, tallies: impl Iterator<Item = Tally>) -> Frame {
        let mut frame = Frame { elapsed: begun.elapsed(), ..Frame::default() };
        for (service, tally) in self.services.iter().zip(tallies) {
            frame.answered += tally.answered();
            frame.failed += tally.failed();
            frame.rows.extend(service.rows(&tally));
        }
        // An answer that cannot be had leaves its part of the table empty.
        if let Ok(status) = self.files.status() {
            frame.verdicts = numbers(&status["verdicts"]);
        }
        frame
    }
}

impl Service {
    fn new(name: &'static str, vip: IpAddr, hosts: &[Host]) -> Self {
        let address =
            |host: &Host| -> IpAddr { if vip.is_ipv4() { host.v4.into() } else { host.v6.into() } };
        let backends =
            hosts.iter().map(|host| (host.name.clone(), (address(host), BACKEND_PORT).into()));
        Self { name, vip: (vip, VIP_PORT).into(), backends: backends.collect() }
    }

    fn url(&self) -> String {
        match self.vip.ip() {
            IpAddr::V4(vip) => format!("http://{vip}/"),
            IpAddr::V6(vip) => format!("http://[{vip}]/"),
        }
    }

    fn config(&self) -> String {
        let mut text = format!(
            "[[service]]\n\
             name = \"{}\"\n\
             listen = {{ interfaces = [\"front\"], address = \"{}\", port = {VIP_PORT}, protocol = \"tcp\" }}\n\
             algorithm = \"random\"\n\
             backends = [\n",
            self.name,
            self.vip.ip(),
        );
        for ((_, address), weight) in self.backends.iter().zip(WEIGHTS) {
            text += &format!("  {{ address = \"{address}\", weight = {weight} }},\n");
        }
        text + "]\n"
    }

    fn load(&self, time: Option<Duration>) -> Load {
        Load { workers: WORKERS, ..Load::of_time(self.vip, time.unwrap_or(Duration::MAX)) }
    }

    fn rows(&self, tally: &Tally) -> Vec<Row> {
        let rows = self.backends.iter().zip(WEIGHTS).map(|((name, address), weight)| Row {
            service: self.name,
            backend: format!("{name} {address}"),
            promised: weight as f64 / WEIGHTS.iter().sum::<u64>() as f64,
            connections: tally.by_backend.get(name).copied().unwrap_or(0),
            of: tally.answered(),
        });
        rows.collect()
    }
}

/// The demo's own directory, and the name of its instance; gone when dropped.
struct Files {
    directory: PathBuf,
    instance: String,
}

impl Files {
    fn new() -> Result<Self> {
        let instance = format!("demo-{}", std::process::id());
        let directory = std::env::temp_dir().join(format!("equipoise-{instance}"));
        fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        Ok(Self { directory, instance })
    }

    fn config(&self) -> PathBuf {
        self.directory.join("equipoise.toml")
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("equipoise.sock")
    }

    /// What the balancer says of itself.
    fn status(&self) -> Result<Value> {
        let mut command = Command::new(program());
        command.arg("--instance").arg(&self.instance).arg("--socket").arg(self.socket());
        let output = command.args(["status", "--json"]).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("{}: {error}", self.directory.display());
        }
    }
}

fn program() -> PathBuf {
    target_directory().join("release").join(Path::new("equipoise"))
}

/// Waits for the next whole second; no more frames once the time is over or a signal came.
fn wait_for_next_frame(begun: Instant, time: Option<Duration>) -> bool {
    let frames = begun.elapsed().as_secs() + 1;
    let next = FRAME.saturating_mul(u32::try_from(frames).unwrap_or(u32::MAX));
    let end = time.unwrap_or(Duration::MAX);
    loop {
        let elapsed = begun.elapsed();
        if elapsed >= end || ASKED_TO_STOP.load(Ordering::Relaxed) {
            return false;
        }
        if elapsed >= next {
            return true;
        }
        thread::sleep(PULSE.min(next - elapsed).min(end - elapsed));
    }
}

/// An error unless every request got its answer.
fn judge(tallies: &[Tally]) -> Result<()> {
    for (reason, count) in tallies.iter().flat_map(|tally| &tally.failures) {
        println!("{count} requests failed: {reason}");
    }
    let failed: u64 = tallies.iter().map(Tally::failed).sum();
    ensure!(failed == 0, "{failed} requests got no answer");
    for tally in tallies {
        ensure!(tally.answered() > 0, "a service got no request");
    }
    println!("Every request got its answer.");
    Ok(())
}

/// The numbers of a JSON object that are not 0, the greatest first.
fn numbers(object: &Value) -> Vec<(String, u64)> {
    let entries = object.as_object().into_iter().flatten();
    let numbers = entries.filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)));
    let mut numbers: Vec<_> = numbers.filter(|(_, number)| *number > 0).collect();
    numbers.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
    numbers
}

/// Which hook each interface got, such as `front xdp native`.
fn hooks(interfaces: &Value) -> Vec<String> {
    let text =
        |interface: &Value, key: &str| interface[key].as_str().unwrap_or_default().to_owned();
    let interfaces = interfaces.as_array().into_iter().flatten();
    let hooks = interfaces.map(|interface| {
        let words = ["name", "hook", "mode"].map(|key| text(interface, key));
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    });
    hooks.collect()
}

/// Ctrl-C and SIGTERM end the demo in good order.
fn heed_signals() {
    extern "C" fn ask_to_stop(_: libc::c_int) {
        ASKED_TO_STOP.store(true, Ordering::Relaxed);
    }
    let handler = ask_to_stop as extern "C" fn(libc::c_int);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which a signal handler may do.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_come_greatest_first_without_zeros() {
        let object = json!({"forwarded": 7, "dropped": 0, "passed": 9});
        assert_eq!(numbers(&object), [("passed".to_owned(), 9), ("forwarded".to_owned(), 7)]);
        assert_eq!(numbers(&Value::Null), []);
    }

    #[test]
    fn hooks_are_named_with_their_interfaces() {
        let interfaces = json!([{"name": "front", "hook": "xdp", "mode": "native"}, {"name": "back", "hook": "tc"}]);
        assert_eq!(hooks(&interfaces), ["front xdp native", "back tc"]);
    }

    #[test]
    fn a_failure_or_a_silent_service_fails_the_demo() {
        let mut good = Tally::default();
        good.by_backend.insert("b1".to_owned(), 3);
        let mut bad = good.clone();
        bad.failures.insert("refused".to_owned(), 1);
        assert!(judge(&[good.clone(), good.clone()]).is_ok());
        assert!(judge(&[good.clone(), bad]).is_err());
        assert!(judge(&[good, Tally::default()]).is_err());
    }
}

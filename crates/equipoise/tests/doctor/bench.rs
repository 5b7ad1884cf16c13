//! A machine between a client and a backend, and what the doctor says of it.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use equipoise_lab::link::{Checksums, End, Gro, Properties, veth};
use equipoise_lab::{Daemon, Netns};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_equipoise");
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A machine with `front` (203.0.113.2, the VIP 203.0.113.10) to a client and default gateway, and `back` (10.0.0.254) to a backend.
pub(crate) struct Bench {
    pub(crate) near: Netns,
    pub(crate) client: Netns,
    pub(crate) backend: Netns,
    pub(crate) instance: String,
    folder: TempDir,
}

/// What `doctor` has said.
pub(crate) struct Said {
    pub(crate) exit: i32,
    pub(crate) answer: Value,
}

impl Bench {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let [near, client, backend] = [(); 3].map(|()| Netns::new().unwrap());
        let end = |netns, device| End { netns, device, gro: Gro::Off };
        let properties = Properties { mtu: 1500, queues: 1, checksums: Checksums::Complete };
        veth(end(&near, "front"), end(&client, "c0"), properties).unwrap();
        veth(end(&near, "back"), end(&backend, "b0"), properties).unwrap();
        near.ip("addr add 203.0.113.2/24 dev front\naddr add 203.0.113.10/32 dev front\n\
             addr add 10.0.0.254/24 dev back\nroute add default via 203.0.113.1")
            .unwrap();
        client.ip("addr add 203.0.113.1/24 dev c0").unwrap();
        backend.ip("addr add 10.0.0.1/24 dev b0").unwrap();
        let instance = format!("doctor-{}-{number}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let bench = Self { near, client, backend, instance, folder };
        bench.configure("front", "", "10.0.0.1:80");
        bench
    }

    /// Writes the configuration: where its service listens, further keys of it, and its backend.
    pub(crate) fn configure(&self, interface: &str, keys: &str, backend: &str) {
        self.configure_vip((interface, "203.0.113.10"), keys, backend);
    }

    /// The same with another VIP.
    pub(crate) fn configure_vip(&self, (interface, vip): (&str, &str), keys: &str, backend: &str) {
        let text = format!(
            "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['{interface}'], address = '{vip}', port = 80 }}\n\
             {keys}\nbackends = [{{ address = '{backend}' }}]\n"
        );
        std::fs::write(self.file(), text).unwrap();
    }

    /// Adds settings to the file.
    pub(crate) fn set(&self, settings: &str) {
        let text = std::fs::read_to_string(self.file()).unwrap();
        std::fs::write(self.file(), format!("{text}[settings]\n{settings}\n")).unwrap();
    }

    /// Adds to the file what hangs where.
    pub(crate) fn attach(&self, how: &str) {
        self.set(&format!("attach = {how}"));
    }

    /// Starts an instance on the file.
    pub(crate) fn start(&self) -> Daemon {
        let mut command = self.command();
        command.args(["run", "-c", &self.file()]);
        let mut daemon = Daemon::start(command).unwrap();
        daemon.wait_for_log("running: instance", DEADLINE).unwrap();
        daemon
    }

    /// Runs a command of the shell on the machine, such as one that the doctor tells.
    pub(crate) fn take(&self, command: &str) {
        self.near.output("sh", &["-euc", command]).unwrap();
    }

    pub(crate) fn file(&self) -> String {
        self.folder.path().join("a.toml").display().to_string()
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = self.near.command(BINARY);
        command.args(["--instance", &self.instance]);
        command
    }

    pub(crate) fn ask(&self, arguments: &[&str]) -> Said {
        Said::by(self.command().args(["--json", "doctor"]).args(arguments))
    }

    /// By what runs, with another `/sys`, as `ip netns exec` mounts it.
    pub(crate) fn ask_without_pins(&self) -> Said {
        let script = format!(
            "mount -t sysfs sysfs /sys; exec {BINARY} --instance {} --json doctor",
            self.instance
        );
        Said::by(self.near.command("unshare").args(["--mount", "sh", "-euc", &script]))
    }

    /// By the file.
    pub(crate) fn doctor(&self) -> Said {
        self.ask(&["-c", &self.file()])
    }

    pub(crate) fn fix(&self) -> Said {
        self.ask(&["-c", &self.file(), "--fix"])
    }

    pub(crate) fn offload_is(&self, device: &str, feature: &str) -> String {
        let all = self.near.output("ethtool", &["-k", device]).unwrap();
        let line = all.lines().find(|line| line.trim().starts_with(&format!("{feature}:")));
        line.unwrap().split_whitespace().nth(1).unwrap().to_owned()
    }
}

/// Ends an instance, with all that is its own.
pub(crate) fn end(mut daemon: Daemon) {
    daemon.signal(libc::SIGTERM).unwrap();
    daemon.wait(DEADLINE).unwrap();
}

impl Said {
    /// What a command says that is `doctor` with JSON.
    pub(crate) fn by(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let answer = serde_json::from_str(&text)
            .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
        Self { exit: output.status.code().unwrap(), answer }
    }

    /// What a rule has measured, whatever it is like.
    pub(crate) fn measured(&self, rule: &str) -> Vec<&str> {
        let findings = self.answer["findings"].as_array().unwrap().iter();
        let of = findings.filter(|finding| finding["rule"] == rule);
        of.map(|finding| finding["measured"].as_str().unwrap()).collect()
    }

    /// What helps against the first that a rule has found.
    pub(crate) fn help(&self, rule: &str) -> &str {
        let mut findings = self.answer["findings"].as_array().unwrap().iter();
        let first = findings.find(|finding| finding["rule"] == rule && finding["level"] != "ok");
        first.unwrap_or_else(|| panic!("{:#}", self.answer))["help"].as_str().unwrap()
    }

    /// What a rule has found that is not as it should be: level, subject, what was measured.
    pub(crate) fn wrong(&self, rule: &str) -> Vec<(&str, &str, &str)> {
        let findings = self.answer["findings"].as_array().unwrap().iter();
        let of = findings.filter(|finding| finding["rule"] == rule && finding["level"] != "ok");
        of.map(|finding| {
            let part = |key: &str| finding[key].as_str().unwrap();
            (part("level"), part("subject"), part("measured"))
        })
        .collect()
    }

    /// Each command that was done, and the one that takes it back.
    pub(crate) fn done(&self) -> Vec<(&str, &str)> {
        let fixed = self.answer["fixed"].as_array().unwrap().iter();
        let done = fixed.inspect(|done| assert_eq!(done["failed"], Value::Null, "{done}"));
        done.map(|done| (done["did"].as_str().unwrap(), done["back"].as_str().unwrap())).collect()
    }
}

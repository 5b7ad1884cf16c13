//! The package tried for real: installed, run as its unit says, upgraded, removed and purged, while packets flow.
//!
//! All of it in a sandbox, so that nothing is left of it. systemd is not run there: its unit is checked by itself, and
//! read for how the service is started.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use equipoise_lab::crowd::{Crowd, RunningCrowd};
use equipoise_lab::load::{Load, RunningLoad};
use equipoise_lab::sandbox::Sandbox;
use equipoise_lab::serve::{HttpServer, TcpEcho};
use equipoise_lab::topology::{VIP_V4, VIP_V6};
use equipoise_lab::{Daemon, Host, Lab, Options, wait_until};

use super::unit::Unit;
use super::{directory, said};
use crate::root;

const PATIENCE: Duration = Duration::from_secs(60);
const WEB: u16 = 8080;
const ECHO: u16 = 7;
/// Connections that stay, over each family.
const CONNECTIONS: usize = 50;

/// The most that `systemd-analyze security` may find exposed, in tenths: as `docs/privileges.md` says.
const EXPOSED: u32 = 19;

/// What the unit file is called where it is installed.
const UNIT: &str = "/usr/lib/systemd/system/equipoise.service";

/// Unpacks the archive and looks at what is in it.
pub(super) fn archive(archive: &Path) -> Result<()> {
    let folder = directory().join("trial");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    said(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&folder))?;
    let inside = fs::read_dir(&folder)?.next().context("the archive is empty")??.path();
    let version = said(Command::new(inside.join("sbin/equipoise")).arg("--version"))?;
    ensure!(version.trim() == concat!("equipoise ", env!("CARGO_PKG_VERSION")), "{version}");
    for path in [
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "THIRD-PARTY-LICENSES",
        "completions/bash/equipoise",
        "completions/fish/equipoise.fish",
        "completions/zsh/_equipoise",
        "docs/privileges.md",
        "etc/equipoise.toml",
        "examples/web.toml",
        "lib/prepare",
        "man/equipoise-run.8",
        "man/equipoise.8",
        "systemd/equipoise.service",
        "systemd/equipoise@.service",
    ] {
        ensure!(inside.join(path).is_file(), "the archive has no {path}");
    }
    fs::remove_dir_all(&folder)?;
    Ok(())
}

/// Installs one, upgrades to the other, and takes that away again.
pub(super) fn package(old: &Path, new: &Path) -> Result<()> {
    let lab = Lab::new(Options::default())?;
    let _servers = lab
        .backends
        .iter()
        .map(|b| {
            let web = HttpServer::start(&b.netns, &b.name, &b.at(WEB))?;
            Ok((web, TcpEcho::start(&b.netns, &b.name, &b.at(ECHO))?))
        })
        .collect::<Result<Vec<_>>>()?;
    let sandbox = Sandbox::make(&lab.balancer)?;
    for (package, name) in [(old, "old.deb"), (new, "new.deb")] {
        fs::copy(package, sandbox.path("/root")?.join(name))?;
    }
    let trial = Trial { sandbox, lab };
    trial.install()?;
    trial.units()?;
    let first = trial.start()?;
    let traffic = Traffic::start(&trial.lab)?;
    trial.upgrade()?;
    trial.restart(first, &traffic)?;
    trial.remove(&traffic)?;
    traffic.end()?;
    trial.purge()
}

struct Trial {
    // It goes first.
    sandbox: Sandbox,
    lab: Lab,
}

impl Trial {
    fn install(&self) -> Result<()> {
        self.sandbox.run("dpkg --install /root/old.deb")?;
        for path in [
            "/etc/equipoise/equipoise.toml",
            "/usr/lib/equipoise/prepare",
            "/usr/lib/systemd/system/equipoise@.service",
            "/usr/sbin/equipoise",
            "/usr/share/bash-completion/completions/equipoise",
            "/usr/share/doc/equipoise/LICENSE-MIT",
            "/usr/share/doc/equipoise/THIRD-PARTY-LICENSES.gz",
            "/usr/share/doc/equipoise/copyright",
            "/usr/share/doc/equipoise/docs/start.md",
            "/usr/share/doc/equipoise/packaging/grafana/equipoise.json",
            "/usr/share/doc/equipoise/examples/web.toml",
            "/usr/share/fish/vendor_completions.d/equipoise.fish",
            "/usr/share/man/man8/equipoise.8.gz",
            "/usr/share/man/man8/equipoise-run.8.gz",
            "/usr/share/zsh/vendor-completions/_equipoise",
        ] {
            ensure!(self.sandbox.path(path)?.is_file(), "{path} is not installed");
        }
        let conffiles =
            self.sandbox.run("dpkg-query --show --showformat='${Conffiles}' equipoise")?;
        ensure!(conffiles.trim().starts_with("/etc/equipoise/equipoise.toml "), "{conffiles}");
        ensure!(
            conffiles.lines().filter(|line| !line.trim().is_empty()).count() == 1,
            "{conffiles}"
        );
        self.sandbox.run("id equipoise")?;
        // Nothing runs and nothing is in the kernel: nobody has asked for that.
        self.sandbox.run("test ! -e /run/equipoise && test ! -e /sys/fs/bpf/equipoise")?;
        // The first configuration says what is missing in it, and would do as it stands otherwise.
        let told = self.sandbox.run("! equipoise check 2>&1")?;
        ensure!(told.contains("`service` is missing"), "{told}");
        let config = fs::read_to_string(root().join("packaging/etc/equipoise.toml"))?;
        let example = config.lines().skip_while(|line| *line != "# [[service]]");
        let example: String =
            example.map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line))).collect();
        fs::write(self.sandbox.path("/root/example.toml")?, example)?;
        self.sandbox.run("equipoise check /root/example.toml")?;
        Ok(())
    }

    /// What systemd has to say to the units.
    fn units(&self) -> Result<()> {
        self.sandbox.run(
            "systemd-analyze verify --man=no --recursive-errors=no \
             /usr/lib/systemd/system/equipoise.service /usr/lib/systemd/system/equipoise@web.service",
        )?;
        let told = self.sandbox.run(&format!(
            "systemd-analyze security --no-pager --offline=true --threshold={EXPOSED} {UNIT}"
        ))?;
        let whole = told.lines().find(|line| line.contains("Overall exposure level"));
        let whole = whole.with_context(|| format!("no exposure level: {told}"))?;
        println!("{whole}");
        let written = fs::read_to_string(root().join("docs/privileges.md"))?;
        let (level, text) = whole
            .split_once("equipoise.service: ")
            .and_then(|(_, level)| Some((level.split(' ').next()?, level)))
            .with_context(|| whole.to_owned())?;
        ensure!(written.contains(level), "docs/privileges.md does not say {text}");
        // Both are one text, but for the instance.
        let unit = fs::read_to_string(self.sandbox.path(UNIT)?)?;
        let template =
            fs::read_to_string(self.sandbox.path(&UNIT.replace(".service", "@.service"))?)?;
        let settings = |text: &str| {
            let lines = text.lines().filter(|line| line.contains('=') && !line.starts_with('#'));
            let lines = lines.filter(|line| !line.starts_with("Description="));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let one = template.replace("/etc/equipoise/%i.toml", "/etc/equipoise/equipoise.toml");
        ensure!(settings(&one.replace("%i", "default")) == settings(&unit), "the units differ");
        Ok(())
    }

    /// Starts the service as its unit says.
    fn start(&self) -> Result<Daemon> {
        let unit = Unit::parse(&fs::read_to_string(self.sandbox.path(UNIT)?)?, "default");
        fs::write(self.sandbox.path("/etc/equipoise/equipoise.toml")?, config(&self.lab))?;
        let (user, group) = (unit.one("User")?, unit.one("Group")?);
        for (key, below) in [
            ("RuntimeDirectory", "/run"),
            ("StateDirectory", "/var/lib"),
            ("LogsDirectory", "/var/log"),
        ] {
            let name = unit.one(key)?;
            self.sandbox.run(&format!("install -d -o {user} -g {group} {below}/{name}"))?;
        }
        self.sandbox.run(unit.before()?)?;
        let mut command = self.sandbox.command()?;
        unit.run(&mut command)?;
        let mut service = Daemon::start(command)?;
        service.wait_for_log("running: instance default", PATIENCE)?;
        self.sandbox.run(unit.one("ExecReload")?)?;
        Ok(service)
    }

    fn pid(&self) -> Result<String> {
        Ok(self.sandbox.run("cat /run/equipoise/default.lock")?.trim().to_owned())
    }

    /// The new version's binary takes the place of the one that runs; the configuration stays.
    fn upgrade(&self) -> Result<()> {
        let before = self.pid()?;
        let told = self.sandbox.run("dpkg --install /root/new.deb")?;
        ensure!(told.contains("packets flowed all the time"), "{told}");
        let after = self.pid()?;
        ensure!(before != after, "the process of before runs: {told}");
        let runs = self.sandbox.run(&format!("readlink /proc/{after}/exe"))?;
        ensure!(runs.trim() == "/usr/sbin/equipoise", "it runs {runs}");
        let config = fs::read_to_string(self.sandbox.path("/etc/equipoise/equipoise.toml")?)?;
        ensure!(config == self::config(&self.lab), "the configuration is another: {config}");
        self.check_process(&after)
    }

    /// It is the service's user, and can do no more than it needs.
    fn check_process(&self, pid: &str) -> Result<()> {
        let status = self.sandbox.run(&format!("cat /proc/{pid}/status; id -u equipoise"))?;
        let uid = status.lines().last().unwrap_or_default();
        ensure!(status.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}")), "{status}");
        ensure!(status.contains("NoNewPrivs:\t1"), "{status}");
        Ok(())
    }

    fn stop_process(&self) -> Result<()> {
        let pid = self.pid()?;
        self.sandbox.run(&format!("kill -TERM {pid}"))?;
        let gone = || self.sandbox.run("test ! -e /run/equipoise/default.sock").is_ok();
        wait_until(PATIENCE, "the end of the service", gone)
    }

    /// Stopped, packets flow on; started again, by the same flows.
    fn restart(&self, mut first: Daemon, traffic: &Traffic) -> Result<()> {
        self.stop_process()?;
        // Its log is that of the one after it, too, and has no end before.
        let ended = first.wait(PATIENCE)?;
        ensure!(ended.success(), "the process of before the upgrade: {ended}\n{}", first.log());
        traffic.go_on()?;
        let second = self.start()?;
        ensure!(second.log().contains("applied steps=0"), "{}", second.log());
        traffic.go_on()?;
        self.stop_process()?;
        let log = second.log();
        ensure!(log.contains("packets flow on"), "nobody is told that packets flow on: {log}");
        Ok(())
    }

    /// Removed, packets flow on; the configuration stays.
    fn remove(&self, traffic: &Traffic) -> Result<()> {
        let told = self.sandbox.run("dpkg --remove equipoise")?;
        ensure!(told.contains("packets flow on"), "{told}");
        self.sandbox
            .run("test ! -e /usr/sbin/equipoise && test -e /etc/equipoise/equipoise.toml")?;
        traffic.go_on()
    }

    /// Purged, nothing of it is there: not in the kernel, and in no file.
    fn purge(&self) -> Result<()> {
        self.sandbox.run("dpkg --purge equipoise && rm /root/*.deb /root/example.toml")?;
        let left =
            self.sandbox.run("ls /sys/fs/bpf /run")? + &self.sandbox.written("*equipoise*")?;
        if let Some(name) = left.lines().find(|line| line.contains("equipoise")) {
            bail!("the package leaves {name}");
        }
        let links = self.lab.balancer.output("ip", &["-d", "link"])?;
        ensure!(!links.contains("xdp"), "{links}");
        Ok(())
    }
}

/// Both families, web servers on port 80 and echoes on port 7.
fn config(lab: &Lab) -> String {
    let mut text = "[settings]\nmax-flows = 20000\n".to_owned();
    for vip in [IpAddr::from(VIP_V4), VIP_V6.into()] {
        for (name, port, at) in [("web", 80, WEB), ("echo", ECHO, ECHO)] {
            let backend = |b: &Host| {
                let [first, second] = b.at(at);
                format!("{{ address = \"{}\" }}", if vip.is_ipv4() { first } else { second })
            };
            let backends: Vec<_> = lab.backends.iter().map(backend).collect();
            text += &format!(
                "[[service]]\nname = \"{name}-{}\"\n\
                 listen = {{ interfaces = [\"front\"], address = \"{vip}\", port = {port} }}\n\
                 backends = [{}]\n",
                if vip.is_ipv4() { "v4" } else { "v6" },
                backends.join(", ")
            );
        }
    }
    text
}

/// Connections that stay, and new ones all the time.
struct Traffic {
    crowds: Vec<RunningCrowd>,
    loads: Vec<RunningLoad>,
}

impl Traffic {
    fn start(lab: &Lab) -> Result<Self> {
        let client = &lab.client().netns;
        let mut traffic = Self { crowds: Vec::new(), loads: Vec::new() };
        for vip in [IpAddr::from(VIP_V4), VIP_V6.into()] {
            let echo = SocketAddr::new(vip, ECHO);
            traffic.crowds.push(Crowd::of(echo, CONNECTIONS).start(client)?);
            let web = SocketAddr::new(vip, 80);
            traffic.loads.push(Load { workers: 1, ..Load::of_count(web, u64::MAX) }.start(client));
        }
        Ok(traffic)
    }

    /// All of it goes on from here: each has answers that it did not have yet.
    fn go_on(&self) -> Result<()> {
        let now = || {
            let answered = self.loads.iter().map(|load| load.tally().answered());
            answered.chain(self.crowds.iter().map(RunningCrowd::exchanges)).collect::<Vec<_>>()
        };
        let before = now();
        let more = || now().iter().zip(&before).all(|(now, before)| now > before);
        wait_until(PATIENCE, "traffic to go on", more)?;
        for crowd in &self.crowds {
            ensure!(crowd.broken() == 0, "{} connections are broken", crowd.broken());
        }
        Ok(())
    }

    fn end(self) -> Result<()> {
        let mut new = 0;
        for load in self.loads {
            let tally = load.stop();
            ensure!(tally.failed() == 0, "new connections fail: {:?}", tally.failures);
            new += tally.answered();
        }
        let mut whole = 0;
        for crowd in self.crowds {
            let outcome = crowd.check();
            ensure!(outcome.broken.is_empty(), "{:?}", outcome.by_reason());
            whole += outcome.whole;
        }
        println!("{whole} connections whole, 0 broken, {new} new ones, 0 failed");
        Ok(())
    }
}

//! `equipoise top` on a terminal, as somebody sits before it: keys go in by tmux, and what is on the screen comes out.

use std::process::Command;

use equipoise_lab::load::Load;
use equipoise_lab::topology::Options;
use equipoise_lab::{Daemon, wait_until};
use tempfile::TempDir;

use crate::balanced::{BINARY, Balanced, DEADLINE, TC, vips};

/// A terminal with a program on it; both end with this.
struct Terminal {
    folder: TempDir,
    _server: Daemon,
}

impl Terminal {
    fn start(program: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut server = tmux(&folder);
        // In the foreground, so that it ends when this does.
        server.arg("-D");
        let server = Daemon::start(server).unwrap();
        let terminal = Self { folder, _server: server };
        let is_there = || terminal.folder.path().join("socket").exists();
        wait_until(DEADLINE, "tmux", is_there).unwrap();
        terminal.tmux(&["new-session", "-d", "-x", "180", "-y", "30", program]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = tmux(&self.folder).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "tmux {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let waited = wait_until(DEADLINE, what, || is_so(&self.screen()));
        let screen = self.screen();
        waited.unwrap_or_else(|error| panic!("{error}:\n{screen}"));
        screen
    }
}

/// A client, or with `-D` the server, of a tmux that knows nothing of any other.
fn tmux(folder: &TempDir) -> Command {
    let mut command = Command::new("tmux");
    command.env_remove("TMUX").env("LC_ALL", "C.UTF-8").env("TERM", "xterm-256color");
    command.args(["-u", "-f", "/dev/null", "-S"]).arg(folder.path().join("socket"));
    command
}

/// The rows of the backends' table: its cells, as far as they have no spaces.
fn rows(screen: &str) -> Vec<Vec<&str>> {
    let is_head = |line: &&str| line.trim_start().starts_with("SERVICE");
    let below = screen.lines().skip_while(|line| !is_head(line)).skip(1);
    let rows = below.map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|cells| cells.first().is_some_and(|cell| cell.starts_with("web"))).collect()
}

fn rates(screen: &str) -> Vec<u64> {
    rows(screen).iter().map(|cells| cells[5].parse().unwrap()).collect()
}

#[test]
fn backends_are_watched_and_drained_on_a_terminal() {
    let balanced = Balanced::new(TC, Options::default());
    let (_, vip) = vips()[0];
    let load = Load::of_count(vip, u64::MAX).start(balanced.client());
    let instance = &balanced.balancer.instance;
    let terminal = Terminal::start(&format!("{BINARY} --instance {instance} top"));
    let flows = |number: usize| balanced.balancer.backend("web", number)["new_flows"].as_u64();
    let is_drained = |number: usize| balanced.balancer.backend("web", number)["draining"] == true;

    let screen = terminal.until("all backends, and rates of those with traffic", |screen| {
        rows(screen).len() == 6 && rates(screen)[..3].iter().all(|rate| *rate > 0)
    });
    assert!(screen.contains(&format!("ok  instance {instance}, up ")), "{screen}");
    let cells: Vec<_> = rows(&screen).iter().map(|cells| cells[..4].join(" ")).collect();
    let configured = ["10.0.0.11:8080 50 50%", "10.0.0.12:8080 30 30%", "10.0.0.13:8080 20 20%"];
    assert_eq!(cells[..3], configured.map(|of| format!("web {of}")), "{screen}");
    assert_eq!(cells[3], "web6 [2001:db8:b::11]:8080 50 50%", "{screen}");
    assert_eq!(rates(&screen)[3..], [0, 0, 0], "{screen}");

    // Sorted by new flows: those with traffic first, the most of them at the top, for as long as one looks.
    terminal.press("s");
    terminal.until("another order", |screen| {
        screen.contains("s sort (new flows)") && rates(screen).is_sorted_by(|a, b| a >= b)
    });

    terminal.press("/");
    for key in "0.0.12:".chars() {
        terminal.press(&key.to_string());
    }
    terminal.until("the filter as it is typed", |screen| screen.contains("filter: 0.0.12:_"));
    terminal.press("Enter");
    let screen = terminal.until("one backend alone", |screen| {
        screen.contains("[only \"0.0.12:\": Esc]") && rows(screen).len() == 1
    });
    assert_eq!(rows(&screen)[0][1], "10.0.0.12:8080", "{screen}");

    terminal.press("Enter");
    let screen =
        terminal.until("the backend, opened", |screen| screen.contains(" 10.0.0.12:8080 ─"));
    assert!(screen.contains("service web, route default"), "{screen}");
    assert!(screen.contains("weight 30 of 30, health none, breaker closed"), "{screen}");
    terminal.press("Escape");
    terminal.until("the list again", |screen| !screen.contains("route default"));

    // A key that is not yes changes nothing.
    for answer in ["n", "y"] {
        assert!(!is_drained(1));
        terminal.press("d");
        terminal.until("a question", |screen| screen.contains("drain 10.0.0.12:8080? y/n"));
        terminal.press(answer);
        let said = if answer == "n" { "left as it is" } else { "drain has begun" };
        terminal.until("what is said to that", |screen| screen.contains(said));
    }
    assert!(is_drained(1));
    terminal.until("a backend that is drained", |screen| {
        rows(screen).iter().any(|cells| cells.contains(&"draining") && cells[2] == "0/30")
    });
    let (before, others) = (flows(1), flows(0).unwrap());
    wait_until(DEADLINE, "new flows elsewhere", || flows(0).unwrap() > others + 50).unwrap();
    assert_eq!(flows(1), before, "it gets none");
    terminal.press("u");
    terminal.until("a question", |screen| screen.contains("undrain 10.0.0.12:8080? y/n"));
    terminal.press("y");
    terminal.until("what is said", |screen| screen.contains("it gets new flows again"));
    assert!(!is_drained(1));
    wait_until(DEADLINE, "new flows", || flows(1) > before).unwrap();

    terminal.tmux(&["set-option", "remain-on-exit", "on"]);
    terminal.press("Escape");
    terminal.until("all again", |screen| rows(screen).len() == 6);
    terminal.press("q");
    let ended = || terminal.tmux(&["display-message", "-p", "#{pane_dead} #{pane_dead_status}"]);
    wait_until(DEADLINE, "its end", || ended() == "1 0\n").unwrap();
    let peaks = || {
        let told = balanced.balancer.status()["load"].clone();
        let of = ["live_flows", "new_flows_per_second", "packets_per_second", "bytes_per_second"];
        of.map(|name| told[name]["peak"].as_u64().unwrap())
    };
    let is_any = || peaks().iter().all(|peak| *peak > 0);
    wait_until(DEADLINE, "the most that there was", is_any).unwrap();
    let peaks = peaks();
    // A connection is several packets, and each of them more than ten bytes.
    assert!(peaks[2] > peaks[1] && peaks[3] > 10 * peaks[2], "{peaks:?}");
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{:?}", tally.failures);
}

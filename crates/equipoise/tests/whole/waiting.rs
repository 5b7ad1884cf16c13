//! What commands show while something goes on, or while nothing comes: on a terminal, and elsewhere.

use std::io::{Read, Write as _};
use std::os::unix::net::UnixListener;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use equipoise_lab::program;

use super::*;
use operate::FIRST;

/// A command that goes on, and what it has said so far.
struct Begun {
    child: Child,
    said: Said,
    /// What it says to standard error, where that is no terminal.
    told: Said,
    keys: ChildStdin,
}

#[derive(Clone, Default)]
struct Said(Arc<Mutex<String>>);

impl Said {
    /// What comes from there, as it comes.
    fn of(mut from: impl Read + Send + 'static) -> Self {
        let said = Self::default();
        let all = said.clone();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut bytes) {
                all.0.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        });
        said
    }

    fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

impl Begun {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (said, told) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let keys = child.stdin.take().unwrap();
        Self { child, said: Said::of(said), told: Said::of(told), keys }
    }

    /// On a terminal with so many columns.
    fn on_terminal(command: &Command, columns: u16) -> Self {
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
        let line = format!("stty rows 30 cols {columns}; exec {}", words.join(" "));
        let mut terminal = Command::new("script");
        terminal.args(["-qefc", &line, "/dev/null"]);
        terminal.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        for (name, value) in command.get_envs() {
            terminal.env(name, value.unwrap_or_default());
        }
        Self::start(terminal)
    }

    /// Its exit code, and all that it has said, when it has ended. Whoever runs on this thread stands still meanwhile.
    fn end(mut self) -> (i32, String, String) {
        let until = Instant::now() + DEADLINE;
        let ended = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > until => {
                    self.child.kill().unwrap();
                    panic!("it goes on: {}{}", self.said.text(), self.told.text());
                }
                None => thread::sleep(Duration::from_millis(10)),
            }
        };
        // What it has said may still be on its way.
        thread::sleep(Duration::from_millis(50));
        (ended.code().unwrap(), self.said.text(), self.told.text())
    }
}

/// Waits for words, while everything else goes on.
async fn until(said: &Said, words: &str) {
    let waiting = async {
        while !said.text().contains(words) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(DEADLINE, waiting).await;
    waited.unwrap_or_else(|_| panic!("no {words:?} in {:?}", said.text()));
}

async fn ended(begun: Begun) -> (i32, String, String) {
    tokio::task::spawn_blocking(|| begun.end()).await.unwrap()
}

fn drain_line() -> String {
    format!("drain web {FIRST} --wait --timeout 1h")
}

#[tokio::test]
async fn drain_that_is_waited_for_tells_in_lines_how_many_flows_are_left() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        lab.flows(0, 8);
        let begun = Begun::start(lab.invoked(&drain_line()));
        until(&begun.told, "8 of 8 flows are not over, ").await;
        let first = Instant::now();
        lab.flows(0, 3);
        until(&begun.told, "3 of 8 flows are not over, ").await;
        assert!(first.elapsed() > Duration::from_millis(900), "one a second at most");
        lab.flows(0, 0);
        let (exit, said, told) = ended(begun).await;
        assert_eq!((exit, told.lines().count()), (0, 2), "{told}");
        assert!(said.contains("completed") && !told.contains('\x1b'), "{said}{told}");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn drain_that_is_waited_for_says_nothing_else_where_programs_read() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        lab.flows(0, 8);
        let begun = Begun::start(lab.invoked(&format!("{} --json", drain_line())));
        lab.status_when(|status| status.services[0].pools[0].backends[0].draining).await;
        // Long enough to have looked several times.
        tokio::time::sleep(Duration::from_secs(1)).await;
        lab.flows(0, 0);
        let (exit, said, told) = ended(begun).await;
        let answer: Value = serde_json::from_str(&said).unwrap();
        assert_eq!((exit, &*told), (0, ""));
        assert_eq!(answer["drains"][0]["status"], "completed");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn drain_that_is_waited_for_draws_a_bar_on_a_terminal() {
    for (no_color, green) in [("", "\x1b[32m"), ("1", "")] {
        let (driver, lab) = Lab::start(CONFIG).await;
        run(driver, async {
            lab.flows(0, 8);
            let mut command = lab.invoked(&drain_line());
            command.env("NO_COLOR", no_color);
            let begun = Begun::on_terminal(&command, 60);
            until(&begun.said, "8 of 8 flows are not over").await;
            lab.flows(0, 2);
            until(&begun.said, "2 of 8 flows are not over").await;
            lab.flows(0, 0);
            let (exit, said, _) = ended(begun).await;
            assert_eq!(exit, 0, "{said:?}");
            let bar = said.split('\r').find(|line| line.contains("2 of 8")).unwrap();
            let plain = bar.replace("\x1b[32m", "").replace("\x1b[0m", "").replace("\x1b[K", "");
            let is_drawn = plain.starts_with("[####") && plain.contains("-] 2 of 8");
            assert!(is_drawn && plain.len() < 60, "{said:?}");
            let is_green = bar.contains("\x1b[32m");
            assert_eq!(is_green, !green.is_empty(), "{said:?}");
            // The bar is gone before the table comes.
            let (_, last) = said.rsplit_once("\r\x1b[K").unwrap();
            assert!(last.contains("SERVICE") && !last.contains("flows are not over"), "{said:?}");
            lab.client.stop().await.unwrap();
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn upgrade_tells_how_far_it_has_come() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        // It says that it is ready, and has ended when everything is its own.
        let script = "#!/bin/sh\nprintf '\"ready\"\\n' >&0; head -c 1 >/dev/null; exit 1\n";
        let path = lab.path("next");
        program::script(&path, script).unwrap();
        let begun = Begun::start(lab.invoked(&format!("upgrade {}", path.display())));
        let (exit, said, told) = ended(begun).await;
        assert_eq!((exit, &*said), (1, ""), "{told}");
        let lines: Vec<_> = told.lines().collect();
        let first = format!("{}, pid ", path.display());
        assert!(lines[0].starts_with(&first) && lines[0].ends_with(" makes ready"), "{told}");
        assert_eq!(lines[1], "it has everything, and attaches its programs");
        assert!(lines[2].contains("has not come to run"), "{told}");
        let (_, events) = lab.command("events").await;
        for stage in ["makes-ready", "takes-over", "failed"] {
            assert!(events.contains(&format!(" upgrade: {stage} (")), "{events}");
        }
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn top_can_be_left_while_the_instance_does_not_answer() {
    for key in [&b"q"[..], b"\x03"] {
        let (driver, lab) = Lab::start(CONFIG).await;
        run(driver, async {
            let mut begun = Begun::on_terminal(&lab.invoked("top"), 150);
            until(&begun.said, "web").await;
            // The instance runs on this thread: from here on it stands still.
            let until = Instant::now() + DEADLINE;
            while !begun.said.text().contains("NO ANSWER") {
                assert!(Instant::now() < until, "{:?}", begun.said.text());
                thread::sleep(Duration::from_millis(10));
            }
            begun.keys.write_all(key).unwrap();
            begun.keys.flush().unwrap();
            let (exit, said, _) = begun.end();
            assert_eq!(exit, 0, "{said:?}");
            lab.client.stop().await.unwrap();
        })
        .await
        .unwrap();
    }
}

#[test]
fn commands_do_not_wait_without_end_for_an_instance_that_does_not_answer() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("test.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let begin = |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_equipoise"));
        command.arg("--socket").arg(&socket).args(line.split(' '));
        Begun::start(command)
    };
    let begun = ["status", "drains", "wait web --healthy 1 --timeout 1s"].map(begin);
    let [status, drains, wait] = begun.map(Begun::end);
    for (exit, _, told) in [status, drains] {
        assert_eq!(exit, 1, "{told}");
        assert!(told.contains(" has not answered within 10s"), "{told}");
    }
    let (exit, _, told) = wait;
    assert_eq!(exit, 6, "{told}");
    assert!(told.contains("the instance does not answer, after 1s"), "{told}");
}

#[test]
fn log_has_colours_on_a_terminal_unless_its_user_wants_none() {
    let logged = |no_color: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_equipoise"));
        command.args(["dns", "lookup", "api.internal", "--resolver", "127.0.0.1:1"]);
        command.env("EQUIPOISE_LOG", "trace").env("NO_COLOR", no_color);
        let (_, said, _) = Begun::on_terminal(&command, 150).end();
        assert!(said.contains("TRACE") || said.contains("DEBUG"), "{said:?}");
        said.contains("\x1b[")
    };
    assert!(logged("") && !logged("1"));
}

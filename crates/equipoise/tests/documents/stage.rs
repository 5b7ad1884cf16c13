//! A document followed: its files written, its commands typed, its answers compared, on hosts that are roots of their own.
//!
//! What a document calls a host is a namespace with a file system that nobody else sees, so that its paths are real ones and its commands are
//! typed as they stand. Interfaces alone are called otherwise here than there. A test says what else happens (traffic, services that restart), and
//! looks at things between two steps.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use equipoise_lab::sandbox::Sandbox;
use equipoise_lab::{Daemon, Netns, program};

use crate::blocks::{Document, SCRIPT, Step, commands, is_alike};

const DEADLINE: Duration = Duration::from_secs(60);

/// Where things are typed.
struct Host {
    root: Sandbox,
    /// What the document calls an interface, and what it is called here.
    interfaces: Vec<(String, String)>,
    /// What goes on running, by the command that has started it.
    running: Vec<(String, Daemon)>,
}

/// The hosts of a document.
#[derive(Default)]
pub(crate) struct Stage {
    hosts: BTreeMap<String, Host>,
}

impl Stage {
    /// A host, with this program where it is installed by hand.
    pub(crate) fn host(&mut self, name: &str, netns: &Netns, interfaces: &[(&str, &str)]) {
        self.other_host(name, netns);
        let host = self.hosts.get_mut(name).unwrap();
        host.interfaces = interfaces
            .iter()
            .map(|(there, here)| ((*there).to_owned(), (*here).to_owned()))
            .collect();
        // It is a root of one file system: what is mounted below is not there.
        let installed = host.root.path("/usr/local/sbin/equipoise").unwrap();
        program::copy(Path::new(env!("CARGO_BIN_EXE_equipoise")), &installed).unwrap();
    }

    /// A host without this program.
    pub(crate) fn other_host(&mut self, name: &str, netns: &Netns) {
        let root = Sandbox::make(netns).unwrap();
        let host = Host { root, interfaces: Vec::new(), running: Vec::new() };
        self.hosts.insert(name.to_owned(), host);
    }

    /// Takes all steps of a document that have a prompt. `instead` does what cannot be typed here, and says so by `true`; `then` looks at what has
    /// come of each, after the files that were written before it.
    pub(crate) fn follow(
        &mut self,
        document: &Document,
        mut instead: impl FnMut(&str, &str) -> bool,
        mut then: impl FnMut(&mut Self, &str),
    ) {
        for step in document.steps() {
            match step {
                Step::Write { path, text, .. } => {
                    self.hosts.values().for_each(|host| host.write(&path, &text));
                }
                Step::Type { host, .. } if host == SCRIPT => {}
                Step::Type { line, host, command, answer } => {
                    let place = format!("{}:{line}: {host}# {command}", document.path);
                    if !instead(&host, &command) {
                        let host = self
                            .hosts
                            .get_mut(&host)
                            .unwrap_or_else(|| panic!("{place}: no such host"));
                        println!("{place}\n{}", host.take(&place, &command, &answer));
                    }
                    then(self, &format!("{host}# {command}"));
                }
            }
        }
    }

    /// What a script says on a host, whose interfaces are called as they are here.
    pub(crate) fn ask(&self, host: &str, script: &str) -> String {
        self.hosts[host].root.run(script).unwrap()
    }

    /// Writes a program for others of a host to find.
    pub(crate) fn install(&self, host: &str, path: &str, text: &str) {
        let host = &self.hosts[host];
        program::script(&host.root.path(path).unwrap(), &host.here(text)).unwrap();
    }

    /// Waits for the end of what was started by a command which begins so; it must end well.
    pub(crate) fn ended(&mut self, host: &str, begin: &str) {
        let mut daemon = self.take_running(host, begin);
        let status = daemon.wait(DEADLINE).unwrap();
        assert!(status.success(), "{status}: {}", daemon.log());
    }

    fn take_running(&mut self, host: &str, begin: &str) -> Daemon {
        let running = &mut self.hosts.get_mut(host).unwrap().running;
        let number = running.iter().position(|(command, _)| command.starts_with(begin)).unwrap();
        running.remove(number).1
    }
}

impl Host {
    fn write(&self, path: &str, text: &str) {
        let place = self.root.path(path).unwrap();
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, self.here(text)).unwrap();
    }

    /// A text of the document with interfaces as they are called here, and the other way round.
    fn here(&self, text: &str) -> String {
        let pairs = self.interfaces.iter();
        pairs.fold(text.to_owned(), |text, (there, here)| renamed(&text, there, here))
    }

    fn there(&self, text: &str) -> String {
        let pairs = self.interfaces.iter();
        pairs.fold(text.to_owned(), |text, (there, here)| renamed(&text, here, there))
    }

    /// Types a command and compares its answer; one that goes on is left running once it has said what is shown.
    fn take(&mut self, place: &str, command: &str, shown: &[String]) -> String {
        let shown = if shown.is_empty() { vec!["...".to_owned()] } else { shown.to_vec() };
        let words = commands(command).concat();
        let goes_on = matches!(words.get(1).map(String::as_str), Some("run" | "decap"))
            && words[0] == "equipoise"
            || words[0] == "keepalived";
        let mut typed = self.root.command().unwrap();
        typed.args(["sh", "-c", &self.here(command)]).env("NO_COLOR", "1");
        if goes_on {
            return self.begin(place, command, typed, &shown);
        }
        let output = typed.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        let said = self.there(&said);
        assert!(output.status.success(), "{place}: {}\n{said}{}", output.status, self.logs());
        assert!(
            is_alike(&shown, &said),
            "{place}: it shows\n{}\nand this was said:\n{said}",
            shown.join("\n")
        );
        said
    }

    fn begin(&mut self, place: &str, command: &str, typed: Command, shown: &[String]) -> String {
        let mut daemon = Daemon::start(typed).unwrap();
        let ready = daemon.wait_until_ready(DEADLINE, "what is shown", |daemon| {
            let said = self.there(&daemon.log());
            // It goes on to talk.
            let and_more = [shown, &["...".to_owned()]].concat();
            !said.is_empty() && is_alike(&and_more, &said)
        });
        ready.unwrap_or_else(|error| panic!("{place}: it shows\n{}\n{error:#}", shown.join("\n")));
        let said = self.there(&daemon.log());
        self.running.push((command.to_owned(), daemon));
        said
    }

    fn logs(&self) -> String {
        self.running
            .iter()
            .map(|(command, daemon)| format!("\n{command}:\n{}", daemon.log()))
            .collect()
    }
}

/// A text with a word in place of another, where that is a whole word.
fn renamed(text: &str, from: &str, to: &str) -> String {
    let is_of_word = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    let mut written = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(from) {
        let (before, after) = (&rest[..at], &rest[at + from.len()..]);
        let is_word = !before.ends_with(is_of_word) && !after.starts_with(is_of_word);
        written.push_str(before);
        written.push_str(if is_word { to } else { from });
        rest = after;
    }
    written + rest
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        // Whatever is left of it goes with its namespaces.
        self.running.clear();
    }
}

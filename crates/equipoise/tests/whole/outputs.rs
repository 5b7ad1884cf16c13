//! What every command says, to people and as JSON, recorded: `tests/outputs/SCENE/COMMAND.txt`.
//!
//! A scene is a place, and what is typed there in order. `UPDATE_EXPECT=1 cargo test -p equipoise --test whole_program -- outputs` writes the
//! records anew; what is otherwise from run to run is masked (`mask`). What needs the kernel, a terminal or another process is listed with the
//! test that shows its output.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use clap::CommandFactory as _;
use equipoise::cli::Exit;
use equipoise::cli::args::Arguments;
use equipoise_lab::dns::DnsServer;
use expect_test::expect_file;

use super::*;
use lines::{ENDING, FILES, Line, RUNNING};
use mask::{masked, without_widths};

#[path = "outputs/lines.rs"]
mod lines;
#[path = "outputs/mask.rs"]
mod mask;

/// Commands without a record, each with a test that looks at what it says: to people, and as JSON where it has that.
const ELSEWHERE: [(&str, &[&str]); 8] = [
    ("run", &["../src/cli/run.rs what_is_said_once_it_runs_is_as_recorded"]),
    ("top", &["traffic/top.rs backends_are_watched_and_drained_on_a_terminal"]),
    (
        "trace",
        &[
            "../src/cli/trace.rs packet_is_a_line_with_what_it_was_and_what_it_became",
            "traffic/traced.rs packets_are_told_of_as_they_came_and_as_they_left",
        ],
    ),
    (
        "capture",
        &[
            "../src/cli/trace.rs capture_has_packets_before_and_after_with_comments_and_a_readable_time",
            "traffic/traced.rs packets_are_told_of_as_they_came_and_as_they_left",
        ],
    ),
    ("doctor", &["commands.rs doctor_leads_with_what_is_wrong_and_exits_by_it"]),
    ("upgrade", &["traffic/restart.rs connections_outlive_an_upgrade_and_a_rollback"]),
    (
        "decap",
        &[
            "decap/lifecycle.rs people_get_tables",
            "decap/lifecycle.rs counters_are_told_when_asked_for_and_add_up",
        ],
    ),
    ("completions", &["commands.rs shells_complete_every_command_and_each_has_a_page"]),
];

/// What is made for other programs or for a terminal, and is the same with `--json`.
const AS_IT_IS: [&str; 2] = ["man", "schema"];

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn scenes() -> [(&'static str, &'static [Line]); 3] {
    [("running", RUNNING), ("ending", ENDING), ("files", FILES)]
}

/// The command that a line is of, and its exit code.
struct Typed {
    command: String,
    exit: i32,
}

/// Types lines in a place, and records what is said.
struct Recorder<'p> {
    directory: &'p Path,
    socket: PathBuf,
    /// What stands for what is otherwise in each run.
    names: Vec<(&'static str, String)>,
    records: BTreeMap<String, String>,
}

impl<'p> Recorder<'p> {
    fn new(directory: &'p Path, socket: &str, mut names: Vec<(&'static str, String)>) -> Self {
        names.push(("{dir}", directory.display().to_string()));
        Self { directory, socket: directory.join(socket), names, records: BTreeMap::new() }
    }

    async fn type_all(&mut self, lines: &[Line]) {
        for Line { text, exit } in lines {
            let words = self.filled(text);
            let mut command = Command::new(env!("CARGO_BIN_EXE_equipoise"));
            command.arg("--socket").arg(&self.socket).args(words.split(' '));
            command.current_dir(self.directory).env_remove("EQUIPOISE_LOG").stdin(Stdio::null());
            let output =
                tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
            let said = self.said(&output);
            assert_eq!(output.status.code(), Some(*exit), "{text}\n{said}");
            let record = self.records.entry(command_of(text)).or_default();
            let end = if *exit == 0 { String::new() } else { format!("exit {exit}\n") };
            write!(record, "$ equipoise {text}\n{said}{end}\n").unwrap();
        }
    }

    fn filled(&self, text: &str) -> String {
        let names = self.names.iter();
        names.fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    /// Both streams, without what is otherwise in each run; what goes to standard error is marked.
    fn said(&self, output: &Output) -> String {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let errors: String =
            text(&output.stderr).lines().map(|line| format!("! {line}\n")).collect();
        let all = text(&output.stdout) + &errors;
        let names = self.names.iter();
        let left = masked(&names.fold(all.clone(), |all, (name, value)| all.replace(value, name)));
        if left == all { all } else { without_widths(&left) }
    }

    fn compare(self, scene: &str) {
        for (command, record) in self.records {
            let name = format!("{}.txt", command.replace(' ', "-"));
            expect_file![tests().join("outputs").join(scene).join(name)].assert_eq(&record);
        }
    }
}

/// The command that is typed in a line, without its arguments.
fn command_of(text: &str) -> String {
    // Any address is as good as another here.
    let text = text.replace("{tcp}", "127.0.0.1:1").replace("{dns}", "127.0.0.1:1");
    let words = std::iter::once("equipoise").chain(text.split(' '));
    let matches = Arguments::command().try_get_matches_from(words);
    // What is wrong is a line of the command that comes first.
    let Ok(matches) = matches else { return text.split(' ').next().unwrap().to_owned() };
    let (mut names, mut at) = (Vec::new(), &matches);
    while let Some((name, below)) = at.subcommand() {
        names.push(name);
        at = below;
    }
    names.join(" ")
}

fn typed(lines: &[Line]) -> impl Iterator<Item = Typed> {
    lines.iter().map(|line| Typed { command: command_of(line.text), exit: line.exit })
}

/// All commands that can be typed, by their names.
fn all_commands() -> BTreeSet<String> {
    fn below(command: &clap::Command, name: &str, all: &mut BTreeSet<String>) {
        for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
            let name = format!("{name} {}", command.get_name()).trim().to_owned();
            if !command.is_subcommand_required_set() {
                all.insert(name.clone());
            }
            below(command, &name, all);
        }
    }
    let mut all = BTreeSet::new();
    let mut whole = Arguments::command();
    whole.build();
    below(&whole, "", &mut all);
    all
}

#[test]
fn every_command_has_its_output_recorded_or_names_the_test_that_shows_it() {
    let lines = || scenes().into_iter().flat_map(|(_, lines)| lines);
    let good = |is_json: bool| -> BTreeSet<String> {
        let of = lines().filter(|line| line.exit == 0 && line.text.contains("--json") == is_json);
        of.map(|line| command_of(line.text)).collect()
    };
    let elsewhere: BTreeSet<_> = ELSEWHERE.iter().map(|(name, _)| (*name).to_owned()).collect();
    let as_it_is: BTreeSet<_> = AS_IT_IS.iter().map(|name| (*name).to_owned()).collect();
    let all = all_commands();
    let (people, programs) = (good(false), good(true));
    assert_eq!(&people | &elsewhere, all, "what people see of each command");
    assert_eq!(&(&programs | &elsewhere) | &as_it_is, all, "what programs see of each command");
    assert!(elsewhere.is_disjoint(&people) && as_it_is.is_disjoint(&programs));
    for (command, places) in ELSEWHERE {
        for place in places {
            let (file, name) = place.split_once(' ').unwrap();
            let text = fs::read_to_string(tests().join(file)).unwrap();
            assert!(text.contains(&format!("fn {name}(")), "{command}: {place}");
            assert!(text.contains(command), "{command}: {place}");
        }
    }
    // No record is left of what nobody types any more.
    for (scene, lines) in scenes() {
        let named: BTreeSet<_> =
            typed(lines).map(|line| format!("{}.txt", line.command.replace(' ', "-"))).collect();
        let there = fs::read_dir(tests().join("outputs").join(scene)).unwrap();
        let there: BTreeSet<_> =
            there.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(there, named, "{scene}");
    }
}

#[test]
fn every_exit_code_is_that_of_a_recorded_line() {
    let met: BTreeSet<i32> =
        scenes().into_iter().flat_map(|(_, lines)| typed(lines)).map(|line| line.exit).collect();
    let documented = Exit::ALL.map(|exit| i32::from(exit as u8));
    assert_eq!(met, documented.into_iter().chain([0]).collect());
}

#[test]
fn every_recorded_error_says_what_to_do_next() {
    // In the sentence itself: what is allowed, which flags there are, what it is for.
    const ITSELF: [&str; 3] = ["(allowed: ", ": --", ": that is what"];
    for (scene, _) in scenes() {
        for entry in fs::read_dir(tests().join("outputs").join(scene)).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let lines: Vec<_> = text.lines().collect();
            for (at, line) in lines.iter().enumerate().filter(|(_, l)| l.starts_with("! error: ")) {
                let is_said = ITSELF.iter().any(|part| line.contains(part));
                let is_helped = lines[at + 1].trim_start_matches(['!', ' ']).starts_with("help: ");
                assert!(is_said || is_helped, "{}: {line}", path.display());
            }
        }
    }
}

const BREAKER: &str = "[service.breaker]\nopen-for = \"1h\"\n";

/// Two backends of no machine, one on loopback that is checked, one by its name, and weights that follow flows.
fn config(checked: SocketAddr, server: SocketAddr) -> String {
    format!(
        r#"{CONFIG}{BREAKER}
[[service]]
name = "mail"
listen = {{ interfaces = ["eth0"], address = "203.0.113.11", port = 25 }}
manage-address = true
backends = [{{ address = "{checked}" }}]
health-check = {{ type = "tcp", interval = "1h", healthy-threshold = 1 }}
[[service]]
name = "api"
listen = {{ interfaces = ["eth0"], address = "203.0.113.12", port = 443 }}
manage-address = true
algorithm = "least-connections-weights"
backends = [{{ host = "api.internal", port = 8443, refresh = "1h" }}]
[settings.dns]
resolvers = ["{server}"]
max-ttl = "2h"
"#
    )
}

#[tokio::test]
async fn outputs_of_commands_that_ask_a_running_instance_are_as_recorded() {
    let (checked, _listener) = health::listen();
    let server = DnsServer::start([127, 0, 0, 1].into()).unwrap();
    server.host("api.internal", &["10.0.0.3"], 7200);
    let config = config(checked, server.address());
    let (driver, lab) = Lab::start(&config).await;
    lab.plane.send_modify(|plane| {
        let one = ids(plane, "10.0.0.1:8080");
        plane.flows = vec![
            flow("198.51.100.1:1000", "10.0.0.1:8080", one, "established"),
            flow("198.51.100.2:1000", "10.0.0.1:8080", one, "opening"),
        ];
        plane.verdicts = vec![(Hook::Xdp, Verdict::ForwardedRequest, 7)];
        plane.pressures = vec![(Pressure::RefusedFull, 2)];
    });
    fs::write(lab.path("other.toml"), config.replace("weight = 3", "weight = 5")).unwrap();
    let without_mail = config.replace("port = 25 ", "port = 26 ");
    fs::write(lab.path("plan.toml"), without_mail).unwrap();
    fs::write(lab.path("bad.toml"), config.replace("port = 25 ", "port = 0 ")).unwrap();
    run(driver, async {
        lab.status_when(|status| {
            let is_mail = |service: &&equipoise::status::ServiceStatus| service.name == "mail";
            let mail = status.services.iter().find(is_mail).unwrap();
            mail.pools[0].backends[0].health == "healthy"
        })
        .await;
        let names = vec![("{tcp}", checked.to_string()), ("{dns}", server.address().to_string())];
        let mut recorder = Recorder::new(lab.directory.path(), "test.sock", names);
        recorder.type_all(RUNNING).await;
        recorder.compare("running");
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn outputs_of_the_last_command_are_as_recorded() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let mut recorder = Recorder::new(lab.directory.path(), "test.sock", Vec::new());
        recorder.type_all(ENDING).await;
        recorder.compare("ending");
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn outputs_of_commands_without_an_instance_are_as_recorded() {
    let (open, _listener) = health::listen();
    // An address of loopback that nobody else is on has no port open.
    let server = DnsServer::start([127, 0, 0, 1].into()).unwrap();
    server.host("api.internal", &["10.0.0.1", "2001:db8::1"], 30);
    let directory = TempDir::new().unwrap();
    for (name, text) in lines::TEXTS {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let names = vec![("{tcp}", open.to_string()), ("{dns}", server.address().to_string())];
    let mut recorder = Recorder::new(directory.path(), "none.sock", names);
    recorder.type_all(FILES).await;
    recorder.compare("files");
}

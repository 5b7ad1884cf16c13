//! The commands as a shell sees them: exit codes, what goes where, JSON.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

const GOOD: &str = r#"
[[service]]
name = "web"
listen = { interfaces = ["lo"], address = "203.0.113.10", port = 80 }
backends = [{ address = "10.0.0.1:8080" }, { address = "10.0.0.2:8080", weight = 3 }]
"#;

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs the command with a socket that is not there.
    fn run(&self, arguments: &[&str]) -> Answer {
        self.run_at("none.sock", arguments)
    }

    fn run_at(&self, socket: &str, arguments: &[&str]) -> Answer {
        let mut command = Command::new(env!("CARGO_BIN_EXE_equipoise"));
        command.arg("--socket").arg(self.path(socket)).args(arguments).env_remove("EQUIPOISE_LOG");
        Answer::from(command.output().unwrap())
    }
}

struct Answer {
    exit: i32,
    out: String,
    err: String,
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            exit: output.status.code().expect("it was not killed"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

#[test]
fn usage_errors_exit_with_2_and_help_and_version_with_0() {
    let place = Place::new();
    let file = place.file("a.toml", GOOD);
    for arguments in [
        &["run", "-c", &file, "-i", "lo", "-p", "80", "-t", "10.0.0.1:80"][..],
        &["run", "-i", "lo"],
        &["check", &file, "-c", &file],
        &["flows", "--client", "ten"],
        &["explain"],
        &["explain", "--hex", "0g"],
        &["explain", "--hex", "00112233445566778899aabbcc"],
        &["drain", "web"],
        &["drain", "web", "10.0.0.1:80", "--host", "10.0.0.1"],
        &["drain", "web", "10.0.0.1:80", "--timeout", "soon"],
        &["undrain"],
        &["breaker", "open", "web"],
        &["top"],
        &["--instance", "../x", "status"],
        &[],
    ] {
        let answer = place.run(arguments);
        assert_eq!(answer.exit, 2, "{arguments:?}: {}", answer.err);
        assert_eq!(answer.out, "", "{arguments:?}");
        assert_ne!(answer.err, "", "{arguments:?}");
    }
    let version = place.run(&["-V"]);
    assert_eq!(
        (version.exit, version.out),
        (0, format!("equipoise {}\n", env!("CARGO_PKG_VERSION")))
    );
    assert_eq!(place.run(&["--help"]).exit, 0);
}

#[test]
fn commands_for_an_instance_exit_with_4_when_none_is_running() {
    let place = Place::new();
    drop(std::os::unix::net::UnixListener::bind(place.path("left.sock")).unwrap());
    for socket in ["none.sock", "left.sock"] {
        let frame = "00112233445566778899aabbccdd";
        let commands = [&["status"][..], &["flows"], &["config"], &["explain", "--hex", frame]];
        for command in commands {
            let answer = place.run_at(socket, command);
            assert_eq!(answer.exit, 4, "{command:?} at {socket}: {}", answer.err);
            assert!(answer.err.contains("no running instance at "), "{}", answer.err);
        }
    }
}

#[test]
fn check_says_what_is_wrong_and_exits_with_2() {
    let place = Place::new();
    let good = place.file("good.toml", GOOD);
    let answer = place.run(&["check", &good]);
    assert_eq!((answer.exit, answer.out), (0, format!("{good}: ok\n")));
    let by_flag = place.run(&["check", "-c", &good]);
    assert_eq!(by_flag.exit, 0, "{}", by_flag.err);

    let bad =
        place.file("bad.toml", &GOOD.replace("port = 80", "port = 0").replace("weight", "wieght"));
    let answer = place.run(&["check", &bad]);
    assert_eq!((answer.exit, answer.out.as_str()), (2, ""));
    assert!(answer.err.contains("wieght") && answer.err.contains("port"), "{}", answer.err);

    let json: Value = serde_json::from_str(&place.run(&["check", &bad, "--json"]).out).unwrap();
    assert_eq!(json["valid"], false);
    assert_eq!(json["errors"].as_array().unwrap().len(), 2);
    let first = &json["errors"][0];
    assert_eq!((&first["file"], &first["line"]), (&Value::from(bad), &Value::from(4)));
    assert_eq!(first["key"], "service[0].listen.port");
}

#[test]
fn files_that_cannot_be_read_exit_with_2_and_say_why() {
    let place = Place::new();
    let missing = place.path("missing.toml").display().to_string();
    let directory = place.directory.path().display().to_string();
    for (path, told) in [(&missing, "there is no file"), (&directory, "is a directory")] {
        for command in ["check", "plan"] {
            let answer = place.run(&[command, path]);
            assert_eq!(answer.exit, 2, "{command} {path}");
            assert!(answer.err.contains(told), "{}", answer.err);
        }
    }
}

#[test]
fn check_against_this_machine_finds_its_interfaces() {
    let place = Place::new();
    let good = place.file("good.toml", GOOD);
    let answer = place.run(&["check", &good, "--host"]);
    assert_eq!(answer.exit, 0, "{}", answer.err);
    assert!(answer.err.contains("203.0.113.10"), "nobody owns it, which is told: {}", answer.err);
    let elsewhere = place.file("elsewhere.toml", &GOOD.replace("\"lo\"", "\"nosuch0\""));
    assert_eq!(place.run(&["check", &elsewhere]).exit, 0);
    let answer = place.run(&["check", &elsewhere, "--host"]);
    assert_eq!(answer.exit, 2);
    assert!(answer.err.contains("nosuch0"), "{}", answer.err);
}

#[test]
fn plan_without_an_instance_is_against_nothing() {
    let place = Place::new();
    let good = place.file("good.toml", GOOD);
    let answer = place.run(&["plan", &good]);
    assert_eq!(answer.exit, 0, "{}", answer.err);
    assert!(answer.out.contains("against nothing"), "{}", answer.out);
    assert!(answer.out.contains("10.0.0.2:8080"), "{}", answer.out);
    let dump = place.run(&["plan", &good, "--dump"]);
    assert_eq!(dump.exit, 0, "{}", dump.err);
    assert!(dump.out.contains("203.0.113.10:80/tcp on lo"), "{}", dump.out);
    let json: Value = serde_json::from_str(&place.run(&["--json", "plan", &good]).out).unwrap();
    assert_eq!(json["running"], false);
    assert_eq!(json["dump"], dump.out);
    assert!(!json["steps"].as_array().unwrap().is_empty());
}

#[test]
fn files_that_a_configuration_names_are_read_and_their_faults_told() {
    let place = Place::new();
    let list = place.file("deny.txt", "10.0.0.0/8\n");
    let config = place.file("a.toml", &format!("{GOOD}limits = {{ deny = ['@{list}'] }}\n"));
    let answer = place.run(&["check", &config]);
    assert_eq!((answer.exit, &*answer.err), (0, ""));
    place.file("deny.txt", "10.0.0.0/8\n# ten\nten\n");
    let answer = place.run(&["check", "--json", &config]);
    assert_eq!(answer.exit, 2);
    let told: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(told["errors"][0]["message"], format!("{list}, line 3: `ten` is not a prefix"));
    fs::remove_file(place.path("deny.txt")).unwrap();
    let answer = place.run(&["check", &config]);
    assert_eq!(answer.exit, 2);
    assert!(answer.err.contains("cannot be read: there is no such file"), "{}", answer.err);
}

#[test]
fn probe_needs_no_instance_and_says_how_it_went() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let good = place.run(&["probe", "tcp", &address]);
    assert_eq!(good.exit, 0, "{}", good.err);
    assert!(good.out.starts_with(&format!("tcp {address}: good in ")), "{}", good.out);
    let json: Value =
        serde_json::from_str(&place.run(&["probe", "tcp", &address, "--json"]).out).unwrap();
    assert_eq!((&json["good"], &json["type"]), (&true.into(), &"tcp".into()));
    drop(listener);
    let bad = place.run(&["probe", "tcp", &address, "timeout=1s"]);
    assert_eq!(bad.exit, 1);
    assert!(bad.out.starts_with(&format!("tcp {address}: connection-refused: ")), "{}", bad.out);
    for wrong in [
        &["probe", "tpc", &address][..],
        &["probe", "tcp", "nowhere"],
        &["probe", "http", &address, "path=x"],
        &["probe", "tcp"],
    ] {
        let told = place.run(wrong);
        assert_eq!(told.exit, 2, "{wrong:?}: {}", told.err);
    }
}

#[test]
fn health_asks_a_running_instance() {
    let place = Place::new();
    for arguments in [
        &["health"][..],
        &["health", "web"],
        &["health", "set", "web", "10.0.0.1:80", "down", "--for", "10m"],
        &["health", "check", "web", "10.0.0.1:80"],
    ] {
        assert_eq!(place.run(arguments).exit, 4, "{arguments:?}");
    }
    for wrong in [
        &["health", "set", "web", "10.0.0.1:80", "sideways"][..],
        &["health", "set", "web", "10.0.0.1:80", "up", "--for", "long"],
        &["health", "set", "web"],
    ] {
        assert_eq!(place.run(wrong).exit, 2, "{wrong:?}");
    }
}

#[test]
fn names_are_looked_up_without_a_running_instance() {
    use equipoise_lab::dns::{DnsServer, Kind, Says};
    let place = Place::new();
    let server = DnsServer::start([127, 0, 0, 1].into()).unwrap();
    server.host("api.internal", &["10.0.0.1", "2001:db8::1"], 30);
    let at = server.address().to_string();
    let looked_up = place.run(&["dns", "lookup", "API.internal", "--resolver", &at, "--json"]);
    assert_eq!(looked_up.exit, 0, "{}", looked_up.err);
    let answer: Value = serde_json::from_str(&looked_up.out).unwrap();
    assert_eq!((&answer["name"], &answer["kind"]), (&"api.internal".into(), &"host".into()));
    assert_eq!(answer["addresses"][1]["address"], "2001:db8::1");
    assert_eq!((&answer["ttl_seconds"], &answer["error"]), (&30.0.into(), &Value::Null));

    // Whom the file names is asked, and `--resolve` is the same.
    let file = place.file("a.toml", &format!("{GOOD}[settings.dns]\nresolvers = [\"{at}\"]\n"));
    let looked_up = place.run(&["-c", &file, "dns", "--resolve", "api.internal"]);
    assert_eq!((looked_up.exit, &*looked_up.out), (0, "10.0.0.1\n2001:db8::1\nfor 30s\n"));
    let unknown = place.run(&["-c", &file, "dns", "lookup", "x.internal", "--json"]);
    let answer: Value = serde_json::from_str(&unknown.out).unwrap();
    assert_eq!((unknown.exit, &answer["error"]["kind"]), (1, &"unknown-host".into()));
    server.says("x.internal", Kind::V4, Says::Failure);
    server.says("x.internal", Kind::V6, Says::Failure);
    let failed = place.run(&["-c", &file, "dns", "lookup", "x.internal"]);
    assert!(failed.exit == 1 && failed.out.starts_with("server-failure: "), "{}", failed.out);
    assert_eq!(place.run(&["dns"]).exit, 4);
    assert_eq!(place.run(&["dns", "refresh", "api.internal"]).exit, 4);
    assert_eq!(place.run(&["dns", "lookup", "x", "--resolver", "here"]).exit, 2);
}

#[test]
fn shells_complete_every_command_and_each_has_a_page() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let answer = place.run(&["completions", shell]);
        assert_eq!((answer.exit, answer.err.as_str()), (0, ""));
        assert!(answer.out.contains("undrain") && answer.out.contains("sum-by"), "{shell}");
    }
    assert_eq!(place.run(&["completions", "tcsh"]).exit, 2);
    let page = place.run(&["man", "backend", "add"]);
    assert!(page.exit == 0 && page.out.contains(".TH equipoise-backend-add 8"), "{}", page.out);
    assert_eq!(place.run(&["man", "backend", "paint"]).exit, 2);
    let pages = place.path("man");
    assert_eq!(place.run(&["man", "--dir", pages.to_str().unwrap()]).exit, 0);
    let help = place.run(&["--help"]).out;
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let commands: Vec<_> =
        commands.lines().map_while(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands.into_iter().filter(|command| *command != "help") {
        let page = fs::read_to_string(pages.join(format!("equipoise-{command}.8"))).unwrap();
        let name = format!("equipoise\\-{}", command.replace('-', "\\-"));
        assert!(page.contains(&name), "{page}");
    }
}

#[test]
fn doctor_leads_with_what_is_wrong_and_exits_by_it() {
    let place = Place::new();
    let file = place.file(
        "a.toml",
        "[[service]]\nname = 'web'\nlisten = { interfaces = ['none0'], address = '203.0.113.10', port = 80 }\n\
         backends = [{ address = '127.0.0.9:80' }]\n",
    );
    let said = place.run(&["doctor", "-c", &file]);
    assert_eq!(said.exit, 1, "{}{}", said.out, said.err);
    let first =
        "problem  configuration service[0].listen.interfaces[0]: there is no interface `none0`\n";
    assert!(said.out.starts_with(first), "{}", said.out);
    assert!(!said.out.contains("\nok "), "{}", said.out);
    assert!(said.out.lines().last().unwrap().ends_with(&format!("by {file}")), "{}", said.out);
    let all = place.run(&["doctor", "-v", "-c", &file]).out;
    assert!(all.contains("\nok       route 127.0.0.9: it is this host\n"), "{all}");
    let answer: Value =
        serde_json::from_str(&place.run(&["doctor", "--json", "-c", &file]).out).unwrap();
    assert_eq!(answer["level"], "problem");
    assert_eq!(answer["findings"][0]["rule"], "configuration");
    assert_eq!(answer["fixed"], Value::Null, "nothing was asked to be done");
    assert_eq!(place.run(&["doctor", "-c", &place.file("b.toml", "nonsense")]).exit, 2);
}

#[test]
fn top_without_a_terminal_says_what_to_ask_in_its_place() {
    let place = Place::new();
    let said = place.run(&["top"]);
    let wanted = "error: this takes a terminal; `equipoise status` shows the same once\n";
    assert_eq!((said.exit, &*said.out, &*said.err), (2, "", wanted));
    assert!(place.run(&["top", "--json"]).err.contains("`equipoise status --json`"));
}

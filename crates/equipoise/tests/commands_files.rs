//! The commands that are about files alone, as a shell sees them: `check`, `convert`, `schema`, `import`.

use std::fs;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

/// A directory, and the command run in it.
struct Place(TempDir);

struct Answer {
    exit: i32,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap()
    }

    fn run(&self, line: &str) -> Answer {
        self.run_with(line, &[])
    }

    fn run_with(&self, line: &str, variables: &[(&str, &str)]) -> Answer {
        let mut command = Command::new(env!("CARGO_BIN_EXE_equipoise"));
        command.args(line.split(' ')).current_dir(self.0.path()).env_remove("EQUIPOISE_LOG");
        let output = command.envs(variables.iter().copied()).output().unwrap();
        Answer {
            exit: output.status.code().expect("it was not killed"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.run(&format!("--json {line}")).out).unwrap()
    }
}

const GOOD: &str = r#"
[[service]]
name = "web"
listen = { interfaces = ["lo"], address = "203.0.113.10", port = 80 }
backends = [{ address = "10.0.0.1:8080" }, { address = "10.0.0.2:8080", weight = 3 }]
"#;

#[test]
fn convert_writes_the_format_of_the_name() {
    let place = Place::new();
    place.file("a.toml", GOOD);
    let answer = place.run("convert a.toml b.yaml");
    assert_eq!((answer.exit, &*answer.out, &*answer.err), (0, "b.yaml: written\n", ""));
    for (from, to) in [("b.yaml", "c.json"), ("c.json", "d.yml"), ("d.yml", "e.toml")] {
        assert_eq!(place.run(&format!("convert {from} {to}")).exit, 0);
        assert_eq!(place.run(&format!("check {to}")).out, format!("{to}: ok\n"));
    }
    assert_eq!(place.read("b.yaml"), place.read("d.yml"));
    let shown = place.run("convert e.toml - --format json");
    assert_eq!((shown.exit, &*shown.out), (0, &*place.read("c.json")));
    assert_eq!(place.run("convert e.toml -").out, place.read("e.toml"));
    assert_eq!(place.run("convert e.toml e.toml").exit, 0, "onto itself");
    // Nothing is left of writing.
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 5);
}

#[test]
fn convert_loses_nothing_unless_it_is_told_to() {
    let place = Place::new();
    place.file(
        "a.edn",
        "{:proxies [{:name \"web\" :listen {:interfaces [\"lo\"] :port 80}\n :default-target {:ip \"10.0.0.1\" :port 80}}]\n\
         :settings {:cluster {:enabled true}}}",
    );
    let answer = place.run("convert a.edn a.toml");
    assert_eq!((answer.exit, answer.out.as_str()), (2, ""));
    assert!(
        answer.err.contains("settings.cluster") && answer.err.contains("not served yet"),
        "{}",
        answer.err
    );
    assert!(!place.0.path().join("a.toml").exists());
    let answer = place.run("convert --partial a.edn a.toml");
    assert_eq!(answer.exit, 0, "{}", answer.err);
    assert!(answer.err.contains("settings.cluster"), "{}", answer.err);
    assert_eq!(place.run("check a.toml").exit, 0);

    let answer = place.run("convert a.toml b.edn");
    assert_eq!(answer.exit, 0, "{}", answer.err);
    place.file("c.toml", GOOD);
    let answer = place.run("convert c.toml c.edn");
    assert_eq!(answer.exit, 2);
    assert!(
        answer.err.contains("service[0].listen.address")
            && answer.err.contains("has no counterpart in EDN"),
        "{}",
        answer.err
    );
    let told = place.json("convert c.toml c.edn");
    let keys: Vec<_> =
        told["errors"].as_array().unwrap().iter().map(|error| &error["key"]).collect();
    assert!(keys.contains(&&Value::from("service[0].algorithm")), "{keys:?}");

    for (line, told) in [
        ("convert a.edn a.ini", "not of a kind of file that can be written"),
        ("convert a.edn - --format ini", "files end in"),
        ("convert none.toml b.toml", "there is no file"),
        ("convert c.toml none/b.toml", "cannot be written"),
    ] {
        let answer = place.run(line);
        assert!(answer.exit != 0 && answer.err.contains(told), "{line}: {}", answer.err);
    }
}

#[test]
fn what_is_ignored_is_a_warning_and_an_error_where_that_is_asked_for() {
    let place = Place::new();
    place.file(
        "a.edn",
        "{:proxies [{:name \"web\" :listen {:interfaces [\"lo\"] :port 80}\n :default-target {:ip \"10.0.0.1\" :port 80}}]\n :colour 1}",
    );
    let answer = place.run("check a.edn");
    assert_eq!((answer.exit, answer.out.as_str()), (0, "a.edn: ok\n"));
    assert!(
        answer.err.contains("unknown key `:colour`") && answer.err.contains("a.edn:3:2"),
        "{}",
        answer.err
    );
    let answer = place.run("check --strict a.edn");
    assert_eq!((answer.exit, answer.out.as_str()), (2, ""));
    assert!(answer.err.contains("unknown key `:colour`"), "{}", answer.err);
    let told = place.json("check --strict a.edn");
    assert_eq!((&told["valid"], &told["errors"][0]["key"]), (&false.into(), &"colour".into()));
}

#[test]
fn no_report_of_a_configuration_tells_a_secret() {
    const SECRET: &str = "very-secret";
    let place = Place::new();
    let service = "[[service]]\nname = 'web'\nlisten = { interfaces = ['lo'], port = 80 }\nbackends = [{ address = '10.0.0.1:80' }]\n";
    let edn = |settings: &str| {
        format!(
            "{{:proxies [{{:name \"web\" :listen {{:interfaces [\"lo\"] :port 80}}\n :default-target {{:ip \"10.0.0.1\" :port 80}}}}]\n :settings {{:admin-api {{{settings}}}}}}}"
        )
    };
    for (name, text, column) in [
        // The key itself is wrong: that is told at its name.
        (
            "a.toml",
            format!("{service}[settings.admin]\nkeys = [{{ name = 'ci', key = '{SECRET}' }}]\n"),
            Some(24),
        ),
        (
            "b.toml",
            format!("{service}[[settings.admin.keys]]\nname = 'ci'\nkey = '{SECRET} {SECRET}'\n"),
            Some(1),
        ),
        ("a.edn", edn(&format!(":enabled true :api-key \"{SECRET}\"")), Some(39)),
        ("b.edn", edn(&format!(":enabled true :api-key :{SECRET}")), Some(39)),
        (
            "a.yaml",
            format!("service: []\nsettings: {{admin: {{keys: [{{name: ci, key: {SECRET}}}]}}}}\n"),
            None,
        ),
        (
            "a.json",
            format!(
                "{{\"service\": [], \"settings\": {{\"admin\": {{\"keys\": [{{\"key\": \"{SECRET}\", \"name\": 1}}]}}}}}}"
            ),
            None,
        ),
        // Something beside it is.
        (
            "c.toml",
            format!(
                "{service}[settings.admin]\nkeys = [{{ name = '', key = '{SECRET}-0123456789' }}]\n"
            ),
            None,
        ),
        (
            "d.toml",
            format!(
                "{service}[settings.admin]\nkeys = [{{ name = 'ci', key = '{SECRET}-0123456789 }}]\n"
            ),
            None,
        ),
        (
            "c.edn",
            edn(&format!(":enabled true :port 0 :api-key \"{SECRET}-0123456789\" :colour 1")),
            None,
        ),
        ("d.edn", edn(&format!(":enabled true :api-key \"{SECRET}-0123456789")), None),
        // Of headers, too.
        (
            "e.toml",
            format!(
                "{service}[settings.otlp]\nendpoint = 1\nheaders = {{ authorization = '{SECRET}', 'b c' = 1 }}\n"
            ),
            None,
        ),
        (
            "f.toml",
            format!(
                "{service}[settings.otlp]\nendpoint = 'http://a'\n[settings.otlp.headers]\n'a b' = 1\nx-token = '{SECRET}ä'\n"
            ),
            None,
        ),
    ] {
        place.file(name, &text);
        for line in ["check", "check --strict", "--json check --strict", "plan", "doctor -c"] {
            let answer = place.run(&format!("{line} {name}"));
            let said = format!("{}{}", answer.out, answer.err);
            assert!(!said.contains(SECRET), "{line} {name}: {said}");
            assert!(line != "check --strict" || answer.exit == 2, "{name}: {said}");
        }
        let Some(column) = column else { continue };
        let told = place.json(&format!("check --strict {name}"));
        let errors = told["errors"].as_array().unwrap();
        let key = errors.iter().find(|error| error["key"].as_str().unwrap().ends_with("key"));
        assert_eq!(key.unwrap()["column"], column, "{name}: {told}");
    }
}

#[test]
fn problem_in_an_included_file_names_that_file_and_shows_its_line() {
    let place = Place::new();
    place.file("etc/main.toml", "include = ['conf.d/*.yaml']\n");
    place.file("etc/conf.d/a.yaml", "service:\n- name: web\n  listen: {interfaces: [lo], port: '${PORT}'}\n  backends: [{address: ten}]\n");
    let told = place.json("check etc/main.toml");
    let errors = told["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 2, "{told}");
    for (error, line, key) in [
        (&errors[0], 3, "service[0].listen.port"),
        (&errors[1], 4, "service[0].backends[0].address"),
    ] {
        assert_eq!(error["file"], "etc/conf.d/a.yaml");
        assert_eq!((&error["line"], &error["key"]), (&line.into(), &key.into()));
    }
    let answer = place.run("check etc/main.toml");
    assert!(
        answer.err.contains("[etc/conf.d/a.yaml:4:24]")
            && answer.err.contains("backends: [{address: ten}]"),
        "{}",
        answer.err
    );
    place.file("etc/conf.d/a.yaml", "service:\n- name: web\n  listen: {interfaces: [lo], port: '${PORT}'}\n  backends: [{address: 10.0.0.1}]\n");
    assert_eq!(place.run_with("check etc/main.toml", &[("PORT", "80")]).exit, 0);
    assert_eq!(place.run_with("check etc/main.toml", &[("PORT", "0")]).exit, 2);
    place.file("etc/main.toml", "include = ['conf.d/*.yaml', 'none.toml']\n");
    let answer = place.run_with("check etc/main.toml", &[("PORT", "80")]);
    assert!(
        answer.exit == 2
            && answer.err.contains("file etc/none.toml cannot be read: there is no such file"),
        "{}",
        answer.err
    );
}

#[test]
fn import_prints_a_configuration_and_lists_what_is_left() {
    let place = Place::new();
    place.file("rules", "-A -t 203.0.113.10:80 -s wrr\n-a -t 203.0.113.10:80 -r 10.0.0.1:80 -m -w 5\n-A -f 7 -s rr\n");
    let answer = place.run("import ipvs rules -i lo eth7");
    assert_eq!(answer.exit, 0, "{}", answer.err);
    assert!(
        answer.err.starts_with("rules:3: services by firewall mark are not served"),
        "{}",
        answer.err
    );
    assert!(answer.out.contains("interfaces = [\"lo\", \"eth7\"]"), "{}", answer.out);
    place.file("a.toml", &answer.out);
    assert_eq!(place.run("check a.toml").exit, 0);
    let told = place.json("import ipvs rules --format yaml");
    assert_eq!(told["left_out"][0]["line"], 3);
    place.file("a.yaml", told["config"].as_str().unwrap());
    assert_eq!(place.run("check a.yaml").exit, 0);
    place.file("web.cfg", "frontend web\n mode http\n bind :80\n");
    let answer = place.run("import haproxy web.cfg");
    assert_eq!((answer.exit, answer.out.as_str()), (1, ""));
    assert!(
        answer.err.contains("web.cfg:1: ") && answer.err.contains("nothing of web.cfg"),
        "{}",
        answer.err
    );
    assert_eq!(place.run("import nginx web.cfg").exit, 2);
    assert_eq!(place.run("import keepalived none.conf").exit, 2);
}

#[test]
fn schema_is_json_of_all_tables() {
    let schema: Value = serde_json::from_str(&Place::new().run("schema").out).unwrap();
    assert_eq!(schema["$defs"]["listen"]["properties"]["protocol"]["default"], "tcp");
}

//! The recipes of the book, followed from top to bottom with traffic: their files and commands are read from the documents.

#[path = "recipes/pair.rs"]
mod pair;
#[path = "../documents/stage.rs"]
mod stage;

use std::cell::RefCell;
use std::collections::BTreeMap;

use equipoise_lab::client::{Connect, HttpConnection};
use equipoise_lab::load::Load;
use equipoise_lab::serve::HttpServer;
use equipoise_lab::topology::{Lab, Layout, Options};

use crate::balanced::{PORT, vips, web_servers};
use crate::blocks::Document;
use crate::modes::answers_alone;
use stage::Stage;

/// Clients, a balancer and backends at the addresses of the documents; the VIP is on no interface.
fn lab(backends: usize) -> Lab {
    Lab::new(Options { backends, vips: Vec::new(), ..Options::default() }).unwrap()
}

/// Its hosts as the documents call them.
fn stage(lab: &Lab) -> Stage {
    let mut stage = Stage::default();
    stage.host("lb", &lab.balancer, &[("eth0", "front"), ("eth1", "back")]);
    stage.other_host("client", &lab.client().netns);
    stage
}

/// How many of so many new connections each backend gets; all must be answered.
fn shares(lab: &Lab, count: u64) -> BTreeMap<String, u64> {
    let tally = Load::of_count(vips()[0].1, count).run(&lab.client().netns);
    assert_eq!((tally.failed(), tally.answered()), (0, count), "{:?}", tally.failures);
    tally.by_backend
}

/// Who answers new connections, by name.
fn who_answers(lab: &Lab) -> String {
    shares(lab, 100).into_keys().collect::<Vec<_>>().join(" ")
}

/// Connections that stay open, each with the name of its backend.
struct Open(Vec<(String, HttpConnection)>);

impl Open {
    fn new(lab: &Lab, count: usize) -> Self {
        let open = |_| {
            let mut connection =
                HttpConnection::open(&lab.client().netns, vips()[0].1, &Connect::default())
                    .unwrap();
            (connection.ask("/").unwrap().backend, connection)
        };
        Self((0..count).map(open).collect())
    }

    /// How many of each backend.
    fn of(&self, backend: &str) -> usize {
        self.0.iter().filter(|(of, _)| of == backend).count()
    }

    /// All of them go on, each with its backend.
    fn all_go_on(&mut self) {
        for (backend, connection) in &mut self.0 {
            assert_eq!(connection.ask("/").unwrap().backend, *backend);
        }
    }
}

fn never(_: &str, _: &str) -> bool {
    false
}

/// The steps of a document after which a test has looked at something.
#[derive(Default)]
struct Looked(Vec<&'static str>);

impl Looked {
    /// Whether this is the step: a command that begins with these words.
    fn at(&mut self, step: &'static str, command: &str) -> bool {
        let is_it =
            command.strip_prefix(step).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
        if is_it {
            self.0.push(step);
        }
        is_it
    }
}

#[test]
fn start_in_five_minutes_leads_to_a_running_balancer() {
    let lab = lab(3);
    let _servers = web_servers(&lab);
    let mut looked = Looked::default();
    stage(&lab).follow(&Document::read("docs/start.md"), never, |stage, command| {
        if looked.at("lb# equipoise drain web 10.0.0.12:8080", command) {
            assert_eq!(who_answers(&lab), "b1 b3");
        } else if looked.at("lb# equipoise undrain", command) {
            assert_eq!(who_answers(&lab), "b1 b2 b3");
        } else if looked.at("lb# equipoise reload", command) {
            assert_eq!(who_answers(&lab), "b1 b2");
        } else if looked.at("lb# equipoise stop", command) {
            stage.ended("lb", "equipoise run");
            assert!(!stage.ask("lb", "ip address show").contains("203.0.113.10"));
        }
    });
    assert_eq!(looked.0.len(), 4, "{:?}", looked.0);
}

/// The README's own first steps, but for those that go on or need a file that it does not show.
#[test]
fn the_readme_shows_what_a_first_configuration_gives() {
    let lab = lab(3);
    let _servers = web_servers(&lab);
    let mut stage = Stage::default();
    stage.host("", &lab.balancer, &[("eth0", "front"), ("eth1", "back")]);
    let mut looked = Looked::default();
    let elsewhere = ["equipoise plan new.toml", "equipoise explain --hex", "equipoise trace"];
    let is_elsewhere =
        |_: &str, command: &str| elsewhere.iter().any(|begin| command.starts_with(begin));
    let document = Document::read("README.md").section("## A first configuration");
    stage.follow(&document, is_elsewhere, |_, command| {
        if looked.at("# equipoise run", command) {
            assert_eq!(who_answers(&lab), "b1 b2 b3");
        }
    });
    assert_eq!(looked.0.len(), 1, "{:?}", looked.0);
}

/// What the pages on drains and on changes say, on an instance of the first configuration of the README.
#[test]
fn the_guide_shows_what_drains_and_changes_give() {
    let lab = lab(3);
    let _servers = web_servers(&lab);
    let mut stage = Stage::default();
    stage.host("", &lab.balancer, &[("eth0", "front"), ("eth1", "back")]);
    let first = Document::read("README.md").section("## A first configuration");
    let mut is_running = false;
    // Up to its start.
    let later = |_: &str, command: &str| {
        let was_running = is_running;
        is_running |= command == "equipoise run";
        was_running
    };
    stage.follow(&first, later, |_, _| {});
    let mut looked = Looked::default();
    for page in ["docs/drains.md", "docs/changes.md"] {
        stage.follow(&Document::read(page), never, |stage, command| {
            if looked.at("# equipoise drain", command) {
                assert_eq!(who_answers(&lab), "b2 b3");
            } else if looked.at("# equipoise weight web 10.0.0.12:8080 0", command) {
                assert_eq!(who_answers(&lab), "b1 b3");
            } else if looked.at("# equipoise config --changes", command) {
                assert_eq!(stage.ask("", "equipoise config --changes").lines().count(), 3);
            } else if looked.at("# equipoise reload --reset", command) {
                assert_eq!(who_answers(&lab), "b1 b2 b3");
            }
        });
    }
    assert_eq!(looked.0.len(), 4, "{:?}", looked.0);
    // The first words of the page on the API are a script: a weight is set last.
    for script in Document::read("docs/api.md").scripts() {
        stage.ask("", &script);
    }
    assert_eq!(who_answers(&lab), "b1 b3");
}

#[test]
fn what_is_to_be_typed_when_something_is_wrong_is_answered() {
    let lab = lab(3);
    let _servers = web_servers(&lab);
    let mut stage = Stage::default();
    stage.host("", &lab.balancer, &[("eth0", "front"), ("eth1", "back")]);
    let config = &Document::read("docs/canary.md").blocks()[0].text;
    let begin = "# equipoise run\n...\nrunning: instance default, pid 1, socket /run/equipoise/default.sock\n...";
    let text = format!("```toml\n{config}```\n```console\n{begin}\n```\n");
    stage.follow(&Document { path: "its beginning".to_owned(), text }, never, |_, _| {});
    assert_eq!(who_answers(&lab), "b1 b2");
    // What hangs there does not hang here, and is not to be started again.
    stage.install("", "/usr/local/bin/systemctl", "#!/bin/sh\n");
    let mut document = Document::read("docs/troubleshooting.md");
    // Nobody needs to look for so long here.
    document.text = document.text.replace("--for 10s", "--for 200ms");
    let mut typed = 0;
    let is_second = |_: &str, command: &str| command == "equipoise -vv run";
    stage.follow(&document, is_second, |_, _| typed += 1);
    assert!(typed > 30, "{typed}");
    assert!(stage.ask("", "ls -s /web.pcapng").trim_start().chars().next() > Some('0'));
}

/// A build of one's own becomes a service by the script of the page: everything that the unit names is there.
#[test]
fn a_build_of_ones_own_is_installed_as_the_page_says() {
    let netns = equipoise_lab::Netns::new().unwrap();
    let mut stage = Stage::default();
    stage.host("", &netns, &[]);
    stage.install("", "/usr/local/bin/systemctl", "#!/bin/sh\necho \"$@\" >> /run/systemctl\n");
    let script = Document::read("docs/systemd.md")
        .scripts()
        .into_iter()
        .find(|script| script.contains("useradd"));
    for path in [
        "packaging/prepare",
        "packaging/systemd/equipoise.service",
        "packaging/systemd/equipoise@.service",
    ] {
        let text = std::fs::read_to_string(crate::blocks::root().join(path)).unwrap();
        stage.install("", &format!("/source/{path}"), &text);
    }
    stage.ask(
        "",
        "mkdir -p /source/target/release && cp /usr/local/sbin/equipoise /source/target/release/",
    );
    stage.ask("", &format!("cd /source\n{}", script.unwrap()));
    assert_eq!(stage.ask("", "cat /run/systemctl"), "daemon-reload\nenable --now equipoise\n");
    let unit = stage.ask("", "cat /etc/systemd/system/equipoise.service");
    let programs = unit.lines().filter_map(|line| line.strip_prefix("Exec")?.split_once('='));
    let programs: Vec<_> = programs.map(|(_, command)| command.trim_start_matches('+')).collect();
    assert_eq!(programs.len(), 3, "{programs:?}");
    for command in programs {
        stage.ask("", &format!("test -x {}", command.split(' ').next().unwrap()));
    }
    stage.ask("", "/usr/lib/equipoise/prepare default && id equipoise");
}

#[test]
fn a_canary_gets_what_its_weight_says_and_is_taken_back() {
    let lab = lab(3);
    let _servers = web_servers(&lab);
    let (mut looked, mut open) = (Looked::default(), Open(Vec::new()));
    stage(&lab).follow(&Document::read("docs/canary.md"), never, |_, command| {
        if looked.at("lb# equipoise run", command) {
            open = Open::new(&lab, 20);
        } else if looked.at("lb# equipoise wait web --healthy 3", command) {
            // 5 of 105: 95 of 2000, within five standard deviations.
            let of_canary = shares(&lab, 2000).get("b3").copied().unwrap_or_default();
            assert!((47..=143).contains(&of_canary), "{of_canary}");
            open.all_go_on();
        } else if looked.at("lb# equipoise weight web 10.0.0.13:8080 50", command) {
            let of_canary = shares(&lab, 900)["b3"];
            assert!((230..=370).contains(&of_canary), "{of_canary}");
            open.all_go_on();
            open = Open::new(&lab, 60);
            assert!(open.of("b3") > 0);
        } else if looked.at("lb# equipoise weight web 10.0.0.13:8080 0", command) {
            assert_eq!(who_answers(&lab), "b1 b2");
            open.all_go_on();
        } else if looked.at("lb# equipoise flows delete", command) {
            for (backend, connection) in &mut open.0 {
                assert_eq!(connection.ask("/").is_err(), backend == "b3", "{backend}");
            }
        } else if looked.at("lb# equipoise reload --reset", command) {
            assert_eq!(who_answers(&lab), "b1 b2 b3");
        }
    });
    assert_eq!(looked.0.len(), 6, "{:?}", looked.0);
}

#[test]
fn blue_and_green_change_places_and_connections_end_where_they_are() {
    let lab = lab(4);
    let _servers = web_servers(&lab);
    let (mut looked, mut open) = (Looked::default(), Open(Vec::new()));
    let mut serving = "b1 b2";
    stage(&lab).follow(&Document::read("docs/blue-green.md"), never, |_, command| {
        if looked.at("lb# equipoise run", command) {
            open = Open::new(&lab, 20);
        } else if looked.at("lb# equipoise reload /etc/equipoise/green.toml --confirm", command) {
            serving = "b3 b4";
        } else if looked.at("lb# equipoise reload /etc/equipoise/blue.toml", command) {
            serving = "b1 b2";
        } else if !looked.at("lb# equipoise reload /etc/equipoise/equipoise.toml", command) {
            return;
        }
        assert_eq!(who_answers(&lab), serving);
        open.all_go_on();
    });
    assert_eq!(looked.0.len(), 5, "{:?}", looked.0);
}

#[test]
fn a_deploy_that_drains_is_noticed_by_nobody() {
    let lab = lab(3);
    let servers = RefCell::new(web_servers(&lab));
    let start = |number: usize| {
        let host = &lab.backends[number];
        HttpServer::start(&host.netns, &host.name, &host.at(PORT)).unwrap()
    };
    let document = Document::read("docs/deploy.md");
    let mut stage = stage(&lab);
    let mut looked = Looked::default();
    let load = RefCell::new(None);
    let restart = |host: &str, command: &str| {
        if (host, command) != ("b2", "systemctl restart web") {
            return false;
        }
        let mut servers = servers.borrow_mut();
        drop(servers.remove(1));
        servers.insert(1, start(1));
        true
    };
    stage.follow(&document, restart, |_, command| {
        if looked.at("lb# equipoise wait web --healthy 3", command) && load.borrow().is_none() {
            let forever = std::time::Duration::from_secs(3600);
            *load.borrow_mut() =
                Some(Load::of_time(vips()[0].1, forever).start(&lab.client().netns));
        } else if looked.at("lb# equipoise drain web 10.0.0.12:8080 --wait", command) {
            assert_eq!(who_answers(&lab), "b1 b3");
        } else if looked.at(
            "lb# curl --silent --fail --unix-socket /run/equipoise/default.sock --json",
            command,
        ) {
            assert_eq!(who_answers(&lab), "b1 b2");
        } else if looked.at(
            "lb# curl --silent --fail --unix-socket /run/equipoise/default.sock --request DELETE",
            command,
        ) {
            assert_eq!(who_answers(&lab), "b1 b2 b3");
        }
    });
    // The script, on the balancer: what it does on backends is only noted.
    stage.install("lb", "/usr/local/bin/ssh", "#!/bin/sh\necho \"$@\" >> /run/deployed\n");
    let [script] = <[String; 1]>::try_from(document.scripts()).unwrap();
    stage.ask("lb", &script);
    let deployed =
        ["10.0.0.11", "10.0.0.12", "10.0.0.13"].map(|at| format!("{at} systemctl restart web\n"));
    assert_eq!(stage.ask("lb", "cat /run/deployed"), deployed.concat());
    assert_eq!(who_answers(&lab), "b1 b2 b3");
    let tally = load.take().unwrap().stop();
    assert_eq!(tally.failed(), 0, "{:?}", tally.failures);
    assert!(tally.answered() > 100);
    assert_eq!(looked.0.len(), 5, "{:?}", looked.0);
}

#[test]
fn backends_answer_clients_themselves_out_of_tunnels_and_by_link_address() {
    let lab = Lab::new(Options {
        layout: Layout::OneArm,
        backends: 2,
        vips: Vec::new(),
        ..Options::default()
    })
    .unwrap();
    lab.backends.iter().for_each(|host| answers_alone(&lab, host));
    let on_all = ["0.0.0.0:80".parse().unwrap()];
    let start =
        |host: &equipoise_lab::Host| HttpServer::start(&host.netns, &host.name, &on_all).unwrap();
    let _servers: Vec<_> = lab.backends.iter().map(start).collect();
    let mut stage = Stage::default();
    stage.host("lb", &lab.balancer, &[("eth0", "front")]);
    stage.other_host("client", &lab.client().netns);
    stage.host("b1", &lab.backends[0].netns, &[]);
    stage.host("b2", &lab.backends[1].netns, &[]);
    let mut looked = Looked::default();
    stage.follow(&Document::read("docs/dsr.md"), never, |stage, command| {
        if looked.at("client# curl", command) {
            assert_eq!(who_answers(&lab), "b1 b2");
            let status = stage.ask("lb", "equipoise status --json");
            let status: serde_json::Value = serde_json::from_str(&status).unwrap();
            let backends = &status["services"][0]["pools"][0]["backends"];
            for backend in backends.as_array().unwrap() {
                assert!(backend["packets_in"].as_u64() > Some(0), "{backend}");
                assert_eq!(backend["packets_out"], 0, "an answer has come by us");
            }
        }
        for host in ["b1", "b2"] {
            if command == format!("{host}# kill $(pidof equipoise)") {
                stage.ended(host, "equipoise decap");
                assert!(!stage.ask(host, "ip address show dev lo").contains("203.0.113.10"));
            }
        }
    });
    assert_eq!(looked.0.len(), 2, "{:?}", looked.0);
}

#[test]
fn configurations_of_other_balancers_are_carried_over() {
    let lab = lab(1);
    let document = Document::read("docs/migrating.md").section("## Carry the configuration over");
    let mut typed = 0;
    stage(&lab).follow(&document, never, |_, _| typed += 1);
    assert_eq!(typed, 10);
}

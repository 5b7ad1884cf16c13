//! What operators do on the command line, as they see it: words, exit codes, JSON.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use super::*;
use operate::{FIRST, SECOND};

impl Lab {
    pub(super) fn invoked(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_equipoise"));
        command.arg("--socket").arg(self.path("test.sock")).args(line.split(' '));
        command
    }

    /// Runs a command against this instance: its exit code, and what it says.
    pub(super) async fn command(&self, line: &str) -> (i32, String) {
        let mut command = self.invoked(line);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout) + &text(output.stderr))
    }

    async fn json(&self, line: &str) -> (i32, Value) {
        let (exit, text) = self.command(&format!("{line} --json")).await;
        (
            exit,
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}")),
        )
    }
}

#[tokio::test]
async fn commands_that_change_backends_say_what_has_become_of_it() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let (exit, said) = lab.command(&format!("weight web {FIRST} 9")).await;
        assert!(exit == 0 && said.contains("taken: generation 2"), "{said}");
        assert!(said.contains("changed: web"), "{said}");
        let (exit, said) = lab.json("backend add web 10.0.0.3:8080 --weight 4").await;
        assert_eq!((exit, &said["result"], &said["generation"]), (0, &json!("applied"), &json!(3)));
        let (exit, said) = lab.command("config --changes").await;
        let expected = "10.0.0.1:8080 of web, route default: weight 9\n\
                        10.0.0.3:8080 of web, route default: added with weight 4\n";
        assert_eq!((exit, &*said), (0, expected));
        let (_, status) = lab.command("status").await;
        assert!(status.contains("changed since: 10.0.0.3:8080 of web"), "{status}");
        assert_eq!(lab.command("backend remove web 10.0.0.9:8080").await.0, 3);
        assert_eq!(lab.command("backend remove mail 10.0.0.9:8080").await.0, 3);
        assert_eq!(lab.command(&format!("weight web {FIRST} 65536")).await.0, 2);
        for backend in ["10.0.0.3:8080", SECOND] {
            assert_eq!(lab.command(&format!("backend remove web {backend}")).await.0, 0);
        }
        let (exit, said) = lab.command(&format!("weight web {FIRST} 0")).await;
        assert!(exit == 2 && said.contains("all weights are 0"), "{said}");
        let (exit, said) = lab.json(&format!("backend remove web {FIRST}")).await;
        assert_eq!(
            (exit, &said["result"], &said["generation"]),
            (2, &json!("rejected"), &json!(5))
        );
        assert_eq!(said["errors"][0]["message"], "there is no backend");
        let (exit, said) = lab.json("reload --reset").await;
        assert_eq!((exit, &said["result"]), (0, &json!("applied")));
        assert_eq!(lab.command("reload").await.1, "nothing is otherwise: generation 6\n");
        assert_eq!(lab.command("config --changes").await, (0, String::new()));
        let missing = lab.path("nosuch.toml").display().to_string();
        assert_eq!(lab.command(&format!("reload {missing}")).await.0, 2);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn commands_that_drain_and_show_say_what_there_is() {
    let (driver, lab) =
        Lab::start(&format!("{CONFIG}\n[service.breaker]\nopen-for = '1h'\n")).await;
    lab.plane.send_modify(|plane| {
        plane.handshakes.insert(0, Duration::from_micros(1500));
    });
    run(driver, async {
        assert_eq!(lab.command("drains").await, (0, "nothing is drained\n".to_owned()));
        lab.flows(0, 2);
        let (exit, said) = lab.command(&format!("drain web {FIRST} --timeout 1h")).await;
        assert!(exit == 0 && said.contains("draining") && said.contains("1h"), "{said}");
        let (exit, said) = lab.command("drains").await;
        assert!(exit == 0 && said.contains(FIRST) && said.contains("draining"), "{said}");
        assert_eq!(lab.command(&format!("drain web {FIRST}")).await.0, 5);
        let (exit, said) = lab.command(&format!("undrain web {FIRST} --gradual")).await;
        assert!(exit == 0 && said.contains("gets new flows again"), "{said}");
        assert_eq!(lab.command(&format!("undrain web {FIRST}")).await.0, 3);
        let (exit, said) = lab.command(&format!("breaker open web {SECOND}")).await;
        assert!(exit == 0 && said.contains("open"), "{said}");
        let (_, said) = lab.command("status").await;
        assert!(said.contains("ANSWERS IN") && said.contains("1.5 ms"), "{said}");
        let (_, said) = lab.json("health").await;
        assert_eq!(said[0]["passive"]["handshake_ms"], 1.5);
        let (_, said) = lab.command("health").await;
        assert!(said.contains("1.5 ms"), "{said}");

        let (exit, events) = lab.json("events").await;
        let kinds: Vec<_> = events.as_array().unwrap().iter().map(|e| &e["kind"]).collect();
        let expected = ["started", "drain_begun", "undrained", "breaker"];
        assert_eq!((exit, kinds), (0, expected.map(|kind| json!(kind)).iter().collect()));
        let (_, said) = lab.command("events").await;
        let last = said.lines().last().unwrap();
        assert!(
            last.ends_with(&format!("breaker {SECOND} web: closed -> open (by hand)")),
            "{said}"
        );
        let mut following =
            lab.invoked("events --follow --json").stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
        let first = tokio::task::spawn_blocking(move || (lines.next().unwrap().unwrap(), lines));
        let (first, lines) = first.await.unwrap();
        assert!(first.contains("\"started\""), "{first}");
        lab.client.stop().await.unwrap();
        let rest =
            tokio::task::spawn_blocking(move || lines.map(Result::unwrap).collect::<Vec<_>>());
        let last = rest.await.unwrap().pop().unwrap();
        let last: Value = serde_json::from_str(&last).unwrap();
        assert_eq!(
            (following.wait().unwrap().code(), &last["kind"]),
            (Some(0), &json!("stopping"))
        );
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn commands_about_limits_pools_and_flows_say_what_has_become_of_it() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let (exit, said) = lab.command("limits set web per-source 100").await;
        assert!(exit == 0 && said.contains("changed: web"), "{said}");
        let (exit, said) = lab.command("limits web").await;
        assert!(exit == 0 && said.contains("100/s, 200 at once"), "{said}");
        assert!(said.contains("per-source") && said.contains("source_denied"), "{said}");
        let (_, said) = lab.json("limits").await;
        assert_eq!(said["services"][0]["per_source"]["burst"], 200);
        assert_eq!(lab.command("limits set web per-source 1000001").await.0, 2);
        assert_eq!(lab.command("limits set mail per-source 1").await.0, 3);
        assert_eq!(lab.command("limits mail").await.0, 3);
        let (exit, said) = lab.json("deny add 198.51.100.0/24 --for 1h").await;
        assert_eq!((exit, &said["result"]), (0, &json!("applied")));
        lab.command("deny add 2001:db8::1 --service web").await;
        let (exit, said) = lab.command("deny list").await;
        assert!(exit == 0 && said.contains("2001:db8::1/128") && said.contains("1h"), "{said}");
        let (_, said) = lab.command("config --changes").await;
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines[0], "limit per-source of web: 100 in a second, 200 at once");
        assert!(lines[1].starts_with("198.51.100.0/24: denied until 20"), "{said}");
        assert_eq!(lines[2], "2001:db8::1/128 at web: denied");
        assert_eq!(lab.command("deny remove 198.51.100.0/24").await.0, 0);
        assert_eq!(lab.command("deny remove 198.51.100.0/24").await.0, 3);
        assert_eq!(lab.command("deny add ten").await.0, 2);
        assert_eq!(lab.command("limits clear web").await.0, 0);
        let (exit, said) = lab.command("pool web").await;
        assert!(exit == 0 && said.starts_with("pool default of web: maglev, "), "{said}");
        assert!(said.contains(FIRST) && said.contains("75.0 %"), "{said}");
        assert_eq!(lab.command("pool web --recompute").await.0, 5);
        assert_eq!(lab.command("pool mail").await.0, 3);
        lab.flows(0, 2);
        assert_eq!(lab.command("flows delete").await.0, 2);
        assert_eq!(lab.command("flows delete --all --service web").await.0, 2);
        let (exit, said) = lab.command("flows delete --service web --reset").await;
        assert_eq!((exit, &*said), (0, "2 flows ended\n"));
        assert_eq!(lab.json("flows delete --all").await, (0, json!({ "ended": 0 })));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_is_watched_comes_again_and_again_until_its_reader_goes_or_the_instance_ends() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        for line in [
            "status --watch",
            "flows --watch",
            "health --watch",
            "services --watch --json",
            "drains --watch",
            "pool web -w",
            "breaker --watch",
            "limits web --watch --json",
            "dns --watch",
        ] {
            let mut watching = lab.invoked(line).stdout(Stdio::piped()).spawn().unwrap();
            let out = BufReader::new(watching.stdout.take().unwrap());
            let blocks = tokio::task::spawn_blocking(move || {
                let (mut ends, mut lines) = (0, out.lines());
                // An empty line after what is empty by itself, or a whole block.
                while ends < 2 {
                    let line = lines.next().expect("it goes on").unwrap();
                    ends += usize::from(line.is_empty());
                }
                drop(lines);
                watching.wait().unwrap().code()
            });
            assert_eq!(blocks.await.unwrap(), Some(0), "{line}: its reader has gone");
        }
        let mut watching = lab.invoked("status --watch").stdout(Stdio::null()).spawn().unwrap();
        lab.client.stop().await.unwrap();
        let ended = tokio::task::spawn_blocking(move || watching.wait().unwrap().code());
        assert_eq!(ended.await.unwrap(), Some(4), "there is no instance any more");
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn status_leads_with_what_is_wrong() {
    let config = CONFIG.replace("manage-address = true", "manage-address = false");
    let (driver, lab) = Lab::start(&format!("{config}\n[settings]\nmax-flows = 1000\n")).await;
    lab.flows(0, 900);
    run(driver, async {
        lab.status_when(|status| status.flow_table.live == 900).await;
        for backend in [FIRST, SECOND] {
            assert_eq!(lab.command(&format!("health set web {backend} down")).await.0, 0);
        }
        let (_, said) = lab.command("status").await;
        let (wrong, _) = said.split_once("instance test").unwrap();
        let right = "WARNING
  ! panic 0/2: pool default of web has too few usable backends
  ! the flow tables hold 900 flows, 90 % of the 1000 of one family
  note: service web: too few IPv4 backends are usable, so health is ignored
  note: service web: no interface of this machine has 203.0.113.10, so nobody answers when it is asked for on the link
";
        assert_eq!(wrong, right);
        let (_, said) = lab.json("status").await;
        assert_eq!((&said["state"], &said["reasons"]), (&json!("ok"), &json!([])));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn status_says_what_keeps_new_flows_from_a_backend() {
    let config = format!("{CONFIG}[service.breaker]\nopen-for = \"1h\"\n");
    let (driver, lab) = Lab::start(&config).await;
    run(driver, async {
        assert_eq!(lab.command(&format!("breaker open web {FIRST}")).await.0, 0);
        let (_, said) = lab.command("status").await;
        assert!(
            said.starts_with("WARNING\n  ! the breaker of 10.0.0.1:8080 of web is open\n"),
            "{said}"
        );
        assert!(said.contains("10.0.0.1:8080  none, breaker open  0 of 3"), "{said}");
        assert_eq!(lab.command(&format!("breaker close web {FIRST}")).await.0, 0);
        assert_eq!(lab.command(&format!("drain web {SECOND}")).await.0, 0);
        let (_, said) = lab.command("status").await;
        assert!(said.starts_with("ok\n"), "{said}");
        assert!(said.contains("10.0.0.2:8080  none, draining"), "{said}");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

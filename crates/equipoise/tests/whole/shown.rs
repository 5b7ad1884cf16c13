//! What operators do on the command line, as they see it: words, exit codes, JSON.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use super::*;
use operate::{FIRST, SECOND};

impl Lab {
    fn invoked(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_equipoise"));
        command.arg("--socket").arg(self.path("test.sock")).args(line.split(' '));
        command
    }

    /// Runs a command against this instance: its exit code, and what it says.
    async fn command(&self, line: &str) -> (i32, String) {
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
        assert_eq!(lab.command(&format!("drain web {FIRST}")).await.0, 1);
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

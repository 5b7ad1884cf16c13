//! The admin API against its own description: schemathesis makes requests that the description allows, and such as it forbids, and holds
//! the answers of a balancer with real programs and backends against it.

use std::ffi::OsString;
use std::fs;

use equipoise_lab::scale;
use equipoise_lab::topology::Options;

use crate::balanced::{Balanced, TC, config};

/// What it is told about this API.
///
/// A request that is as described may be refused for what it means: another generation runs (412), or a text that is no duration, a
/// configuration that is wrong as a whole (422). Ending the instance would end the test, and events without an end would last for ever;
/// whole programs and the tests of events do both.
const SETTINGS: &str = r#"
[generation]
database = "none"

[checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 409, 412, 422]

# What is meant for another generation is refused as that before its content is looked at (RFC 9110, section 13.2.2).
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 412, 415, 422, 428, 429]

[[operations]]
include-path = "/api/v1/stop"
enabled = false

[[operations]]
include-path = "/api/v1/events"
parameters = { "query.follow" = "false" }

[[operations]]
include-path = "/api/v1/flows/events"
parameters = { "query.for_seconds" = "0.001" }
"#;

#[test]
fn schemathesis_finds_nothing() {
    let program = std::env::var_os("EQUIPOISE_SCHEMATHESIS");
    let program = program.unwrap_or_else(|| OsString::from("schemathesis"));
    let mut balanced = Balanced::new(TC, Options::default());
    let text = config(&balanced.lab, TC.asked).replace(
        "max-flows = 20000",
        "max-flows = 20000\nadmin = { listen = \"127.0.0.1:8081\" }\nbreaker = {}\n\
         health-check = { type = \"tcp\", interval = \"200ms\" }\n\
         limits = { per-source = { rate = 1000 } }",
    );
    balanced.balancer.reload(&text);
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("schemathesis.toml");
    fs::write(&settings, SETTINGS).unwrap();
    // One kind at a time: with both, it takes headers that are wrong on purpose into requests that are to be right.
    for kind in ["positive", "negative"] {
        let mut command = balanced.lab.balancer.command(&program);
        command.current_dir(folder.path()).arg("--config-file").arg(&settings).arg("run");
        command.args([
            "http://127.0.0.1:8081/api/v1/openapi.json",
            "--no-color",
            "--checks",
            "all",
        ]);
        command.args([
            "--mode",
            kind,
            "--phases",
            "examples,coverage,fuzzing",
            "--continue-on-failure",
        ]);
        command.args(["--max-examples", &scale(10, 200).to_string(), "--request-timeout", "20"]);
        if scale(0, 1) == 0 {
            // For every change, the same requests as for the one before.
            command.args(["--seed", "1"]);
        }
        let output = command.output().unwrap_or_else(|error| {
            panic!("{error}: schemathesis is a package of Python's; EQUIPOISE_SCHEMATHESIS says where it is")
        });
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{kind}: {said}{errors}");
        // It has asked, and not given up before that.
        assert!(said.contains(" generated, ") && said.contains("Tested: "), "{kind}: {said}");
        println!("{said}");
    }
    assert_eq!(balanced.balancer.status()["instance"], balanced.balancer.instance);
}

//! Metrics of real traffic, and what others make of them: `promtool` of Prometheus reads a scrape, and the alerts that are shipped.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use equipoise_lab::load::Load;
use equipoise_lab::topology::Options;
use equipoise_lab::wait_until;

use crate::balanced::{Balanced, DEADLINE, TC, config, vips};

/// Has `promtool` check something, and says what it thinks of it.
fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let program = std::env::var_os("EQUIPOISE_PROMTOOL").unwrap_or_else(|| "promtool".into());
    let mut command = Command::new(program);
    let command = command.arg("check").args(arguments).stdin(Stdio::piped());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("promtool is there; it is in Debian's package prometheus");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn alerts_that_are_shipped_pass_promtool() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../packaging/prometheus/equipoise.rules.yml");
    let (passes, said) = promtool(&["rules", rules.to_str().unwrap()], "");
    assert!(passes && said.contains("14 rules found"), "{said}");
}

#[test]
fn a_scrape_of_real_traffic_passes_promtool_and_has_what_was_sent() {
    let mut balanced = Balanced::new(TC, Options::default());
    let listen = "metrics = { listen = \"127.0.0.1:9090\" }\naccess-log = { stdout = true }\n\
                  health-check = { type = \"tcp\", interval = \"100ms\" }\nmax-flows = 20000";
    let text = config(&balanced.lab, TC.asked).replace("max-flows = 20000", listen);
    balanced.balancer.reload(&text);
    const COUNT: u64 = 200;
    let (_, vip) = vips()[0];
    let tally = Load::of_count(vip, COUNT).run(balanced.client());
    assert_eq!((tally.failed(), tally.answered()), (0, COUNT), "{:?}", tally.failures);
    let scrape = || {
        let url = "http://127.0.0.1:9090/metrics";
        balanced.lab.balancer.output("curl", &["-sf", url]).unwrap()
    };
    let sum = |text: &str, name: &str| -> f64 {
        let rows = text.lines().filter(|line| line.starts_with(name) && line.contains("\"web\""));
        rows.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    let closed = || sum(&scrape(), "lb_backend_latency_seconds_count") as u64;
    wait_until(DEADLINE, "all flows to have closed", || closed() == COUNT).unwrap();
    let text = scrape();
    assert_eq!(sum(&text, "lb_backend_handshake_seconds_count") as u64, COUNT);
    assert_eq!(sum(&text, "lb_backend_new_flows_total") as u64, COUNT);
    assert_eq!(sum(&text, "lb_service_new_flows_total") as u64, COUNT);
    for family in [
        "lb_map_memory_bytes{map=\"BACKENDS\"}",
        "lb_flow_table_live_by_family{family=\"ipv4\"}",
        "lb_health_check_latency_seconds_bucket{",
        "lb_health_checks_total{",
        "lb_access_log_lines_total{output=\"stdout\"}",
        "lb_interface_attached{interface=\"front\",hook=\"tc\"",
        "lb_limit_hits_total{limit=\"source_limit\"}",
    ] {
        assert!(text.contains(family), "{family} in {text}");
    }
    let (passes, said) = promtool(&["metrics"], &text);
    assert!(passes && said.is_empty(), "{said}");
}

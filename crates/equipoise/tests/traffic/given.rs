//! A service that is given by the API while packets flow: checked, drained and counted as one of a file is, and without a trace when it is
//! taken away.

use std::net::SocketAddr;
use std::process::Command;

use equipoise_lab::client::{Connect, EchoConnection};
use equipoise_lab::load::Load;
use equipoise_lab::topology::{Options, VIP_V4};
use equipoise_lab::wait_until;
use serde_json::{Value, json};

use crate::balanced::{Balanced, Balancer, DEADLINE, TC, backends, vips};

const NAME: &str = "given";

/// Asks the API through the socket: the status, and what is answered.
fn ask(balancer: &Balancer, [method, path]: [&str; 2], body: Option<&Value>) -> (u16, Value) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--request", method, "--write-out", "\n%{http_code}"]);
    curl.arg("--unix-socket").arg(format!("/run/equipoise/{}.sock", balancer.instance));
    if let Some(body) = body {
        curl.args(["--json", &body.to_string()]);
    }
    let output = curl.arg(format!("http://localhost/api/v1/{path}")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, code) = text.rsplit_once('\n').unwrap();
    (code.parse().unwrap(), serde_json::from_str(body).unwrap_or_else(|_| body.into()))
}

#[test]
fn a_service_of_the_api_is_checked_drained_and_counted_and_leaves_nothing() {
    let balanced = Balanced::new(TC, Options::default());
    let (balancer, client) = (&balanced.balancer, balanced.client());
    let vip: SocketAddr = (VIP_V4, 8100).into();
    let places = backends(&balanced.lab, vip);
    let config_before = ask(balancer, ["GET", "config"], None).1;
    let of_backend = |(address, weight): &(SocketAddr, u32)| json!({ "address": address.to_string(), "weight": weight });
    let table = json!({
        "listen": { "interfaces": ["front"], "address": VIP_V4.to_string(), "port": vip.port() },
        "algorithm": "random",
        "timeouts": { "tcp_closing": "1s" },
        "health_check": { "type": "http", "path": "/", "interval": "100ms" },
        "backends": places.iter().map(of_backend).collect::<Vec<_>>(),
    });
    let resource = format!("services/{NAME}");
    let (code, answer) = ask(balancer, ["PUT", &resource], Some(&table));
    assert_eq!((code, &answer["services"]["added"]), (200, &json!([NAME])), "{answer}");

    // Checked.
    let healthy = |number| balancer.backend(NAME, number)["health"] == "healthy";
    wait_until(DEADLINE, "good checks", || (0..places.len()).all(healthy)).unwrap();
    // Counted.
    const REQUESTS: u64 = 200;
    let tally = Load::of_count(vip, REQUESTS).run(client);
    assert_eq!((tally.answered(), tally.failed()), (REQUESTS, 0));
    assert_eq!(balancer.sum(NAME, "new_flows"), REQUESTS);
    // Drained.
    let first = places[0].0.to_string();
    let drain = json!({ "backends": [{ "service": NAME, "backend": first }] });
    assert_eq!(ask(balancer, ["POST", "drains"], Some(&drain)).0, 200);
    let before = balancer.backend(NAME, 0)["new_flows"].clone();
    assert_eq!(Load::of_count(vip, REQUESTS).run(client).failed(), 0);
    assert_eq!(balancer.backend(NAME, 0)["new_flows"], before);
    assert_eq!(balancer.sum(NAME, "new_flows"), 2 * REQUESTS);

    // Gone: who comes is answered by this host, and nothing tells of it any more.
    assert_eq!(ask(balancer, ["DELETE", &resource], None).0, 200);
    assert!(EchoConnection::open(client, vip, &Connect::default()).is_err());
    for path in [&*resource, "flows?service=given", "health?service=given", "limits?service=given"]
    {
        assert_eq!(ask(balancer, ["GET", path], None).0, 404, "{path}");
    }
    assert_eq!(ask(balancer, ["GET", "drains"], None).1["drains"], json!([]));
    assert_eq!(ask(balancer, ["GET", "config"], None).1, config_before);
    let (_, metrics) = ask(balancer, ["GET", "metrics"], None);
    let label = format!("=\"{NAME}\"");
    assert!(!metrics.as_str().unwrap().contains(&label), "{metrics}");
    wait_until(DEADLINE, "its last flows", || balancer.status()["flow_table"]["live"] == 0)
        .unwrap();
    // The others have not noticed.
    assert_eq!(Load::of_count(vips()[0].1, REQUESTS).run(client).failed(), 0);
}

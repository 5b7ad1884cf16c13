//! Instances in a process of an application, with real packets: each in a network namespace of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use equipoise::{Balancer, Configuration};
use equipoise_lab::client::{Connect, http_get};
use equipoise_lab::serve::HttpServer;
use equipoise_lab::topology::{Lab, Options, VIP_V4};
use tokio::runtime::{Builder, Runtime};

#[path = "../examples/embedded.rs"]
mod embedded;

const PORT: u16 = 8080;

fn text(lab: &Lab) -> String {
    let backends = lab.backends.iter().map(|b| format!("{{ address = \"{}\" }}", b.at(PORT)[0]));
    format!(
        "[settings]\nmax-flows = 20000\n[[service]]\nname = \"web\"\n\
         listen = {{ interfaces = [\"front\"], address = \"{VIP_V4}\", port = 80 }}\nbackends = [{}]\n",
        backends.collect::<Vec<_>>().join(", ")
    )
}

/// A lab whose servers say its name before their own.
fn lab(name: &str) -> (Lab, Vec<HttpServer>) {
    let lab = Lab::new(Options { backends: 2, ..Options::default() }).unwrap();
    let servers = lab
        .backends
        .iter()
        .map(|b| HttpServer::start(&b.netns, &format!("{name}-{}", b.name), &b.at(PORT)).unwrap());
    let servers = servers.collect();
    (lab, servers)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// In the lab's namespace: its thread is what decides.
fn start(lab: &Lab, name: &str) -> Balancer {
    let instance = instance(name);
    let text = text(lab);
    lab.balancer.run(|| {
        let builder = Balancer::builder(Configuration::toml(text)).instance(instance);
        let builder = builder.state_file(std::env::temp_dir().join(format!("{name}-state.json")));
        runtime().block_on(builder.start()).unwrap()
    })
}

fn instance(name: &str) -> String {
    format!("library-{name}-{}", std::process::id())
}

/// Who answers.
fn answers(lab: &Lab) -> String {
    let vip: SocketAddr = (VIP_V4, 80).into();
    http_get(&lab.client().netns, vip, "/", &Connect::default()).unwrap().backend
}

fn new_flows(balancer: &Balancer) -> u64 {
    let status = runtime().block_on(balancer.status()).unwrap();
    status.services[0].pools[0].backends.iter().map(|backend| backend.traffic.new_flows).sum()
}

#[test]
fn two_instances_of_a_process_balance_in_two_namespaces() {
    let (one, _servers) = lab("one");
    let (two, _others) = lab("two");
    let (first, second) = (start(&one, "one"), start(&two, "two"));
    for _ in 0..5 {
        assert!(answers(&one).starts_with("one-"));
    }
    assert!(answers(&two).starts_with("two-"));
    assert_eq!((new_flows(&first), new_flows(&second)), (5, 1));
    runtime().block_on(first.stop()).unwrap();
    assert!(answers(&two).starts_with("two-"), "the other goes on");
    assert_eq!(new_flows(&second), 2);
    runtime().block_on(second.stop()).unwrap();
    for name in ["one", "two"] {
        assert!(!Path::new("/sys/fs/bpf/equipoise").join(instance(name)).exists());
    }
}

#[test]
fn the_example_runs_a_file_until_it_is_told_to_end() {
    let (lab, _servers) = lab("example");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.toml");
    fs::write(&file, text(&lab)).unwrap();
    let instance = instance("example");
    let asked = async {
        for _ in 0..3 {
            assert!(answers(&lab).starts_with("example-"));
        }
    };
    let ran = lab.balancer.run(|| {
        let ran = runtime().block_on(embedded::run(&file, &instance, asked));
        ran.map_err(|error| error.to_string())
    });
    ran.unwrap();
    assert!(!Path::new("/sys/fs/bpf/equipoise").join(&instance).exists());
    let links = lab.balancer.output("ip", &["-d", "link"]).unwrap();
    assert!(!links.contains("xdp"), "{links}");
}

/// Without a file that is there, it says so.
#[test]
fn the_example_asks_for_its_file() {
    // The arguments are those of the tests' own program, of which none is a file.
    let refused = embedded::main().unwrap_err().to_string();
    assert!(["No such file", "the file is missing"].iter().any(|said| refused.contains(said)));
}

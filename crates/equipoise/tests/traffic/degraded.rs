//! What the kernel refuses while an instance runs: packets flow on by what there is, the status says what is missing and why, and all is well
//! again without a restart once it is not refused any more. A machine that has been started anew, too.

use equipoise_lab::client::{Connect, http_get};
use equipoise_lab::load::Load;
use equipoise_lab::refuse::{Call, Refusals};
use equipoise_lab::topology::{FRONT_V4, Lab, Options};
use equipoise_lab::wait::wait_for;
use equipoise_lab::{Netns, link};
use serde_json::Value;

use crate::balanced::{
    Balancer, DEADLINE, NATIVE, PORT, TC, backends, config, service, vips, web_servers,
};
use crate::restart::{Servers, Traffic};

/// With metrics, and a service on the own addresses of `front`.
fn with_own_addresses(lab: &Lab, attach: &str) -> String {
    let [at, _] = lab.backends[0].at(PORT);
    let own = service("own", (FRONT_V4, 88).into(), &[(at, 1)]);
    let own = own.replace(&format!("address = \"{FRONT_V4}\", "), "");
    let metrics = "[settings.metrics]\nlisten = \"127.0.0.1:9090\"\n";
    crate::restart::config(lab, attach, 20_000) + &own + metrics
}

/// The values of a family of metrics, with their labels.
fn metric(netns: &Netns, family: &str) -> Vec<String> {
    let text = netns.output("curl", &["-sf", "http://127.0.0.1:9090/metrics"]).unwrap();
    text.lines().filter(|line| line.starts_with(family)).map(str::to_owned).collect()
}

fn reasons_when(balancer: &Balancer, state: &str) -> String {
    let is_so = || Some(balancer.status()).filter(|status| status["state"] == state);
    wait_for(DEADLINE, &format!("a status of {state}"), is_so).unwrap()["reasons"].to_string()
}

fn answers(netns: &Netns, address: &str) -> bool {
    let to = format!("{address}:88").parse().unwrap();
    http_get(netns, to, "/", &Connect::default()).is_ok_and(|answer| answer.backend == "b1")
}

/// No memory for an entry, and a map without room for one: the kernel says so by these errors.
#[test]
fn map_writes_that_are_refused_are_told_and_made_later() {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = Servers::start(&lab);
    let refusals = Refusals::default();
    let mut balancer = Balancer::prepare(&lab.balancer, &with_own_addresses(&lab, TC.asked));
    balancer.run_with_refusals(&refusals);
    let pid = balancer.daemon.as_ref().unwrap().pid();
    let client = &lab.client().netns;
    let traffic = Traffic::start(&lab);
    for (error, address, said) in [
        (libc::ENOMEM, "198.51.100.77", "Cannot allocate memory"),
        (libc::E2BIG, "198.51.100.78", "Argument list too long"),
    ] {
        refusals.refuse(Call::MapWrite, 1, error);
        // The service is there as well from now on.
        lab.balancer.ip(&format!("addr add {address}/24 dev front")).unwrap();
        let reasons = reasons_when(&balancer, "degraded");
        assert!(reasons.contains(said) && reasons.contains(address), "{reasons}");
        assert_eq!(metric(&lab.balancer, "lb_degraded "), ["lb_degraded 1"]);
        let topics = metric(&lab.balancer, "lb_degraded_reason{topic=\"maps\"}");
        assert_eq!(topics, ["lb_degraded_reason{topic=\"maps\"} 1"]);
        // Nothing else can be taken meanwhile.
        let generation = balancer.status()["config"]["generation"].clone();
        let other = balancer.file().with_extension("other.toml");
        let text = with_own_addresses(&lab, TC.asked).replace("port = 88", "port = 89");
        std::fs::write(&other, text).unwrap();
        let (code, told) = balancer.ask(&["reload", other.to_str().unwrap()]);
        assert!(code == 1 && told.contains("what ran before runs again"), "{code}: {told}");
        assert!(told.contains(said), "{told}");
        let status = balancer.status();
        assert_eq!(
            (&status["config"]["generation"], &status["state"]),
            (&generation, &"degraded".into())
        );
        assert!(refusals.refused() > 0);
        refusals.lift();
        assert_eq!(reasons_when(&balancer, "ok"), "[]");
        assert!(answers(client, address), "{}", balancer.status());
        assert_eq!(metric(&lab.balancer, "lb_degraded "), ["lb_degraded 0"]);
    }
    assert_eq!(balancer.status()["pid"], pid);
    traffic.end().tell("map writes refused", TC.asked);
    balancer.end();
}

/// A BPF file system without room: what is to be pinned there is refused.
#[test]
fn a_bpf_file_system_that_is_full_is_told_until_there_is_room() {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = Servers::start(&lab);
    for attach in [NATIVE, TC] {
        let refusals = Refusals::default();
        let text = with_own_addresses(&lab, attach.asked);
        let mut balancer = Balancer::prepare(&lab.balancer, &text);
        balancer.run_with_refusals(&refusals);
        let traffic = Traffic::start(&lab);
        let address = link::mac(&lab.balancer, "back").unwrap();
        refusals.refuse(Call::Pin, 1, libc::ENOSPC);
        lab.back_vanishes().unwrap();
        lab.back_returns(&address).unwrap();
        let reasons = reasons_when(&balancer, "degraded");
        let said = "interface back is not attached";
        assert!(reasons.contains(said) && reasons.contains("No space left"), "{reasons}");
        let topics = metric(&lab.balancer, "lb_degraded_reason{topic=\"interface\"}");
        assert_eq!(topics, ["lb_degraded_reason{topic=\"interface\"} 1"]);
        refusals.lift();
        assert_eq!(reasons_when(&balancer, "ok"), "[]");
        let interfaces = balancer.status()["interfaces"].clone();
        let back = interfaces.as_array().unwrap().iter().find(|i| i["name"] == "back").unwrap();
        assert_eq!(back["hook"], attach.hook);
        let answered = traffic.answered();
        traffic.wait_for_more_than(answered + 20);
        traffic.end().tell("no room to pin", attach.asked);
        balancer.end();
    }
    // A start has nothing to go on by.
    let mut balancer = Balancer::prepare(&lab.balancer, &config(&lab, TC.asked));
    let refusals = Refusals::default();
    refusals.refuse(Call::Pin, 1, libc::ENOSPC);
    let (status, said) = balancer.fails_to_run(&refusals);
    assert!(status == Some(1) && said.contains("No space left"), "{status:?}: {said}");
    assert!(!std::fs::exists(format!("/sys/fs/bpf/equipoise/{}", balancer.instance)).unwrap());
    refusals.lift();
    balancer.run();
    balancer.end();
}

/// Nothing of BPF is left, and what is on file is.
#[test]
fn after_a_reboot_drains_and_words_of_operators_are_as_they_were() {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = web_servers(&lab);
    let mut balancer = Balancer::start(&lab.balancer, &config(&lab, TC.asked));
    let all = backends(&lab, vips()[0].1);
    let [drained, down] = [0, 1].map(|number: usize| all[number].0.to_string());
    assert_eq!(balancer.ask(&["drain", "web", &drained]).0, 0);
    assert_eq!(balancer.ask(&["health", "set", "web", &down, "down"]).0, 0);
    balancer.daemon.take().unwrap().kill().unwrap();
    let pins = format!("/sys/fs/bpf/equipoise/{}", balancer.instance);
    std::fs::remove_dir_all(&pins).unwrap();
    let programs = || lab.balancer.output("tc", &["filter", "show", "dev", "front", "ingress"]);
    assert_eq!(programs().unwrap(), "");
    balancer.run();
    let status = balancer.status();
    assert_eq!(status["state"], "ok", "{status}");
    let told: Vec<Value> = (0..3).map(|number| balancer.backend("web", number)).collect();
    assert_eq!((&told[0]["draining"], &told[1]["health"]), (&true.into(), &"unhealthy".into()));
    let tally = Load::of_count(vips()[0].1, 60).run(&lab.client().netns);
    assert_eq!((tally.failed(), tally.answered()), (0, 60), "{:?}", tally.failures);
    assert_eq!(tally.by_backend.keys().collect::<Vec<_>>(), ["b3"]);
    balancer.end();
}

//! Flow tables of another size under traffic: no connection breaks and none fails to open, by a reload, by a restart, and when a
//! process is killed in the middle.

use equipoise_lab::topology::{Lab, Options};
use equipoise_lab::wait::wait_for;

use crate::balanced::{Attach, Balancer, DEADLINE};
use crate::restart::{Servers, Traffic, config};

/// Waits until all flows are in tables of this size.
fn wait_for_tables(balancer: &Balancer, size: u32) {
    let waited = wait_for(DEADLINE, "all flows in the new tables", || {
        let status = balancer.status();
        let table = &status["flow_table"];
        let is_done = table["size"] == size && table["to_be_carried"] == 0;
        // Nothing is left beside them.
        let is_clean = names(balancer).iter().all(|name| !name.starts_with("NEXT_"));
        (is_done && is_clean && status["state"] == "ok").then_some(())
    });
    waited.unwrap_or_else(|error| panic!("{error}: {} {:?}", balancer.status(), names(balancer)));
}

/// The maps that are pinned.
pub(crate) fn names(balancer: &Balancer) -> Vec<String> {
    let folder = format!("/sys/fs/bpf/equipoise/{}/maps", balancer.instance);
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

pub(crate) fn connections_outlive_tables_of_another_size(attach: Attach) {
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = Servers::start(&lab);
    let text = |size| config(&lab, attach.asked, size);
    let mut balancer = Balancer::start(&lab.balancer, &text(20_000));
    let traffic = Traffic::start(&lab);
    for size in [60_000, 3_000] {
        balancer.reload(&text(size));
        wait_for_tables(&balancer, size);
    }
    // By a restart, whose process has another size in its file.
    balancer.write(&text(30_000));
    balancer.daemon.take().unwrap().kill().unwrap();
    balancer.run();
    assert!(balancer.log().contains("applied steps=0"), "{}", balancer.log());
    wait_for_tables(&balancer, 30_000);
    // Killed when it has just begun, and the next one goes on.
    balancer.write(&text(50_000));
    balancer.signal(libc::SIGHUP);
    let has_begun = || names(&balancer).iter().any(|name| name.starts_with("NEXT_")).then_some(());
    wait_for(DEADLINE, "new tables", has_begun).unwrap();
    balancer.daemon.take().unwrap().kill().unwrap();
    balancer.run();
    wait_for_tables(&balancer, 50_000);
    let status = balancer.status();
    let live = status["flow_table"]["live"].as_u64().unwrap();
    traffic.end().tell("another `max-flows`: reload, restart, kill -9 in the middle", attach.asked);
    assert!(live > 0);
    balancer.end();
}

//! The bench of Equipoise: hosts, links, servers and load, all in network namespaces.
//!
//! [`Netns`] is a namespace that lives only as long as a file of this process, so nothing is left
//! behind however the process ends. [`Lab`] joins some of them to a client, a balancer and
//! backends; [`serve`] answers there, [`client`] and [`load`] ask there, [`crowd`] stays connected,
//! [`flood`] sends packets that nobody asked for, [`dns`] tells names, and [`Daemon`] runs a program there. Root is
//! needed for all but the content and the statistics.
//!
//! It knows nothing of Equipoise itself: tests and the demo bring the balancer.

pub mod cargo;
pub mod client;
pub mod content;
pub mod cpu;
pub mod crowd;
pub mod daemon;
pub mod dns;
pub mod flood;
pub mod link;
pub mod load;
pub mod netns;
pub mod program;
pub mod refuse;
pub mod sandbox;
pub mod serve;
pub mod spread;
pub mod topology;
pub mod wait;
pub mod xdp;

pub use daemon::Daemon;
pub use netns::Netns;
pub use topology::{Host, Lab, Layout, Options};
pub use wait::wait_until;

/// How much a test does: `small` each time, `full` in a soak run (`EQUIPOISE_SOAK=1`).
pub fn scale<T>(small: T, full: T) -> T {
    let soak = std::env::var_os("EQUIPOISE_SOAK").is_some_and(|value| value == "1");
    if soak { full } else { small }
}

/// How many times as long as elsewhere tests wait before they give up: for machines on which everything takes longer
/// (`EQUIPOISE_PATIENCE=20`).
pub fn patience() -> u32 {
    let asked = std::env::var("EQUIPOISE_PATIENCE").ok();
    asked.and_then(|asked| asked.parse().ok()).unwrap_or(1)
}

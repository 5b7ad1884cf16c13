//! The data plane alone, on the balancer's two veth devices: without a process that follows the machine.

use equipoise::dataplane::kernel::{
    Clock, Device, Eviction, Kernel, Options as KernelOptions, TcWay,
};
use equipoise_core::facts::{Facts, Interface};
use equipoise_lab::Netns;
use equipoise_lab::link::index;

/// The devices.
pub(crate) const DEVICES: [&str; 2] = ["front", "back"];

/// Loaded, with room for so many flows.
pub(crate) fn load(instance: &str, max_flows: u32, (tc, eviction): (TcWay, Eviction)) -> Kernel {
    let options = KernelOptions { instance, max_flows, tc, clock: Clock::default(), eviction };
    Kernel::load(&options).unwrap()
}

/// The devices as a plan knows them, without addresses.
pub(crate) fn facts(netns: &Netns) -> Facts {
    let interface = |name: &str| {
        let index = index(netns, name).unwrap();
        (name.to_owned(), Interface { index, addresses: Vec::new() })
    };
    Facts { interfaces: DEVICES.map(interface).into(), ..Facts::default() }
}

/// A device, to be attached to.
pub(crate) fn device<'a>(netns: &Netns, name: &'a str) -> Device<'a> {
    Device {
        name,
        index: index(netns, name).unwrap(),
        native_xdp: false,
        xdp_program: None,
        kind: Some("veth"),
    }
}

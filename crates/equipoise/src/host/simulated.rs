//! A machine made of data, for running the whole program without one.
//!
//! It behaves as the kernel does where the driver can tell: addresses appear in the next reading,
//! a write to `ipv6/conf/all` reaches every interface, and each change is news.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tokio::sync::watch;

use super::{HostError, Machine, Reading, Scope, Way};

/// What a simulated machine is like.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Interfaces and ways; an address that is asked about and not here is unreachable.
    pub reading: Reading,
    /// Kernel settings, by path below `/proc/sys/net`.
    pub settings: BTreeMap<String, String>,
    /// Next hops that the kernel was asked to look for.
    pub asked: BTreeSet<(u32, IpAddr)>,
}

/// A machine made of data.
#[derive(Debug)]
pub struct Simulated {
    world: watch::Sender<World>,
    news: watch::Receiver<World>,
}

impl Simulated {
    /// A machine and the handle by which a test watches and changes it.
    pub fn new(world: World) -> (Self, watch::Sender<World>) {
        let (world, news) = watch::channel(world);
        (Self { world: world.clone(), news }, world)
    }
}

impl Machine for Simulated {
    async fn read(&mut self, targets: &BTreeSet<IpAddr>) -> Result<Reading, HostError> {
        let world = self.news.borrow_and_update();
        let mut reading = world.reading.clone();
        let own = |target| reading.owners(target).next().is_some();
        reading.ways = targets
            .iter()
            .map(|&target| {
                let known = world.reading.ways.get(&target).copied();
                (target, if own(target) { Way::Local } else { known.unwrap_or(Way::Unreachable) })
            })
            .collect();
        Ok(reading)
    }

    async fn changed(&mut self) {
        if self.news.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn refresh_neighbours(
        &mut self,
        _interfaces: &BTreeSet<u32>,
        next_hops: &BTreeSet<(u32, IpAddr)>,
    ) -> Result<usize, HostError> {
        self.world.send_if_modified(|world| {
            world.asked.extend(next_hops);
            false
        });
        Ok(next_hops.len())
    }

    async fn add_address(
        &mut self,
        interface: u32,
        address: IpAddr,
        _scope: Scope,
    ) -> Result<bool, HostError> {
        Ok(self.world.send_if_modified(|world| {
            let device = world.reading.devices.values_mut().find(|d| d.index == interface);
            let Some(device) = device.filter(|d| !d.addresses.contains(&address)) else {
                return false;
            };
            device.addresses.push(address);
            true
        }))
    }

    async fn remove_address(&mut self, interface: u32, address: IpAddr) -> Result<(), HostError> {
        self.world.send_modify(|world| {
            if let Some(device) = world.reading.devices.values_mut().find(|d| d.index == interface)
            {
                device.addresses.retain(|a| *a != address);
            }
        });
        Ok(())
    }

    fn setting(&self, path: &str) -> Option<String> {
        self.world.borrow().settings.get(path).cloned()
    }

    fn set(&mut self, path: &str, value: &str) -> Result<(), HostError> {
        let mut known = false;
        self.world.send_if_modified(|world| {
            let all = path == "ipv6/conf/all/forwarding";
            for (other, setting) in &mut world.settings {
                let follows =
                    all && other.starts_with("ipv6/conf/") && other.ends_with("/forwarding");
                if other == path || follows {
                    value.clone_into(setting);
                }
                known |= other == path;
            }
            false
        });
        if known {
            Ok(())
        } else {
            Err(HostError::new(format!("setting {path}"), &"there is no such setting"))
        }
    }
}

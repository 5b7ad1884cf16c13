//! Addresses that services ask us to manage: put on an interface at start, taken away at stop.

use std::collections::BTreeSet;
use std::net::IpAddr;

use equipoise_core::config::Config;
use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressScope,
};
use rtnetlink::{Error, Handle};
use serde::{Deserialize, Serialize};

use super::{HostError, Machine, Reading, Scope};

/// The addresses that we have added and nobody else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Managed {
    ours: BTreeSet<(u32, IpAddr)>,
}

impl Managed {
    /// Whether nothing has been added.
    pub fn is_empty(&self) -> bool {
        self.ours.is_empty()
    }

    /// Adds what `config` asks for and no interface has yet, and removes what it no longer asks
    /// for.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an address; those before it stay.
    pub async fn follow<M: Machine>(
        &mut self,
        machine: &mut M,
        config: &Config,
        reading: &Reading,
    ) -> Result<(), HostError> {
        // The addresses are another's where packets are only observed.
        let wanted =
            if config.settings.observe { BTreeSet::new() } else { wanted(config, reading) };
        let dropped: Vec<_> = self.ours.difference(&wanted).copied().collect();
        for (interface, address) in dropped {
            self.give_up(machine, interface, address).await?;
        }
        for (interface, address) in wanted {
            if reading.owners(address).next().is_some() {
                continue;
            }
            if machine.add_address(interface, address, Scope::Global).await? {
                tracing::info!(%address, interface = name(reading, interface), "address added for a service");
                self.ours.insert((interface, address));
            }
        }
        Ok(())
    }

    /// Removes everything that was added; what cannot be removed is said and left.
    pub async fn release<M: Machine>(&mut self, machine: &mut M) {
        for (interface, address) in self.ours.clone() {
            if let Err(error) = self.give_up(machine, interface, address).await {
                tracing::warn!(%address, %error, "an address that was added for a service stays");
            }
        }
    }

    async fn give_up<M: Machine>(
        &mut self,
        machine: &mut M,
        interface: u32,
        address: IpAddr,
    ) -> Result<(), HostError> {
        machine.remove_address(interface, address).await?;
        self.ours.remove(&(interface, address));
        tracing::info!(%address, "address removed again");
        Ok(())
    }
}

/// Each managed address on the first interface that its service listens on.
fn wanted(config: &Config, reading: &Reading) -> BTreeSet<(u32, IpAddr)> {
    let managed = config.services.iter().filter(|s| s.manage_address);
    managed
        .filter_map(|service| {
            let address = service.listen.address?;
            let first = service.listen.interfaces.first()?;
            Some((reading.devices.get(first)?.index, address))
        })
        .collect()
}

fn name(reading: &Reading, index: u32) -> String {
    reading.by_index(index).map_or_else(|| index.to_string(), |(name, _)| name.to_owned())
}

pub(super) async fn add(
    handle: &Handle,
    (interface, address): (u32, IpAddr),
    scope: Scope,
) -> Result<bool, Error> {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let mut request = handle.address().add(interface, address, bits);
    if scope == Scope::Host && address.is_ipv4() {
        request.message_mut().header.scope = AddressScope::Host;
    }
    if address.is_ipv6() {
        // Without duplicate address detection it is usable at once, as a VIP must be; the
        // attribute carries what the header's eight bits cannot on all kernels.
        let message = request.message_mut();
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    match request.execute().await {
        Ok(()) => Ok(true),
        Err(Error::NetlinkError(e)) if e.raw_code() == -libc::EEXIST => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) async fn remove(handle: &Handle, interface: u32, address: IpAddr) -> Result<(), Error> {
    let mut found = std::pin::pin!(
        handle
            .address()
            .get()
            .set_link_index_filter(interface)
            .set_address_filter(address)
            .execute()
    );
    let Some(message) = found.try_next().await? else {
        return Ok(());
    };
    match handle.address().del(message).execute().await {
        Err(Error::NetlinkError(e))
            if [-libc::EADDRNOTAVAIL, -libc::ENODEV].contains(&e.raw_code()) =>
        {
            Ok(())
        }
        removed => removed,
    }
}

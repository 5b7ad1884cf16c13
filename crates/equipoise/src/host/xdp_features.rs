//! What devices can do with XDP, from the generic netlink family `netdev` (kernel 6.3 and later).
//!
//! Features are dynamic: a veth takes redirected frames as soon as its peer has GRO on or a
//! program, so the family's `mgmt` group is listened to. Two messages of one attribute each do
//! not need a crate; the bytes are those of `linux/netdev.h`.

use std::collections::BTreeMap;
use std::io;

use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, TokioSocket};

use super::messages::{Attributes, Family, NLM_F_DUMP, dump, generic, message, open};

const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

const NAME: &str = "netdev";
const NEWS: &str = "mgmt";

/// XDP features of a device, as bits of `enum netdev_xdp_act`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// The driver runs XDP programs.
    pub fn basic(self) -> bool {
        self.0 & 1 != 0
    }

    /// The device takes frames that a program on another one redirects to it.
    pub fn ndo_xmit(self) -> bool {
        self.0 & 4 != 0
    }
}

/// Features of all devices, by index; none where the kernel does not tell.
pub(super) fn read() -> io::Result<Option<BTreeMap<u32, Features>>> {
    let socket = open(NETLINK_GENERIC)?;
    let Some(family) = Family::find(&socket, NAME, NEWS)? else {
        return Ok(None);
    };
    let mut features = BTreeMap::new();
    let request = message(family.id, NLM_F_DUMP, generic(NETDEV_CMD_DEV_GET), &[]);
    dump(&socket, &request, |payload| features.extend(device(payload)))?;
    Ok(Some(features))
}

/// News of devices whose features have changed.
pub(super) struct FeatureNews {
    socket: TokioSocket,
}

impl FeatureNews {
    /// None where the kernel has no such news.
    pub(super) fn subscribe() -> io::Result<Option<Self>> {
        let asking = open(NETLINK_GENERIC)?;
        let Some(Family { news: Some(group), .. }) = Family::find(&asking, NAME, NEWS)? else {
            return Ok(None);
        };
        let mut socket = TokioSocket::new(NETLINK_GENERIC)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_mut().add_membership(group)?;
        Ok(Some(Self { socket }))
    }

    /// Resolves at the next change.
    pub(super) async fn next(&mut self) -> io::Result<()> {
        match self.socket.recv_from_full().await {
            // News were lost: everything may have changed.
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => Err(error),
            _ => Ok(()),
        }
    }
}

fn device(payload: &[u8]) -> Option<(u32, Features)> {
    let mut index = None;
    let mut features = Features::default();
    for (kind, value) in Attributes::of(payload) {
        match kind {
            NETDEV_A_DEV_IFINDEX => index = value.first_chunk().map(|b| u32::from_ne_bytes(*b)),
            NETDEV_A_DEV_XDP_FEATURES => {
                if let Some(bits) = value.first_chunk() {
                    features = Features(u64::from_ne_bytes(*bits));
                }
            }
            _ => {}
        }
    }
    Some((index?, features))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::messages::attribute;

    #[test]
    fn features_of_a_device_are_read_from_its_message() {
        let mut payload = vec![1, 1, 0, 0];
        payload.extend(attribute(NETDEV_A_DEV_IFINDEX, &7u32.to_ne_bytes()));
        payload.extend(attribute(NETDEV_A_DEV_XDP_FEATURES, &35u64.to_ne_bytes()));
        let (index, features) = device(&payload).unwrap();
        assert_eq!(index, 7);
        assert!(features.basic());
        assert!(!features.ndo_xmit());
    }

    #[test]
    fn truncated_messages_tell_of_no_device() {
        let mut payload = vec![1, 1, 0, 0];
        payload.extend(attribute(NETDEV_A_DEV_IFINDEX, &7u32.to_ne_bytes()));
        for cut in 0..payload.len() {
            assert!(device(&payload[..cut]).is_none(), "cut at {cut}");
        }
    }
}

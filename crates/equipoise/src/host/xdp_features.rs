//! What devices can do with XDP, from the generic netlink family `netdev` (kernel 6.3 and later).
//!
//! Features are dynamic: a veth takes redirected frames as soon as its peer has GRO on or a
//! program, so the family's `mgmt` group is listened to. Two messages of one attribute each do
//! not need a crate; the bytes are those of `linux/genetlink.h` and `linux/netdev.h`.

use std::collections::BTreeMap;
use std::io;

use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, Socket, SocketAddr, TokioSocket};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
const CTRL_ATTR_MCAST_GRP_NAME: u16 = 1;
const CTRL_ATTR_MCAST_GRP_ID: u16 = 2;

const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;

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
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let Some(family) = Family::find(&socket)? else {
        return Ok(None);
    };
    let request = message(family.id, NLM_F_DUMP, NETDEV_CMD_DEV_GET, &[]);
    socket.send(&request, 0)?;
    let mut features = BTreeMap::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for message in Messages(&datagram) {
            match message.kind {
                NLMSG_DONE => return Ok(Some(features)),
                NLMSG_ERROR => return Err(error(message.payload)),
                _ => features.extend(device(message.payload)),
            }
        }
    }
}

/// News of devices whose features have changed.
pub(super) struct FeatureNews {
    socket: TokioSocket,
}

impl FeatureNews {
    /// None where the kernel has no such news.
    pub(super) fn subscribe() -> io::Result<Option<Self>> {
        let asking = {
            let mut socket = Socket::new(NETLINK_GENERIC)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket
        };
        let Some(Family { news: Some(group), .. }) = Family::find(&asking)? else {
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

struct Family {
    id: u16,
    news: Option<u32>,
}

impl Family {
    fn find(socket: &Socket) -> io::Result<Option<Self>> {
        let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
        socket.send(&message(GENL_ID_CTRL, 0, CTRL_CMD_GETFAMILY, &name), 0)?;
        let (datagram, _) = socket.recv_from_full()?;
        let Some(answer) = Messages(&datagram).next() else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        if answer.kind != NLMSG_ERROR {
            return Ok(Self::from_answer(answer.payload));
        }
        let error = error(answer.payload);
        if error.raw_os_error() == Some(libc::ENOENT) { Ok(None) } else { Err(error) }
    }

    fn from_answer(payload: &[u8]) -> Option<Self> {
        let mut id = None;
        let mut news = None;
        for (kind, value) in Attributes::of(payload) {
            match kind {
                CTRL_ATTR_FAMILY_ID => id = value.first_chunk().map(|b| u16::from_ne_bytes(*b)),
                CTRL_ATTR_MCAST_GROUPS => {
                    news = Attributes(value).find_map(|(_, group)| group_id(group, b"mgmt\0"));
                }
                _ => {}
            }
        }
        Some(Self { id: id?, news })
    }
}

fn group_id(group: &[u8], wanted: &[u8]) -> Option<u32> {
    let named =
        Attributes(group).any(|(kind, value)| kind == CTRL_ATTR_MCAST_GRP_NAME && value == wanted);
    let id = Attributes(group).find(|(kind, _)| *kind == CTRL_ATTR_MCAST_GRP_ID)?.1;
    named.then(|| id.first_chunk().map(|b| u32::from_ne_bytes(*b)))?
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

/// A whole message: netlink header, generic header, attributes.
fn message(kind: u16, flags: u16, command: u8, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER + GENERIC_HEADER + attributes.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend((length as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence number and port: the kernel fills in the port, and one question is open at a time.
    bytes.extend([0; 8]);
    bytes.extend([command, 1, 0, 0]);
    bytes.extend(attributes);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend((length as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

fn error(payload: &[u8]) -> io::Error {
    match payload.first_chunk().map(|b| i32::from_ne_bytes(*b)) {
        Some(code) => io::Error::from_raw_os_error(-code),
        None => io::ErrorKind::UnexpectedEof.into(),
    }
}

struct Message<'a> {
    kind: u16,
    payload: &'a [u8],
}

/// The messages of a datagram.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = u32::from_ne_bytes(*self.0.first_chunk()?) as usize;
        let whole = self.0.get(..length)?;
        let kind = u16::from_ne_bytes(whole.get(4..6)?.try_into().ok()?);
        let payload = whole.get(HEADER..)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, payload })
    }
}

/// Attributes, one after the other.
struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    fn of(generic: &'a [u8]) -> Self {
        Self(generic.get(GENERIC_HEADER..).unwrap_or_default())
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        const NESTED_AND_ORDER: u16 = 0xc000;
        let length = u16::from_ne_bytes(*self.0.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & !NESTED_AND_ORDER;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn family_and_its_news_group_are_found_in_the_controllers_answer() {
        let mut group = attribute(CTRL_ATTR_MCAST_GRP_NAME, b"mgmt\0");
        group.extend(attribute(CTRL_ATTR_MCAST_GRP_ID, &5u32.to_ne_bytes()));
        let mut payload = vec![1, 2, 0, 0];
        payload.extend(attribute(CTRL_ATTR_FAMILY_ID, &30u16.to_ne_bytes()));
        payload.extend(attribute(CTRL_ATTR_MCAST_GROUPS, &attribute(1, &group)));
        let family = Family::from_answer(&payload).unwrap();
        assert_eq!((family.id, family.news), (30, Some(5)));
    }

    #[test]
    fn truncated_messages_end_the_walk() {
        let whole = message(30, 0, 1, &attribute(1, &[1, 2, 3, 4]));
        for cut in 0..whole.len() {
            assert!(Messages(&whole[..cut]).next().is_none(), "cut at {cut}");
        }
        let payload = Messages(&whole).next().unwrap().payload.to_vec();
        for cut in 0..payload.len() {
            assert!(device(&payload[..cut]).is_none(), "cut at {cut}");
        }
    }
}

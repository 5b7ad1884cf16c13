//! Netlink in bytes, for families that no crate of ours speaks: messages of a header, four bytes of the family's own, and attributes.
//!
//! The generic families (`linux/genetlink.h`) and netfilter's (`linux/netfilter/nfnetlink.h`) both look like that. Knows no family but
//! the controller that tells the numbers of the generic ones; a message that is cut short ends the walk over it.

use std::io;

use rtnetlink::sys::{Socket, SocketAddr};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
pub(super) const NLM_F_DUMP: u16 = 0x300;
/// Marks an attribute that has others in it.
pub(super) const NESTED: u16 = 0x8000;

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
const CTRL_ATTR_MCAST_GRP_NAME: u16 = 1;
const CTRL_ATTR_MCAST_GRP_ID: u16 = 2;

const HEADER: usize = 16;
/// Bytes before the attributes.
pub(super) const FIXED: usize = 4;

/// A socket to the kernel.
pub(super) fn open(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Sends a request for a list, and gives each payload of the answer.
pub(super) fn dump(socket: &Socket, request: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
    socket.send(request, 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for message in Messages(&datagram) {
            match message.kind {
                // It tells as well why a list is not whole.
                NLMSG_DONE => return acknowledged(message.payload),
                NLMSG_ERROR => return Err(error(message.payload)),
                _ => each(message.payload),
            }
        }
    }
}

/// Sends a request that changes something, and waits until the kernel has said that it did.
pub(super) fn order(
    socket: &Socket,
    kind: u16,
    fixed: [u8; FIXED],
    attributes: &[u8],
) -> io::Result<()> {
    socket.send(&message(kind, NLM_F_ACK, fixed, attributes), 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut errors = Messages(&datagram).filter(|message| message.kind == NLMSG_ERROR);
        if let Some(message) = errors.next() {
            return acknowledged(message.payload);
        }
    }
}

/// Sends a question that has one answer, and gives what that is.
pub(super) fn answer<T>(socket: &Socket, question: &[u8], of: fn(&[u8]) -> T) -> io::Result<T> {
    socket.send(question, 0)?;
    let (datagram, _) = socket.recv_from_full()?;
    match Messages(&datagram).next() {
        Some(message) if message.kind == NLMSG_ERROR => Err(error(message.payload)),
        Some(message) => Ok(of(message.payload)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// An acknowledgement is an error of 0.
fn acknowledged(payload: &[u8]) -> io::Result<()> {
    match payload.first_chunk() {
        Some([0, 0, 0, 0]) | None => Ok(()),
        Some(_) => Err(error(payload)),
    }
}

/// A generic family: its number, and the number of one of its groups of news.
pub(super) struct Family {
    pub(super) id: u16,
    pub(super) news: Option<u32>,
}

impl Family {
    /// None where the kernel does not have it.
    pub(super) fn find(socket: &Socket, name: &str, news: &str) -> io::Result<Option<Self>> {
        let name = attribute(CTRL_ATTR_FAMILY_NAME, &terminated(name));
        socket.send(&message(GENL_ID_CTRL, 0, generic(CTRL_CMD_GETFAMILY), &name), 0)?;
        let (datagram, _) = socket.recv_from_full()?;
        let Some(answer) = Messages(&datagram).next() else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        if answer.kind != NLMSG_ERROR {
            return Ok(Self::from_answer(answer.payload, news));
        }
        let error = error(answer.payload);
        if error.raw_os_error() == Some(libc::ENOENT) { Ok(None) } else { Err(error) }
    }

    fn from_answer(payload: &[u8], group: &str) -> Option<Self> {
        let mut id = None;
        let mut news = None;
        for (kind, value) in Attributes::of(payload) {
            match kind {
                CTRL_ATTR_FAMILY_ID => id = value.first_chunk().map(|b| u16::from_ne_bytes(*b)),
                CTRL_ATTR_MCAST_GROUPS => {
                    let wanted = terminated(group);
                    news = Attributes(value).find_map(|(_, group)| group_id(group, &wanted));
                }
                _ => {}
            }
        }
        Some(Self { id: id?, news })
    }
}

/// A text as the kernel ends it.
pub(super) fn terminated(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

/// A text of the kernel's, without its end.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn group_id(group: &[u8], wanted: &[u8]) -> Option<u32> {
    let named =
        Attributes(group).any(|(kind, value)| kind == CTRL_ATTR_MCAST_GRP_NAME && value == wanted);
    let id = Attributes(group).find(|(kind, _)| *kind == CTRL_ATTR_MCAST_GRP_ID)?.1;
    named.then(|| id.first_chunk().map(|b| u32::from_ne_bytes(*b)))?
}

/// The part before the attributes, of the generic families.
pub(super) fn generic(command: u8) -> [u8; FIXED] {
    [command, 1, 0, 0]
}

/// A whole message: netlink header, what its family has before the attributes, attributes.
pub(super) fn message(kind: u16, flags: u16, fixed: [u8; FIXED], attributes: &[u8]) -> Vec<u8> {
    let length = HEADER + FIXED + attributes.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend((length as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence number and port: the kernel fills in the port, and one question is open at a time.
    bytes.extend([0; 8]);
    bytes.extend(fixed);
    bytes.extend(attributes);
    bytes
}

/// One attribute, with what fills it up.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
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

pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) payload: &'a [u8],
}

/// The messages of a datagram.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

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
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// Those of a payload, after what its family has before them.
    pub(super) fn of(payload: &'a [u8]) -> Self {
        Self(payload.get(FIXED..).unwrap_or_default())
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
    fn family_and_its_news_group_are_found_in_the_controllers_answer() {
        let mut group = attribute(CTRL_ATTR_MCAST_GRP_NAME, b"mgmt\0");
        group.extend(attribute(CTRL_ATTR_MCAST_GRP_ID, &5u32.to_ne_bytes()));
        let mut payload = vec![1, 2, 0, 0];
        payload.extend(attribute(CTRL_ATTR_FAMILY_ID, &30u16.to_ne_bytes()));
        payload.extend(attribute(CTRL_ATTR_MCAST_GROUPS, &attribute(1, &group)));
        let family = Family::from_answer(&payload, "mgmt").unwrap();
        assert_eq!((family.id, family.news), (30, Some(5)));
    }

    #[test]
    fn end_of_a_list_that_is_not_whole_is_an_error() {
        assert!(acknowledged(&0i32.to_ne_bytes()).is_ok());
        let error = acknowledged(&(-libc::EMSGSIZE).to_ne_bytes()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    }

    #[test]
    fn truncated_messages_end_the_walk() {
        let whole = message(30, 0, generic(1), &attribute(1, &[1, 2, 3, 4]));
        for cut in 0..whole.len() {
            assert!(Messages(&whole[..cut]).next().is_none(), "cut at {cut}");
        }
        assert_eq!(Attributes::of(Messages(&whole).next().unwrap().payload).count(), 1);
    }
}

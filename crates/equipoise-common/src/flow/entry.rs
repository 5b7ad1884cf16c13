//! What an entry says: the words of a slot, packed and unpacked.
//!
//! | word | IPv4 | IPv6 | what |
//! | --- | --- | --- | --- |
//! | meta | 0 | 0 | state and flags (16 bits), generation of the backend (16), position of the other entry, or when it was given up (32) |
//! | key | 1 | 1..5 | source and destination address as the packet has them |
//! | key ports | 2 | 5 | source and destination port, and when the flow was opened (32): in ticks, and in the reply's entry in moments; there, once a connection is confirmed, how long that has taken |
//! | activity | 5 | 6 | end of what this direction has sent (32), last packet (32) |
//! | traffic | 7 | 7 | IP bytes (36), packets (28); the halves of what does not fit are in `track` |
//! | to | 3 | 8..12 | source and destination address after rewriting |
//! | to ports | 4 | 12 | source and destination port after rewriting, service (16), backend (16) |
//! | track | 6 | 13 | latest acknowledgement (32), carried bytes (18), carried packets (14) |
//!
//! Sequence numbers are in host order, addresses and ports in network order, times in ticks.

use super::set::Position;
use super::state::State;
use super::word::Word;
use crate::key::{Address, Be16, FiveTuple, TCP, UDP, V4, V6};
use crate::value::Traffic;

/// Where the words of a slot of `SLOT` words are.
pub struct At<const SLOT: usize>;

impl<const SLOT: usize> At<SLOT> {
    /// Words of a pair of addresses.
    pub const PAIR: usize = if SLOT == 8 { 1 } else { 4 };
    /// State, flags, generation, and the other entry's position.
    pub const META: usize = 0;
    /// First word of the key's addresses.
    pub const KEY: usize = 1;
    /// The key's ports.
    pub const KEY_PORTS: usize = 1 + Self::PAIR;
    /// First word of the addresses after rewriting.
    pub const TO: usize = if SLOT == 8 { 3 } else { 8 };
    /// Ports after rewriting, service, backend.
    pub const TO_PORTS: usize = Self::TO + Self::PAIR;
    /// What has been sent, and when.
    pub const ACTIVITY: usize = if SLOT == 8 { 5 } else { 6 };
    /// Latest acknowledgement, and what does not fit in the counters.
    pub const TRACK: usize = if SLOT == 8 { 6 } else { 13 };
    /// Bytes and packets.
    pub const TRAFFIC: usize = 7;
}

/// Flags of a meta word.
pub mod flag {
    /// The entry is of the direction from the backend to the client.
    pub const REPLY: u32 = 1 << 3;
    /// The flow is of UDP.
    pub const UDP: u32 = 1 << 4;
    /// The entry is in the second set of its key.
    pub const SPILLED: u32 = 1 << 5;
    /// The backend has answered.
    pub const ANSWERED: u32 = 1 << 6;
    /// The client has sent a FIN.
    pub const CLIENT_FIN: u32 = 1 << 7;
    /// The backend has sent a FIN.
    pub const BACKEND_FIN: u32 = 1 << 8;
    /// The backend has acknowledged the client's FIN.
    pub const CLIENT_DONE: u32 = 1 << 9;
    /// The client has acknowledged the backend's FIN.
    pub const BACKEND_DONE: u32 = 1 << 10;
    /// The backend's answers do not come by us.
    pub const ONE_SIDED: u32 = 1 << 11;
    /// While it is opening, and the backend has not answered as far as is seen here: the client has sent its SYN again. It
    /// shares its bit with one that has a meaning only later.
    pub const SENT_AGAIN: u32 = BACKEND_FIN;
    /// What both entries of a flow say alike.
    pub const SHARED: u32 =
        ANSWERED | CLIENT_FIN | BACKEND_FIN | CLIENT_DONE | BACKEND_DONE | STATE | WHY;
    /// The state.
    pub const STATE: u32 = 7;
    /// Who began to close, a [`super::Reason`].
    pub const WHY: u32 = 0xf << WHY_SHIFT;
    /// Where it begins.
    pub const WHY_SHIFT: u32 = 12;
}

/// Why a flow has closed.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(any(test, feature = "user"), derive(PartialOrd, Ord, Hash))]
pub enum Reason {
    /// It has not.
    #[default]
    None = 0,
    /// Both ends have finished, the client first.
    ClientFin = 1,
    /// Both ends have finished, the backend first.
    BackendFin = 2,
    /// The client has reset it.
    ClientReset = 3,
    /// The backend has reset it.
    BackendReset = 4,
    /// The backend has gone, and the service resets its flows.
    BackendGone = 5,
    /// No packet for longer than its timeout.
    Idle = 6,
    /// It gave way to a new flow.
    Evicted = 7,
    /// Its client has opened a new connection from the same port.
    Replaced = 8,
    /// The backend has gone, and the next packet chose anew.
    Reselected = 9,
    /// Its client has come to be denied.
    Denied = 10,
    /// An operator has ended it.
    ByHand = 11,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::None,
        Self::ClientFin,
        Self::BackendFin,
        Self::ClientReset,
        Self::BackendReset,
        Self::BackendGone,
        Self::Idle,
        Self::Evicted,
        Self::Replaced,
        Self::Reselected,
        Self::Denied,
        Self::ByHand,
    ];

    /// From a number.
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::ClientFin,
            2 => Self::BackendFin,
            3 => Self::ClientReset,
            4 => Self::BackendReset,
            5 => Self::BackendGone,
            6 => Self::Idle,
            7 => Self::Evicted,
            8 => Self::Replaced,
            9 => Self::Reselected,
            10 => Self::Denied,
            11 => Self::ByHand,
            _ => Self::None,
        }
    }

    /// The name in events and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ClientFin => "client_fin",
            Self::BackendFin => "backend_fin",
            Self::ClientReset => "client_reset",
            Self::BackendReset => "backend_reset",
            Self::BackendGone => "backend_gone",
            Self::Idle => "idle",
            Self::Evicted => "evicted",
            Self::Replaced => "replaced",
            Self::Reselected => "reselected",
            Self::Denied => "denied",
            Self::ByHand => "by_hand",
        }
    }
}

/// A meta word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Meta(pub u64);

impl Meta {
    /// Of a flow: state, flags, generation of its backend, and where its other entry is.
    #[inline(always)]
    pub const fn live(state: State, flags: u32, generation: u16, other: Position) -> Self {
        Self((state as u32 | flags) as u64 | (generation as u64) << 16 | (other as u64) << 32)
    }

    /// Of a slot that was given up at this time.
    #[inline(always)]
    pub const fn resting(since: u32) -> Self {
        Self(State::Resting as u64 | (since as u64) << 32)
    }

    /// The state.
    #[inline(always)]
    pub const fn state(self) -> State {
        State::from_number((self.0 & 7) as u8)
    }

    /// The number of the state.
    #[inline(always)]
    pub const fn state_number(self) -> u32 {
        (self.0 & 7) as u32
    }

    /// State and flags.
    #[inline(always)]
    pub const fn flags(self) -> u32 {
        (self.0 & 0xffff) as u32
    }

    /// True if all of these flags are set.
    #[inline(always)]
    pub const fn has(self, flags: u32) -> bool {
        self.0 as u32 & flags == flags
    }

    /// Generation of the backend when the flow was opened.
    #[inline(always)]
    pub const fn generation(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Where the flow's other entry is; of a resting slot, since when.
    #[inline(always)]
    pub const fn other(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// TCP or UDP.
    #[inline(always)]
    pub const fn protocol(self) -> u32 {
        if self.has(flag::UDP) { UDP } else { TCP }
    }

    /// True for a flow.
    #[inline(always)]
    pub const fn is_live(self) -> bool {
        self.0 & 7 >= State::Opening as u64
    }

    /// Whether the client has sent its SYN again, and nothing has come of it.
    #[inline(always)]
    pub const fn is_sent_again(self) -> bool {
        self.state_number() == State::Opening as u32 && self.has(flag::SENT_AGAIN)
    }

    /// Why the flow has closed.
    pub fn reason(self) -> Reason {
        Reason::from_number((self.flags() & flag::WHY) >> flag::WHY_SHIFT)
    }

    /// With these shared flags in place of its own.
    #[inline(always)]
    pub const fn sharing(self, shared: u32) -> Self {
        Self(self.0 & !(flag::SHARED as u64) | (shared & flag::SHARED) as u64)
    }
}

/// What a flow makes of its packets.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Facts<A> {
    /// The five-tuple after rewriting.
    pub to: FiveTuple<A>,
    /// Service id.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
}

/// The words of a pair of addresses; IPv4 uses the first alone.
#[inline(always)]
pub fn pair<A: Address>(source: A, destination: A) -> [u64; 4] {
    let [s0, s1] = source.words();
    let [d0, d1] = destination.words();
    if A::IS_V6 { [s0, s1, d0, d1] } else { [s0 | d0 << 32, 0, 0, 0] }
}

/// The reverse of [`pair`].
#[inline(always)]
pub fn addresses<A: Address>(pair: [u64; 4]) -> (A, A) {
    let [a, b, c, d] = pair;
    if A::IS_V6 {
        (A::unpack(V6([a, b])), A::unpack(V6([c, d])))
    } else {
        (A::unpack(V4(a as u32).pack()), A::unpack(V4((a >> 32) as u32).pack()))
    }
}

/// The word of a pair of ports.
#[inline(always)]
pub fn ports<A>(tuple: &FiveTuple<A>) -> u32 {
    tuple.source_port.0 as u32 | (tuple.destination_port.0 as u32) << 16
}

/// Whether the entry in a slot is found by `key`.
#[inline(always)]
pub fn matches<W: Word, A: Address, const SLOT: usize>(
    slot: &[W; SLOT],
    key: &FiveTuple<A>,
) -> bool {
    let meta = Meta(slot[At::<SLOT>::META].load());
    if !meta.is_live() || meta.has(flag::UDP) != (key.protocol == UDP) {
        return false;
    }
    let pair = pair(key.source, key.destination);
    let mut different = slot[At::<SLOT>::KEY_PORTS].load() as u32 ^ ports(key);
    let mut word = 0;
    while word < At::<SLOT>::PAIR {
        let difference = slot[At::<SLOT>::KEY + word].load() ^ pair[word];
        different |= difference as u32 | (difference >> 32) as u32;
        word += 1;
    }
    different == 0
}

/// What the entry in a slot makes of its packets.
#[inline(always)]
pub fn facts<W: Word, A: Address, const SLOT: usize>(slot: &[W; SLOT], meta: Meta) -> Facts<A> {
    let last = slot[At::<SLOT>::TO_PORTS].load();
    let (source, destination) = addresses(load_pair::<W, SLOT>(slot, At::<SLOT>::TO));
    Facts {
        to: FiveTuple {
            source,
            destination,
            source_port: Be16(last as u16),
            destination_port: Be16((last >> 16) as u16),
            protocol: meta.protocol(),
        },
        service: (last >> 32 & 0xffff) as u32,
        backend: (last >> 48) as u32,
    }
}

/// Service and backend id of an entry.
#[inline(always)]
pub fn owner<W: Word, const SLOT: usize>(slot: &[W; SLOT]) -> (u32, u32) {
    let last = slot[At::<SLOT>::TO_PORTS].load();
    ((last >> 32 & 0xffff) as u32, (last >> 48) as u32)
}

/// What an entry is found by.
#[inline(always)]
pub fn key<W: Word, A: Address, const SLOT: usize>(slot: &[W; SLOT], meta: Meta) -> FiveTuple<A> {
    let last = slot[At::<SLOT>::KEY_PORTS].load();
    let (source, destination) = addresses(load_pair::<W, SLOT>(slot, At::<SLOT>::KEY));
    FiveTuple {
        source,
        destination,
        source_port: Be16(last as u16),
        destination_port: Be16((last >> 16) as u16),
        protocol: meta.protocol(),
    }
}

/// When the flow of a request's entry was opened, ticks.
#[inline(always)]
pub fn opened<W: Word, const SLOT: usize>(slot: &[W; SLOT]) -> u32 {
    (slot[At::<SLOT>::KEY_PORTS].load() >> 32) as u32
}

/// When the flow of a reply's entry was opened, moments.
#[inline(always)]
pub fn begun<W: Word, const SLOT: usize>(slot: &[W; SLOT]) -> u32 {
    (slot[At::<SLOT>::KEY_PORTS].load() >> 32) as u32
}

/// How long it has taken to confirm a connection, moments, in its reply's entry; 0 where it was never confirmed.
#[inline(always)]
pub fn handshake<W: Word, const SLOT: usize>(reply: &[W; SLOT], was: Meta) -> u32 {
    if was.state_number() == State::Established as u32 { begun(reply) } else { 0 }
}

/// Has a reply's entry say how long it has taken to confirm its connection, in place of when that was begun: what asks for the age of a
/// flow does so of one that is not confirmed.
#[inline(always)]
pub(super) fn note_handshake<W: Word, const SLOT: usize>(reply: &[W; SLOT], taken: u32) {
    let ports = reply[At::<SLOT>::KEY_PORTS].load() as u32;
    reply[At::<SLOT>::KEY_PORTS].store(ports as u64 | (taken as u64) << 32);
}

/// When the last packet of an entry's direction came.
#[inline(always)]
pub fn last_seen<W: Word, const SLOT: usize>(slot: &[W; SLOT]) -> u32 {
    (slot[At::<SLOT>::ACTIVITY].load() >> 32) as u32
}

/// The end of what an entry's direction has sent: the next sequence number.
#[inline(always)]
pub fn sent<W: Word, const SLOT: usize>(slot: &[W; SLOT]) -> u32 {
    slot[At::<SLOT>::ACTIVITY].load() as u32
}

/// The latest acknowledgement of an entry's direction.
#[inline(always)]
pub fn acknowledged<W: Word, const SLOT: usize>(slot: &[W; SLOT]) -> u32 {
    slot[At::<SLOT>::TRACK].load() as u32
}

#[inline(always)]
fn load_pair<W: Word, const SLOT: usize>(slot: &[W; SLOT], first: usize) -> [u64; 4] {
    let mut pair = [0; 4];
    let mut word = 0;
    while word < At::<SLOT>::PAIR {
        pair[word] = slot[first + word].load();
        word += 1;
    }
    pair
}

const BYTE_BITS: u32 = 36;
const BYTES: u64 = (1 << BYTE_BITS) - 1;
/// Top bits of the two parts of a traffic word: whoever sets one carries half of that away, so that
/// each part still holds enough for a packet to be taken off again.
const BYTES_TOP: u64 = 1 << (BYTE_BITS - 1);
const PACKETS_TOP: u64 = 1 << 63;
const CARRIED_BYTES_BITS: u32 = 18;

/// Packets of an entry's direction, as long as they are few.
#[inline(always)]
pub fn packets<W: Word, const SLOT: usize>(slot: &[W; SLOT]) -> u64 {
    slot[At::<SLOT>::TRAFFIC].load() >> BYTE_BITS
}

/// Counts a packet; the barrier that the flow's facts are read behind.
///
/// One word holds both numbers, so that one atomic addition counts both. When a part has grown large, the one CPU
/// whose addition has made it so carries a share away.
#[inline(always)]
pub fn count<W: Word, const SLOT: usize>(slot: &[W; SLOT], packets: u64, bytes: u64) {
    let by = packets << BYTE_BITS | bytes;
    let before = slot[At::<SLOT>::TRAFFIC].add(by);
    let grown = before.wrapping_add(by) & !before & (BYTES_TOP | PACKETS_TOP);
    if grown != 0 {
        carry(slot, grown);
    }
}

/// Takes a packet off again.
#[inline(always)]
pub fn uncount<W: Word, const SLOT: usize>(slot: &[W; SLOT], packets: u64, bytes: u64) {
    slot[At::<SLOT>::TRAFFIC].add((packets << BYTE_BITS | bytes).wrapping_neg());
}

#[inline(never)]
fn carry<W: Word, const SLOT: usize>(slot: &[W; SLOT], grown: u64) {
    let mut carried = 0;
    if grown & BYTES_TOP != 0 {
        carried += 1 << 32;
    }
    if grown & PACKETS_TOP != 0 {
        carried += 1 << (32 + CARRIED_BYTES_BITS);
    }
    slot[At::<SLOT>::TRACK].add(carried);
    slot[At::<SLOT>::TRAFFIC].add((grown >> 1).wrapping_neg());
}

/// Packets and IP bytes of an entry's direction.
pub fn traffic<W: Word, const SLOT: usize>(slot: &[W; SLOT]) -> (u64, u64) {
    let word = slot[At::<SLOT>::TRAFFIC].load();
    let carried = slot[At::<SLOT>::TRACK].load() >> 32;
    let carried_bytes = carried & ((1 << CARRIED_BYTES_BITS) - 1);
    let packets = (word >> BYTE_BITS) + (carried >> CARRIED_BYTES_BITS) * (1 << 26);
    (packets, (word & BYTES) + carried_bytes * (BYTES_TOP >> 1))
}

/// Both directions of a flow as a service counts them.
pub fn both<W: Word, const SLOT: usize>(request: &[W; SLOT], reply: Option<&[W; SLOT]>) -> Traffic {
    let (packets_in, bytes_in) = traffic(request);
    let (packets_out, bytes_out) = reply.map_or((0, 0), traffic);
    Traffic { packets_in, bytes_in, packets_out, bytes_out, ..Traffic::default() }
}

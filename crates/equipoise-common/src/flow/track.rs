//! What packets tell of a flow: how far each end has got, and when it is confirmed, half-closed or over.
//!
//! A packet is noted in the entry of its own direction, which it has found anyway. Only the few packets that can
//! change the state look at the other entry too: the request's meta word is where states change, and the reply's
//! entry gets a copy. A FIN counts once the other end has acknowledged it, a RST where the other end would accept
//! it (RFC 9293 section 3.10.7.4, RFC 5961 section 3): what a stranger sends closes nothing.

use super::count::Live;
use super::entry::{
    At, Meta, Reason, acknowledged, begun, flag, note_handshake, owner, packets, sent,
};
use super::set::{End, Position, Storage, at};
use super::state::State;
use super::word::Word;

/// Flags of a TCP header.
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Opens a connection.
    pub const SYN: u8 = 2;
    /// Ends it at once.
    pub const RST: u8 = 4;
    /// Carries an acknowledgement.
    pub const ACK: u8 = 16;
}

/// How far ahead of what has been seen a sequence number is believed, bytes: more than Linux lets a
/// connection have in flight by default (`tcp_rmem`, 6 MB), a 256th of all numbers.
const WINDOW: u32 = 1 << 24;

/// How often an exchange that others get in the way of is tried.
const TRIES: u32 = 4;

/// What is noted of a packet.
#[derive(Clone, Copy, Default, Debug)]
pub struct Segment {
    /// TCP flags; 0 for UDP.
    pub flags: u8,
    /// Sequence number of its first byte.
    pub sequence: u32,
    /// Acknowledgement number; of no meaning without [`tcp::ACK`].
    pub acknowledgement: u32,
    /// Sequence numbers that it takes: bytes, and one each for SYN and FIN.
    pub length: u32,
}

impl Segment {
    #[inline(always)]
    const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    #[inline(always)]
    const fn end(&self) -> u32 {
        self.sequence.wrapping_add(self.length)
    }
}

/// Notes a packet in the entry that it has found, with this meta word. True if the packet may change the
/// state, which is then for [`turn`].
#[inline(always)]
pub fn note<W: Word, const SLOT: usize>(
    slot: &[W; SLOT],
    meta: Meta,
    segment: &Segment,
    now: u32,
) -> bool {
    let activity = slot[At::<SLOT>::ACTIVITY].load();
    let mut sent = activity as u32;
    if !meta.has(flag::UDP) {
        let ahead = segment.end().wrapping_sub(sent);
        let believed =
            ahead.wrapping_sub(1) < WINDOW || meta.state_number() == State::Opening as u32;
        if believed && !segment.has(tcp::RST) {
            sent = segment.end();
        }
        if segment.has(tcp::ACK) && acknowledged(slot) != segment.acknowledgement {
            slot[At::<SLOT>::TRACK].store_low(segment.acknowledgement);
        }
    }
    let fresh = (now as u64) << 32 | sent as u64;
    if fresh != activity {
        slot[At::<SLOT>::ACTIVITY].store(fresh);
    }
    is_eventful(meta, segment)
}

/// Whether a packet may change the state of its flow.
#[inline(always)]
fn is_eventful(meta: Meta, segment: &Segment) -> bool {
    const CLIENT: u32 = flag::CLIENT_FIN | flag::CLIENT_DONE;
    const BACKEND: u32 = flag::BACKEND_FIN | flag::BACKEND_DONE;
    let flags = meta.flags();
    match meta.state() {
        State::Established => {
            segment.flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0
                || flags & CLIENT == flag::CLIENT_FIN
                || flags & BACKEND == flag::BACKEND_FIN
        }
        State::Opening => true,
        State::OneWay => meta.has(flag::REPLY) != meta.has(flag::ANSWERED),
        State::TwoWay | State::Closing | State::Free | State::Resting => false,
    }
}

/// Changes the state as a packet says that has been noted in the entry at `here`: [`greet`] and [`settle`], which a program has as
/// functions of their own.
pub fn turn<const SLOT: usize, S: Storage<SLOT>>(table: &S, here: Position, segment: &Segment) {
    greet(table, here, segment);
    settle(table, here, segment);
}

/// What a packet tells of the backend of a flow that is opening: that it has answered for the first time, that it has not and is asked
/// again, or that it must have. Apart from [`settle`], where the verifier would follow it once for each way that that can go.
#[inline(never)]
pub fn greet<const SLOT: usize, S: Storage<SLOT>>(table: &S, here: Position, segment: &Segment) {
    let Some(slot) = at(table, here) else { return };
    let meta = Meta(slot[0].load());
    let Some(other) = at(table, meta.other()) else { return };
    if meta.state() != State::Opening {
        return;
    }
    let handshake = segment.flags & (tcp::SYN | tcp::ACK);
    if meta.has(flag::REPLY) {
        if meta.has(flag::ANSWERED) {
            return;
        }
        // Of a SYN that was sent more than once nobody knows which is answered.
        if handshake == tcp::SYN | tcp::ACK && packets(other) == 1 {
            table.answered(owner(slot).1, begun(slot));
        }
        mark_again([other, slot], [meta.other(), here], 0);
        return;
    }
    let is_one_sided = meta.has(flag::ONE_SIDED);
    // The reply's entry begins with what the first SYN makes the backend acknowledge. One that XDP has left to TC is the only one yet.
    let is_again =
        handshake == tcp::SYN && segment.end() == acknowledged(other) && packets(slot) > 1;
    if is_again && (is_one_sided || !meta.has(flag::ANSWERED)) {
        mark_again([slot, other], [here, meta.other()], flag::SENT_AGAIN);
    } else if is_one_sided && handshake == tcp::ACK {
        mark_again([slot, other], [here, meta.other()], 0);
    }
}

/// Says in both entries of a flow that is opening whether its client has sent its SYN again. Where another packet is quicker, that is
/// not said: it is one of many.
#[inline(always)]
fn mark_again<W: Word, const SLOT: usize>(
    [request, reply]: [&[W; SLOT]; 2],
    at: [Position; 2],
    mark: u32,
) {
    let was = Meta(request[0].load());
    let is_one = was.is_live() && !was.has(flag::REPLY) && was.other() == at[1];
    let flags = was.flags() & !flag::SENT_AGAIN | mark;
    if is_one && was.state() == State::Opening && flags != was.flags() {
        request[0].exchange(was.0, was.sharing(flags).0);
        share(request, reply, at);
    }
}

/// Changes the state as a packet says that has been noted in the entry at `here`.
///
/// Not inlined: few packets come here.
#[inline(never)]
pub fn settle<const SLOT: usize, S: Storage<SLOT>>(table: &S, here: Position, segment: &Segment) {
    let Some(slot) = at(table, here) else { return };
    let meta = Meta(slot[0].load());
    let Some(other) = at(table, meta.other()) else { return };
    if !meta.is_live() {
        return;
    }
    let is_reply = meta.has(flag::REPLY);
    let anew = is_reply && is_begun_anew(meta, segment, sent(slot));
    if anew {
        // Begun now: that is how long ago the first of all moments was.
        note_handshake(slot, table.confirmed(0));
        slot[At::<SLOT>::ACTIVITY]
            .store(slot[At::<SLOT>::ACTIVITY].load() >> 32 << 32 | segment.end() as u64);
        other[At::<SLOT>::ACTIVITY]
            .store(other[At::<SLOT>::ACTIVITY].load() >> 32 << 32 | segment.acknowledgement as u64);
    }
    let view = View {
        is_reply,
        anew,
        sent: sent(slot),
        other_sent: sent(other),
        other_acknowledged: acknowledged(other),
    };
    let ends = if is_reply { [meta.other(), here] } else { [here, meta.other()] };
    alter(table, ends, |flags| view.after(flags, segment));
}

/// Closes the flow with an entry at `here`, for this reason. True if it was this call that did it.
#[inline(never)]
pub fn close<const SLOT: usize, S: Storage<SLOT>>(table: &S, here: Position, why: Reason) -> bool {
    let Some(slot) = at(table, here) else { return false };
    let meta = Meta(slot[0].load());
    let ends = if meta.has(flag::REPLY) { [meta.other(), here] } else { [here, meta.other()] };
    alter(table, ends, |flags| closing(flags, why))
}

#[inline(always)]
const fn closing(flags: u32, why: Reason) -> u32 {
    flags & !(flag::STATE | flag::WHY) | State::Closing as u32 | (why as u32) << flag::WHY_SHIFT
}

/// A backend that has lost a connection answers a SYN in it as if it were the first. The answer to the first, sent
/// again, is not that.
#[inline(always)]
fn is_begun_anew(meta: Meta, segment: &Segment, sent: u32) -> bool {
    let is_answer = segment.has(tcp::SYN | tcp::ACK);
    let is_old = sent.wrapping_sub(segment.end()) < WINDOW;
    is_answer && !is_old && meta.state_number() == State::Established as u32
}

/// Both ends of a flow as a packet meets them.
struct View {
    is_reply: bool,
    /// The backend has lost the connection and begins it anew.
    anew: bool,
    /// End of what the packet's sender has sent.
    sent: u32,
    /// End of what the other end has sent.
    other_sent: u32,
    /// What the other end has acknowledged.
    other_acknowledged: u32,
}

impl View {
    /// The shared flags after a packet.
    #[inline(always)]
    fn after(&self, before: u32, segment: &Segment) -> u32 {
        let state = before & flag::STATE;
        if state == State::OneWay as u32 {
            if self.is_reply {
                return before | flag::ANSWERED;
            }
            let answered = before & flag::ANSWERED != 0;
            return if answered { before & !flag::STATE | State::TwoWay as u32 } else { before };
        }
        if state != State::Opening as u32 && state != State::Established as u32 {
            return before;
        }
        if segment.has(tcp::RST) {
            let why = if self.is_reply { Reason::BackendReset } else { Reason::ClientReset };
            return if self.accepts_reset(before, segment) { closing(before, why) } else { before };
        }
        if before & flag::ONE_SIDED != 0 {
            return self.after_alone(before, segment);
        }
        self.after_stream(before, segment)
    }

    /// So, of a stream whose other half goes another way. The client is believed: it has acknowledged something, so
    /// there is a connection; it has finished, so the rest is what the closing timeout is for, which its packets
    /// put off.
    #[inline(always)]
    fn after_alone(&self, before: u32, segment: &Segment) -> u32 {
        if self.is_reply {
            return before;
        }
        if segment.has(tcp::FIN) && segment.end() == self.sent {
            return closing(before | flag::CLIENT_FIN, Reason::ClientFin);
        }
        let acknowledges = segment.has(tcp::ACK) && !segment.has(tcp::SYN);
        if before & flag::STATE == State::Opening as u32 && acknowledges {
            return before & !flag::STATE | State::Established as u32;
        }
        before
    }

    #[inline(always)]
    fn after_stream(&self, before: u32, segment: &Segment) -> u32 {
        let mut flags = before;
        if self.is_reply {
            flags |= flag::ANSWERED;
            if self.anew {
                return flags & !(flag::SHARED) | State::Opening as u32 | flag::ANSWERED;
            }
        }
        let acknowledges = segment.has(tcp::ACK) && !segment.has(tcp::SYN);
        let is_latest = acknowledges && segment.acknowledgement == self.other_sent;
        let opening = flags & flag::STATE == State::Opening as u32;
        if opening && !self.is_reply && is_latest && flags & flag::ANSWERED != 0 {
            flags = flags & !flag::STATE | State::Established as u32;
        }
        let (fin, other_fin, other_done, why) = if self.is_reply {
            (flag::BACKEND_FIN, flag::CLIENT_FIN, flag::CLIENT_DONE, Reason::BackendFin)
        } else {
            (flag::CLIENT_FIN, flag::BACKEND_FIN, flag::BACKEND_DONE, Reason::ClientFin)
        };
        if segment.has(tcp::FIN) && segment.end() == self.sent {
            flags |= fin;
            if flags & flag::WHY == 0 {
                flags |= (why as u32) << flag::WHY_SHIFT;
            }
        }
        let past = segment.acknowledgement.wrapping_sub(self.other_sent);
        if acknowledges && flags & other_fin != 0 && past < WINDOW {
            flags |= other_done;
        }
        const DONE: u32 = flag::CLIENT_DONE | flag::BACKEND_DONE;
        if flags & DONE == DONE {
            flags = flags & !flag::STATE | State::Closing as u32;
        }
        flags
    }

    /// Whether the other end takes a RST to be its peer's.
    #[inline(always)]
    fn accepts_reset(&self, flags: u32, segment: &Segment) -> bool {
        let in_flight = self.sent.wrapping_sub(self.other_acknowledged);
        let is_bounded = in_flight < WINDOW || flags & flag::ONE_SIDED != 0;
        let at_end = segment.sequence == self.sent && is_bounded;
        let refuses_syn = flags & flag::STATE == State::Opening as u32
            && self.is_reply
            && segment.has(tcp::ACK)
            && segment.acknowledgement == self.other_sent;
        at_end || segment.sequence == self.other_acknowledged || refuses_syn
    }
}

/// Changes what both entries of a flow, request and reply, say alike. True if this call changed it.
#[inline(always)]
fn alter<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    [request_at, reply_at]: [Position; 2],
    change: impl Fn(u32) -> u32,
) -> bool {
    let (Some(request), Some(reply)) = (at(table, request_at), at(table, reply_at)) else {
        return false;
    };
    let mut tries = 0;
    let mut changed = false;
    while tries < TRIES {
        let was = Meta(request[0].load());
        if !was.is_live() || was.has(flag::REPLY) || was.other() != reply_at {
            return false;
        }
        let new = was.sharing(change(was.flags()));
        if new == was {
            break;
        }
        if request[0].exchange(was.0, new.0) == was.0 {
            tell(table, [request, reply], was, new);
            changed = true;
            break;
        }
        tries += 1;
    }
    share(request, reply, [request_at, reply_at]);
    changed
}

/// Counts a change of state, and tells of a flow that has closed.
#[inline(always)]
fn tell<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    [request, reply]: [&[S::Word; SLOT]; 2],
    was: Meta,
    new: Meta,
) {
    recount(table, request, was, new);
    let is_confirmed = new.state_number() == State::Established as u32;
    if is_confirmed && was.state_number() == State::Opening as u32 {
        note_handshake(reply, table.confirmed(begun(reply)));
    }
    if new.state_number() == State::Closing as u32 && was.state_number() != new.state_number() {
        let why = Reason::from_number((new.flags() & flag::WHY) >> flag::WHY_SHIFT);
        table.ended(&End { request, reply: Some(reply), was, why });
    }
}

/// Counts a change of state.
#[inline(always)]
pub(super) fn recount<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    request: &[S::Word; SLOT],
    was: Meta,
    new: Meta,
) {
    let is_over = new.state() == State::Closing && was.state() != State::Closing;
    if is_over && let Some(count) = table.live(Live::Closing(owner(request).1)) {
        count.add(1);
    }
    let (before, after) = (was.state().is_confirmed(), new.state().is_confirmed());
    if before != after
        && let Some(count) = table.live(Live::Confirmed)
    {
        count.add(if after { 1 } else { 1_u64.wrapping_neg() });
    }
}

/// Brings the reply's entry to what the request's says. Two CPUs may do this at once: each looks
/// again after it has written, so that the older copy does not stay.
#[inline(always)]
pub(super) fn share<W: Word, const SLOT: usize>(
    request: &[W; SLOT],
    reply: &[W; SLOT],
    [request_at, reply_at]: [Position; 2],
) {
    let mut tries = 0;
    while tries < TRIES {
        let truth = Meta(request[0].load());
        let was = Meta(reply[0].load());
        let is_one = truth.is_live() && truth.other() == reply_at;
        if !is_one || !was.is_live() || was.other() != request_at {
            return;
        }
        let new = was.sharing(truth.flags());
        let copied = new == was || reply[0].exchange(was.0, new.0) == was.0;
        if copied && request[0].load() == truth.0 {
            return;
        }
        tries += 1;
    }
}

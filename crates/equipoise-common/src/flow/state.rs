//! The states of a flow, and the clock that they are timed by.
//!
//! A flow is *confirmed* once its client has shown that it receives what the backend sends: no
//! packet with a forged source gets a flow that far, so only confirmed flows are kept from giving
//! way to new ones. Knows nothing of where flows are stored.

/// Coarse time: units of 2^20 ns (about 1.05 ms), wrapping after 52 days. Two times are compared by
/// their difference, which is right for up to half of that.
#[inline(always)]
pub const fn tick(nanoseconds: u64) -> u32 {
    long_tick(nanoseconds) as u32
}

/// Coarse time in the same units, for what may be older than half of 52 days when it is looked at.
#[inline(always)]
pub const fn long_tick(nanoseconds: u64) -> u64 {
    nanoseconds >> 20
}

/// Bits that a moment is finer than a tick.
pub const MOMENTS_BITS: u32 = 10;

/// Fine time: units of 2^10 ns (about a microsecond), wrapping after 73 minutes.
#[inline(always)]
pub const fn moment(nanoseconds: u64) -> u32 {
    (nanoseconds >> (20 - MOMENTS_BITS)) as u32
}

/// What a slot of the flow table holds.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(any(test, feature = "user"), derive(PartialOrd, Ord, Hash))]
pub enum State {
    /// Nothing, ever since the table was made.
    Free = 0,
    /// A flow that is over; the slot is not used again before its grace has passed.
    Resting = 1,
    /// TCP, not confirmed: the client has sent a SYN, and not yet acknowledged the backend's.
    Opening = 2,
    /// TCP, confirmed; also while one end has finished.
    Established = 3,
    /// TCP, over: both ends have finished, or one has reset.
    Closing = 4,
    /// UDP, not confirmed: the client has not sent again after an answer.
    OneWay = 5,
    /// UDP, confirmed.
    TwoWay = 6,
}

impl State {
    /// Those that a flow can be in, in the order of their numbers.
    pub const LIVE: [Self; 5] =
        [Self::Opening, Self::Established, Self::Closing, Self::OneWay, Self::TwoWay];

    /// From a number; what none has is [`State::Free`].
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Resting,
            2 => Self::Opening,
            3 => Self::Established,
            4 => Self::Closing,
            5 => Self::OneWay,
            6 => Self::TwoWay,
            _ => Self::Free,
        }
    }

    /// True for a flow, false for a slot without one.
    #[inline(always)]
    pub const fn is_live(self) -> bool {
        self as u8 >= Self::Opening as u8
    }

    /// True for a flow that must not give way to another.
    #[inline(always)]
    pub const fn is_confirmed(self) -> bool {
        matches!(self, Self::Established | Self::TwoWay)
    }

    /// The name in answers and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Resting => "resting",
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::OneWay => "one-way",
            Self::TwoWay => "two-way",
        }
    }
}

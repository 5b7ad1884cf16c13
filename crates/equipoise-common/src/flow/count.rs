//! What is counted beside the table: live flows, and what became of new ones under pressure.

/// A count of live flows. Exact: each is changed by whoever wins the exchange that the change follows from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Live {
    /// All flows of the table.
    Table,
    /// Its confirmed flows.
    Confirmed,
    /// Flows of a service, by id; over both families.
    Service(u32),
    /// Flows of a backend, by id.
    Backend(u32),
    /// Those of them that are over, and wait for what may still come.
    Closing(u32),
}

/// Why a flow was not opened.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The table holds as many flows as it may, and none near by may give way.
    Full = 1,
    /// No way of the sets that its keys lead to can be used now.
    Crowded = 2,
    /// Another CPU is at work in one of the sets.
    Busy = 3,
    /// The service has as many flows as it may.
    Service = 4,
    /// The backend has as many flows as it may.
    Backend = 5,
    /// Another flow has taken its name at the backend meanwhile.
    Taken = 6,
    /// It would open with the RST that ends it.
    Reset = 7,
    /// There is no backend for it, or no name at one.
    Unnamed = 8,
}

impl Refused {
    /// From a number; none for 0, with which nothing was refused.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Full,
            2 => Self::Crowded,
            3 => Self::Busy,
            4 => Self::Service,
            5 => Self::Backend,
            6 => Self::Taken,
            7 => Self::Reset,
            8 => Self::Unnamed,
            _ => return None,
        })
    }
}

macro_rules! pressures {
    ($($(#[doc = $text:literal])+ $variant:ident = $name:literal;)+) => {
        /// What became of flows beyond opening and ending in peace, counted for each CPU.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Pressure {
            $($(#[doc = $text])+ $variant,)+
        }

        impl Pressure {
            /// All of them, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in answers and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($text),+),)+ }
            }
        }
    };
}

pressures! {
    /// Flows that were not confirmed and gave way to new ones.
    EvictedUnconfirmed = "evicted_unconfirmed";
    /// Flows that were over and gave way to new ones before their time.
    EvictedClosing = "evicted_closing";
    /// Flows past their time that were ended by a packet, before user space came by.
    Expired = "expired_by_packet";
    /// Packets of flows for which the table had no room, decided without being remembered.
    StatelessFull = "stateless_full";
    /// Packets decided without being remembered, since another CPU was at work in the same set.
    StatelessBusy = "stateless_busy";
    /// Replies of such packets, translated without a flow.
    StatelessReply = "stateless_reply";
    /// Packets dropped for want of room, as the service says.
    RefusedFull = "refused_full";
    /// New flows beyond the limit of their service.
    RefusedService = "refused_service_limit";
    /// New flows that found their backend at its limit and went to another.
    MovedOn = "moved_backend_limit";
    /// New flows that found all backends that they tried at their limits.
    RefusedBackend = "refused_backend_limit";
    /// Flows of a backend that has gone, ended by a RST.
    ResetGone = "reset_backend_gone";
    /// Flows of a backend that has gone, decided anew.
    Reselected = "reselected";
    /// Flow events that found no room in their buffer.
    EventsLost = "events_lost";
}

/// Room for pressure counters: a new one comes at the end, as with [`crate::verdict::VERDICTS`].
pub const PRESSURES: u32 = 32;

const _: () = assert!(Pressure::ALL.len() as u32 <= PRESSURES);

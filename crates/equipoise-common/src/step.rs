//! What a dry run tells: the steps that a packet takes through the program.
//!
//! A program loaded with its *dry* constant set decides as the live one does, changes no map and
//! writes these steps. In the live program the constant is 0 and the kernel removes all of it.

/// One step of a dry run.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Step {
    /// A [`What`] as a number; 0 is no step.
    pub what: u32,
    /// Its first value.
    pub first: u32,
    /// Its second value.
    pub second: u64,
}

macro_rules! steps {
    ($($(#[doc = $text:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// What a step is about.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum What {
            $($(#[doc = $text])+ $variant = $number,)+
        }

        impl What {
            /// The step with this number.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The name in answers.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

steps! {
    /// Parsed: protocol; ports (source << 16 | destination).
    Parsed = 1, "parsed";
    /// The flow table knows the five-tuple: backend; flow flags.
    FlowHit = 2, "flow_hit";
    /// The flow table does not know it.
    FlowMiss = 3, "flow_miss";
    /// A service: its id; its pool.
    Service = 4, "service";
    /// No service.
    NoService = 5, "no_service";
    /// A slot of the pool: its index in the run; the backend in it.
    Slot = 6, "slot";
    /// The backend's tuple is taken by another flow: backend; the new source port.
    PortChanged = 7, "port_changed";
    /// Rewritten: destination port; source port.
    Rewritten = 8, "rewritten";
    /// The route look-up: its result; the interface.
    Route = 9, "route";
    /// The flow has been idle for longer than it may: backend.
    FlowExpired = 11, "flow_expired";
    /// The backend has as many flows as it may: backend; its limit.
    BackendFull = 12, "backend_full";
    /// A packet that answers one which was not remembered: backend.
    Unremembered = 13, "unremembered_reply";
    /// The source becomes an address of ours: backend; the port there.
    SourceChanged = 14, "source_changed";
    /// Put inside another packet: the mode; bytes that go before it.
    Encapsulated = 15, "encapsulated";
    /// A smaller MSS than was asked for: that; the smaller one, bytes.
    MssLowered = 16, "mss_lowered";
    /// The prefix that decides whether the source is let in: its bits; 1 if it denies, 2 if there is none.
    Access = 20, "access";
    /// The source has had as many new flows as it may: service; its rate.
    SourceOverLimit = 21, "source_over_limit";
    /// The backend has had as many new flows as it may: backend; its rate.
    BackendOverLimit = 22, "backend_over_limit";
    /// The source has a pool of its own by its route: the pool; that of the service.
    Routed = 23, "routed";
    /// The end: the verdict.
    Verdict = 10, "verdict";
}

const _: () = assert!(size_of::<Step>() == 16);

// SAFETY: `repr(C)` words without padding (asserted above); any bit pattern is a value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Step {}

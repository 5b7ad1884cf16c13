//! Every way out of the packet programs, once: for the kernel's counters, `status`, metrics and docs.
//!
//! Each packet leaves with exactly one [`Verdict`], so the counters of a hook add up to the
//! packets that it has seen. Requests go from a client to a backend, replies the other way.

/// What becomes of a packet, in broad terms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Rewritten and sent on by the program itself.
    Forward,
    /// Ours, and TC ingress after XDP, or the stack of this host, finishes the job.
    Stack,
    /// Turned round: its sender gets an answer from here.
    Answer,
    /// Not ours: handed to the stack untouched, byte for byte.
    Pass,
    /// Not sent on.
    Drop,
}

macro_rules! verdicts {
    ($list:ident; $($(#[doc = $text:literal])+ $variant:ident = $name:literal, $kind:ident;)+) => {
        /// Why a packet left the program.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $list {
            $($(#[doc = $text])+ $variant,)+
        }

        impl $list {
            /// All of them, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in counters, metrics and answers.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What becomes of the packet.
            #[inline(always)]
            pub const fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)+ }
            }

            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($text),+),)+ }
            }
        }
    };
}
pub(crate) use verdicts;

verdicts! {
    Verdict;

    /// A request, rewritten and sent to its backend.
    ForwardedRequest = "forwarded_request", Forward;
    /// A reply, rewritten and sent to its client.
    ForwardedReply = "forwarded_reply", Forward;
    /// A reply that the stack routed or this host made, rewritten on its way out.
    RewrittenReply = "rewritten_reply", Forward;

    /// A request for a backend on this host: the stack gets it rewritten.
    RequestToLocalBackend = "request_to_local_backend", Stack;
    /// A request whose next hop has no known link address yet: left to TC, which asks for it.
    RequestNoNeighbour = "request_no_neighbour", Stack;
    /// A request that leaves by a device which takes no redirected frames: left to TC.
    RequestNoRedirect = "request_no_redirect", Stack;
    /// A request larger than the next link carries: rewritten, and the stack answers its sender.
    RequestTooBig = "request_too_big", Stack;
    /// A request whose hop count is used up: rewritten, and the stack answers its sender.
    RequestHopLimit = "request_hop_limit", Stack;
    /// A request for a backend to which the routing table knows no way: rewritten for the stack.
    RequestNoRoute = "request_no_route", Stack;
    /// A reply for a client on this host: delivered by the loopback device.
    ReplyToLocalClient = "reply_to_local_client", Stack;
    /// A reply whose next hop has no known link address yet: left to TC, which asks for it.
    ReplyNoNeighbour = "reply_no_neighbour", Stack;
    /// A reply that leaves by a device which takes no redirected frames: left to TC.
    ReplyNoRedirect = "reply_no_redirect", Stack;
    /// A reply larger than the next link carries: the stack answers its sender.
    ReplyTooBig = "reply_too_big", Stack;
    /// A reply whose hop count is used up: the stack answers its sender.
    ReplyHopLimit = "reply_hop_limit", Stack;
    /// A reply for a client to which the routing table knows no way.
    ReplyNoRoute = "reply_no_route", Stack;

    /// A packet of a flow whose backend has gone, answered with a RST.
    ResetFlow = "reset_flow", Answer;
    /// A TCP packet of no flow from the middle of a stream, answered with a RST.
    ResetUnknown = "reset_unknown", Answer;
    /// A TCP packet for which there is no backend to choose, answered with a RST.
    ResetNoBackend = "reset_no_backend", Answer;
    /// A UDP packet for which there is no backend to choose, answered with port unreachable.
    UnreachableNoBackend = "unreachable_no_backend", Answer;

    /// Not IPv4 or IPv6.
    NotIp = "not_ip", Pass;
    /// Neither TCP nor UDP.
    NotTcpUdp = "not_tcp_udp", Pass;
    /// A fragment of an IP packet.
    Fragment = "fragment", Pass;
    /// More IPv6 extension headers than are walked.
    ExtensionHeaders = "extension_headers", Pass;
    /// Cut short, or with a length that contradicts itself.
    Malformed = "malformed", Pass;
    /// Addressed to another machine on the link.
    OtherHost = "other_host", Pass;
    /// On its way out, and not a reply to be rewritten.
    Outgoing = "outgoing", Pass;
    /// Of no flow and for no service.
    NoService = "no_service", Pass;
    /// Of no flow, and a connection of this host's own.
    LocalSocket = "local_socket", Pass;

    /// For a service that has no backend to choose, and leaves that to the stack.
    NoBackendPassed = "no_backend_passed", Pass;

    /// For a service that has no backend of this address family to choose.
    NoBackend = "no_backend", Drop;
    /// For a new flow where the service, or each backend tried, has as many flows as it may.
    FlowLimit = "flow_limit", Drop;
    /// A TCP packet of no flow from the middle of a stream, for a service that drops those.
    UnknownFlow = "unknown_flow", Drop;
    /// To be answered with a RST or an ICMP error, and cannot be: it is a RST itself, or on its way out.
    Unanswerable = "unanswerable", Drop;
    /// For a new flow that the flow table did not take.
    FlowRefused = "flow_refused", Drop;
    /// For a new flow for which no source port is free at any backend tried.
    NoSourcePort = "no_source_port", Drop;
    /// The kernel refused to change the packet.
    RewriteFailed = "rewrite_failed", Drop;
}

/// Verdicts in all.
pub const VERDICTS: u32 = Verdict::ALL.len() as u32;

/// Where a program hangs.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// XDP, in the driver or generic.
    Xdp = 0,
    /// TC ingress.
    Ingress = 1,
    /// TC egress.
    Egress = 2,
}

impl Hook {
    /// All of them, in the order of their counters.
    pub const ALL: &[Self] = &[Self::Xdp, Self::Ingress, Self::Egress];

    /// The name in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Ingress => "tc-ingress",
            Self::Egress => "tc-egress",
        }
    }

    /// Index of a verdict's counter.
    #[inline(always)]
    pub const fn counter(self, verdict: Verdict) -> u32 {
        self as u32 * VERDICTS + verdict as u32
    }
}

/// Verdict counters in all.
pub const COUNTERS: u32 = Hook::ALL.len() as u32 * VERDICTS;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_and_counters_are_unique() {
        let names: BTreeSet<_> = Verdict::ALL.iter().map(|v| v.name()).collect();
        assert_eq!(names.len(), Verdict::ALL.len());
        let counters: BTreeSet<_> = Hook::ALL
            .iter()
            .flat_map(|hook| Verdict::ALL.iter().map(|&v| hook.counter(v)))
            .collect();
        assert_eq!(counters.len() as u32, COUNTERS);
        assert_eq!(counters.last(), Some(&(COUNTERS - 1)));
    }
}

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

            /// True if the packet's sender gets an answer from here.
            #[inline(always)]
            pub const fn is_answered(self) -> bool {
                matches!(self.kind(), Kind::Answer)
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
    /// A check of this host's own, sent to the VIP at a backend as a client's packet would be.
    ProbeSent = "probe_sent", Forward;
    /// An ICMP error about a reply, rewritten and sent to the backend that has sent the reply.
    ForwardedErrorToBackend = "forwarded_error_to_backend", Forward;
    /// An ICMP error about a request, rewritten and sent to the client that has sent the request.
    ForwardedErrorToClient = "forwarded_error_to_client", Forward;
    /// An ICMP error about a request that the stack routed or this host made, rewritten on its way out.
    RewrittenError = "rewritten_error", Forward;

    /// A request for a backend on this host: the stack gets it rewritten.
    RequestToLocalBackend = "request_to_local_backend", Stack;
    /// A request whose next hop has no known link address yet: left to TC, which asks for it.
    RequestNoNeighbour = "request_no_neighbour", Stack;
    /// A request that leaves by a device which takes no redirected frames: left to TC.
    RequestNoRedirect = "request_no_redirect", Stack;
    /// A request larger than the next link carries, which may be cut: rewritten, and the stack does that.
    RequestToFragment = "request_to_fragment", Stack;
    /// A request for a backend to which the routing table knows no way: rewritten for the stack.
    RequestNoRoute = "request_no_route", Stack;
    /// A reply for a client on this host: delivered by the loopback device.
    ReplyToLocalClient = "reply_to_local_client", Stack;
    /// A reply whose next hop has no known link address yet: left to TC, which asks for it.
    ReplyNoNeighbour = "reply_no_neighbour", Stack;
    /// A reply that leaves by a device which takes no redirected frames: left to TC.
    ReplyNoRedirect = "reply_no_redirect", Stack;
    /// A reply larger than the next link carries, which may be cut: the stack does that.
    ReplyToFragment = "reply_to_fragment", Stack;
    /// A reply for a client to which the routing table knows no way.
    ReplyNoRoute = "reply_no_route", Stack;
    /// The answer of a VIP to a check of this host's own: the stack gets it from the backend's address.
    ProbeAnswer = "probe_answer", Stack;

    /// A packet of a flow whose backend has gone, answered with a RST.
    ResetFlow = "reset_flow", Answer;
    /// A TCP packet of no flow from the middle of a stream, answered with a RST.
    ResetUnknown = "reset_unknown", Answer;
    /// A TCP packet for which there is no backend to choose, answered with a RST.
    ResetNoBackend = "reset_no_backend", Answer;
    /// A UDP packet for which there is no backend to choose, answered with port unreachable.
    UnreachableNoBackend = "unreachable_no_backend", Answer;

    /// A request larger than the next link carries, answered with that link's size (fragmentation needed, packet too big).
    RequestTooBig = "request_too_big", Answer;
    /// A reply larger than the next link carries, answered so.
    ReplyTooBig = "reply_too_big", Answer;
    /// A request whose hop count is used up, answered with time exceeded.
    RequestHopLimit = "request_hop_limit", Answer;
    /// A reply whose hop count is used up, answered so.
    ReplyHopLimit = "reply_hop_limit", Answer;
    /// An echo request to a VIP that is nobody's address, answered for it.
    Echo = "echo", Answer;

    /// Not IPv4 or IPv6.
    NotIp = "not_ip", Pass;
    /// Neither TCP nor UDP.
    NotTcpUdp = "not_tcp_udp", Pass;
    /// A fragment of an IP packet that is for no service as far as it tells: ICMP, or not the first and of a packet whose
    /// first was not for one.
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
    /// Of no flow, from a source that the service, or the settings, deny or do not allow.
    SourceDenied = "source_denied", Drop;
    /// For a new flow of a source that has had as many as its rate allows.
    SourceLimit = "source_limit", Drop;
    /// For a new flow where each backend tried has had as many as its rate allows, or is full.
    BackendLimit = "backend_limit", Drop;
    /// To be answered with an ICMP error, of which as many have gone out in this second as may.
    AnswerLimit = "answer_limit", Drop;
    /// A TCP packet of no flow from the middle of a stream, for a service that drops those.
    UnknownFlow = "unknown_flow", Drop;
    /// A fragment for a service that drops fragments.
    FragmentRefused = "fragment_refused", Drop;
    /// A fragment to a VIP that has come before the first of its packet, and so without ports.
    FragmentUnknown = "fragment_unknown", Drop;
    /// To be answered with a RST or an ICMP error, and cannot be: it is a RST or an ICMP error itself, on its way out, or
    /// this host has no address to answer from.
    Unanswerable = "unanswerable", Drop;
    /// For a new flow that the flow table did not take.
    FlowRefused = "flow_refused", Drop;
    /// For a new flow for which no source port is free at any backend tried.
    NoSourcePort = "no_source_port", Drop;
    /// To a backend that has to be given an address of ours as the source, where there is none.
    NoSourceAddress = "no_source_address", Drop;
    /// A request that is to go by link address alone to a backend behind a router.
    RequestNotOnLink = "request_not_on_link", Drop;
    /// A request that is to go by link address alone, which XDP in the stack cannot do: the link address is not known yet, the
    /// device takes no redirected frames, or there is no route.
    RequestUndeliverable = "request_undeliverable", Drop;
    /// An ICMP error of this host's own that would tell a client of no way to its backend: one that has gone for a moment is to end
    /// no connection that is opening, and where it stays away checks are there to tell.
    WithheldError = "withheld_error", Drop;
    /// A check of this host's own for the VIP at a backend that has none.
    ProbeUnplaced = "probe_unplaced", Drop;
    /// The kernel refused to change the packet.
    RewriteFailed = "rewrite_failed", Drop;
    /// TCP of no flow, for a pool whose connections this host takes up: the stack gets it as it came.
    Streamed = "streamed", Stack;
}

/// Room for verdicts, at each hook: a new one comes at the end, and the counters of the others go on in another layout.
pub const VERDICTS: u32 = 128;

const _: () = assert!(Verdict::ALL.len() as u32 <= VERDICTS);

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
        assert_eq!(counters.len(), Hook::ALL.len() * Verdict::ALL.len());
        assert!(counters.last() < Some(&COUNTERS));
    }
}

//! `docs/packets.md` is written from the list of verdicts: `UPDATE_EXPECT=1 cargo test -p equipoise --test docs`
//! writes it anew. `docs/decap.md` is written by hand, but for its table of verdicts.

#[path = "documents/blocks.rs"]
mod blocks;
#[path = "docs/metrics.rs"]
mod metrics;
#[path = "docs/pages.rs"]
mod pages;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use equipoise_common::decap;
use equipoise_common::verdict::Verdict::{self, *};
use equipoise_common::verdict::{Hook, Kind};
use expect_test::expect_file;

/// A part of a packet's way, what happens there, and the exits.
struct Stage {
    name: &'static str,
    what: &'static str,
    exits: &'static [Verdict],
}

/// In the order in which a packet meets them.
const STAGES: &[Stage] = &[
    Stage {
        name: "Parse",
        what: "Ethernet, up to two VLAN tags, IPv4 with any options or IPv6 with up to 8 extension headers, TCP or UDP. \
               TC knows from the link layer which frames are for other machines. Lengths must agree with each other and with the frame. \
               What leaves here leaves as it came. A fragment, and what is neither TCP nor UDP, goes on in a program of its own (*Fragments \
               and ICMP*).",
        exits: &[OtherHost, NotIp, Malformed, ExtensionHeaders],
    },
    Stage {
        name: "Fragments and ICMP",
        what: "The first fragment of a packet goes on as the packet would, and those behind it follow; `fragments` says what else may \
               become of them. ICMP errors that quote a packet of a flow go to its sender, with the packet as that sent it; those about \
               connections of this host's own, and so about those that it takes up, are `not_tcp_udp`, and for its stack. Echo requests \
               to a VIP that is no address of this host are answered.",
        exits: &[
            Fragment,
            FragmentUnknown,
            FragmentRefused,
            NotTcpUdp,
            Echo,
            ForwardedErrorToBackend,
            ForwardedErrorToClient,
            RewrittenError,
            WithheldError,
        ],
    },
    Stage {
        name: "Flow",
        what: "The flow table is asked once, in either direction. A hit goes on to *Route*; so does a reply of no flow that can only \
               be of one service. A flow whose backend has gone may be reset. At TC egress only replies are of any.",
        exits: &[ResetFlow, Outgoing],
    },
    Stage {
        name: "Service",
        what: "A packet of no flow: the service of its address, interface, port and protocol. Connections of this host's own stay with it.",
        exits: &[NoService, LocalSocket],
    },
    Stage {
        name: "Checks by a VIP",
        what: "This host's own checks of backends that get packets as they are: on their way out they go on as requests for the VIP at one backend;                what that answers comes in for no service, and the stack gets it from the backend's address.",
        exits: &[ProbeSent, ProbeAnswer, ProbeUnplaced],
    },
    Stage {
        name: "Open",
        what: "A packet for a service and of no flow. Where this host takes up the TCP connections of its pool, the stack gets it, \
               whatever it is, and SYNs alone count as new flows of their source: at the last of the hooks that they meet. Else: what \
               the service says of packets from mid-stream (`on-unknown`), a backend out of the pool (`on-empty` where there is none, \
               and where limits are reached), a name at the backend that no other flow has, and room in the flow table (`on-full`).",
        exits: &[
            ResetUnknown,
            UnknownFlow,
            NoBackend,
            ResetNoBackend,
            UnreachableNoBackend,
            NoBackendPassed,
            FlowLimit,
            SourceDenied,
            SourceLimit,
            Streamed,
            BackendLimit,
            NoSourcePort,
            NoSourceAddress,
            FlowRefused,
            Unanswerable,
        ],
    },
    Stage {
        name: "Route",
        what: "Where it goes next, by the kernel's routes and neighbours. What cannot be sent from here is left to TC, or from TC to the \
               stack: native XDP passes it as it came; requests are else passed rewritten, and replies rewritten on their way out. What is on its \
               last hop, or too big for the next link (with what goes before it in a tunnel), is answered with an ICMP error that quotes it as its \
               sender has sent it, but for what goes beyond a thousand errors of a kind in a second. Packets that keep their VIP, and SYNs whose MSS is lowered, go on in a program of their own.",
        exits: &[
            RequestToLocalBackend,
            RequestNoNeighbour,
            RequestNoRedirect,
            RequestToFragment,
            RequestTooBig,
            RequestHopLimit,
            RequestNoRoute,
            RequestNotOnLink,
            RequestUndeliverable,
            ReplyToLocalClient,
            ReplyNoNeighbour,
            ReplyNoRedirect,
            ReplyToFragment,
            ReplyTooBig,
            ReplyHopLimit,
            ReplyNoRoute,
            AnswerLimit,
        ],
    },
    Stage {
        name: "Rewrite and send",
        what: "Addresses, ports, checksums, one hop less; in modes `dsr`, `ipip` and `gue` one hop less, and outer headers. Then out by the \
               device of the route.",
        exits: &[ForwardedRequest, ForwardedReply, RewrittenReply, RewriteFailed],
    },
];

fn action(kind: Kind) -> &'static str {
    match kind {
        Kind::Forward => "sent on",
        Kind::Stack => "left to TC or the stack",
        Kind::Answer => "answered",
        Kind::Pass => "passed untouched",
        Kind::Drop => "dropped",
    }
}

fn text() -> String {
    let mut text = String::from(
        "# The way of a packet\n\n\
         Written from `crates/equipoise-common/src/verdict.rs` by `UPDATE_EXPECT=1 cargo test -p equipoise --test docs`.\n\n\
         Each packet leaves a program by one exit, which has a name and a counter of packets at each hook (",
    );
    let hooks: Vec<_> = Hook::ALL.iter().map(|hook| format!("`{}`", hook.name())).collect();
    text.push_str(&hooks.join(", "));
    text.push_str(
        "): `equipoise status` shows them,\n`status --json` has them as `verdicts` and by hook as `hooks`, and `explain` gives them as \
         `reason`. So the counters of a hook add\nup to the packets that it has seen. A packet that XDP leaves to the stack is seen by TC \
         ingress again, and counted there too.\n",
    );
    for (number, Stage { name, what, exits }) in (1..).zip(STAGES) {
        let words: Vec<_> = what.split_whitespace().collect();
        write!(
            text,
            "\n## {number}. {name}\n\n{}\n\n| exit | packet | meaning |\n| --- | --- | --- |\n",
            words.join(" ")
        )
        .unwrap();
        for verdict in *exits {
            let meaning = verdict.meaning().trim().replace('|', "\\|");
            writeln!(text, "| `{}` | {} | {meaning} |", verdict.name(), action(verdict.kind()))
                .unwrap();
        }
    }
    text
}

#[test]
fn every_verdict_is_the_exit_of_one_stage() {
    let names: Vec<_> = STAGES.iter().flat_map(|stage| stage.exits).map(|v| v.name()).collect();
    let told: BTreeSet<_> = names.iter().copied().collect();
    assert_eq!(told.len(), names.len(), "an exit twice: {names:?}");
    let all: BTreeSet<_> = Verdict::ALL.iter().map(|verdict| verdict.name()).collect();
    let missing: Vec<_> = all.difference(&told).collect();
    assert!(missing.is_empty(), "to be given a stage in tests/docs.rs: {missing:?}");
}

#[test]
fn packets_md_is_the_list_of_verdicts() {
    expect_file!["../../../docs/packets.md"].assert_eq(&text());
}

#[test]
fn decap_md_has_a_row_for_each_verdict() {
    let text = include_str!("../../../docs/decap.md");
    let table = text.split("\n| exit | packet | meaning |\n| --- | --- | --- |\n").nth(1).unwrap();
    let rows: Vec<_> = table.lines().take_while(|line| line.starts_with('|')).collect();
    let row = |verdict: &decap::Verdict| {
        let becomes = match verdict.kind() {
            Kind::Stack => "changed, and left to the stack",
            kind @ (Kind::Forward | Kind::Answer | Kind::Pass | Kind::Drop) => action(kind),
        };
        let meaning: Vec<_> = verdict.meaning().split_whitespace().collect();
        format!("| `{}` | {becomes} | {} |", verdict.name(), meaning.join(" "))
    };
    let expected: Vec<_> = decap::Verdict::ALL.iter().map(row).collect();
    assert_eq!(rows, expected, "the table should be:\n{}", expected.join("\n"));
}

/// All files of Rust below a directory, by their names without the ending.
fn sources(directory: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn tests_that_reliability_names_are_there() {
    let text = include_str!("../../../docs/reliability.md");
    let mut files = Vec::new();
    for part in ["src", "tests"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(part), &mut files);
    }
    let quoted = text.split('`').skip(1).step_by(2);
    let named: Vec<_> = quoted.filter_map(|quoted| quoted.split_once("::")).collect();
    assert!(named.len() > 15, "{named:?}");
    for (file, test) in named.into_iter().filter(|name| *name != ("x", "y")) {
        let begins = [format!("fn {test}("), format!("fn {test}\n")];
        let has = |(name, text): &(String, String)| {
            name == file && begins.iter().any(|begin| text.contains(begin))
        };
        assert!(files.iter().any(has), "{file}::{test}");
    }
}

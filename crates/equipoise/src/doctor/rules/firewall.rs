//! The firewall and connection tracking, which see what the stack finishes in place of the packet programs: a packet whose next hop is
//! not known yet, what goes by a device that takes no redirected frames, and this host's own checks.

use super::super::{Case, Finding, Level};
use crate::host::netfilter::Chain;

pub(super) fn all(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(why) = &case.measured.chains_refused {
        let finding =
            Finding::ok("firewall", "", format!("the rules of nftables could not be read: {why}"));
        findings.push(
            finding
                .because(Level::Notice, "whether they drop packets of ours is not known")
                .helped(
                    "ask again as root; where the kernel has no nftables, there is nothing to do",
                ),
        );
    }
    findings.extend(case.measured.chains.iter().map(chain));
    if !case.measured.legacy_tables.is_empty() {
        let tables = case.measured.legacy_tables.join(", ");
        findings.push(
            Finding::ok(
                "firewall",
                "",
                format!("tables of the older iptables are loaded: {tables}"),
            )
            .because(
                Level::Notice,
                "their rules are not read here, and may drop what the stack finishes",
            )
            .helped("look at `iptables-legacy -S` and `ip6tables-legacy -S`"),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok("firewall", "", "no firewall rules"));
    }
    findings.extend(conntrack(case));
    findings
}

fn chain(chain: &Chain) -> Finding {
    let Chain { name, hook, priority, drops_the_rest, rules } = chain;
    let place = format!("chain `{name}` at {hook}, priority {priority},");
    let what = match (drops_the_rest, rules) {
        (false, 0) => return Finding::ok("firewall", name, format!("{place} drops nothing")),
        (true, 0) => "drops what no rule lets through".to_owned(),
        (false, n) => format!("has rules that drop: {n}"),
        (true, n) => format!("drops what no rule lets through, and has rules that drop: {n}"),
    };
    let (level, effect) = match *hook {
        "forward" | "prerouting" | "postrouting" | "ingress" | "egress" => (
            Level::Warning,
            "what the stack finishes in place of the packet programs may be dropped: first packets to a next hop that is not known, \
             and all where no program sends",
        ),
        "input" | "output" => {
            (Level::Notice, "this host's own health checks and their answers may be dropped")
        }
        _ => (Level::Notice, "it may drop what is of this host's link"),
    };
    let help = match *hook {
        "input" | "output" => "let through what goes to backends and comes from them",
        "forward" => {
            "take it out, or before it `ip daddr BACKENDS accept` and `ip saddr BACKENDS accept`: it is told nevertheless, since rules \
             are not weighed"
        }
        _ => "see to it that it lets through packets of VIPs and backends",
    };
    Finding::ok("firewall", name, format!("{place} {what}")).because(level, effect).helped(help)
}

fn conntrack(case: &Case) -> Option<Finding> {
    let number = |path| case.setting(path).and_then(|text| text.parse::<u64>().ok());
    let (count, most) =
        (number("netfilter/nf_conntrack_count")?, number("netfilter/nf_conntrack_max")?);
    let finding =
        Finding::ok("conntrack", "", format!("connection tracking has {count} of {most} entries"));
    if count == 0 {
        return Some(finding);
    }
    if most > 0 && count * 10 >= most * 8 {
        return Some(
            finding
                .because(Level::Warning, "when it is full, the stack drops packets of new connections: health checks, and what it finishes for us")
                .helped(format!("sysctl -w net.netfilter.nf_conntrack_max={}, or `notrack` for VIPs and backends", most * 2)),
        );
    }
    Some(
        finding
            .because(Level::Notice, "it sees only some packets of balanced connections, and takes them for invalid: rules that drop `ct state invalid` drop them")
            .helped("`notrack` for packets of VIPs and backends, where there are such rules"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::sample::{case, level, only};
    use super::*;

    fn with(hook: &'static str, drops_the_rest: &str, rules: usize) -> Finding {
        let mut case = case();
        let drops_the_rest = drops_the_rest == "drop";
        case.measured.chains =
            vec![Chain { name: "inet f c".to_owned(), hook, priority: 0, drops_the_rest, rules }];
        only(&all(&case), "firewall")
    }

    #[test]
    fn chains_that_drop_are_told_by_where_they_stand() {
        assert_eq!(only(&all(&case()), "firewall").measured, "no firewall rules");
        assert_eq!(with("forward", "accept", 0).level, Level::Ok);
        assert_eq!(with("forward", "drop", 0).level, Level::Warning);
        assert_eq!(with("prerouting", "accept", 2).level, Level::Warning);
        assert_eq!(with("input", "drop", 0).level, Level::Notice);
        assert_eq!(
            with("forward", "drop", 3).measured,
            "chain `inet f c` at forward, priority 0, drops what no rule lets through, and has rules that drop: 3"
        );
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let mut case = case();
        case.measured.chains_refused = Some("denied".to_owned());
        assert_eq!(only(&all(&case), "firewall").level, Level::Notice);
        case.measured.chains_refused = None;
        case.measured.legacy_tables = vec!["ip filter".to_owned()];
        assert!(only(&all(&case), "firewall").measured.ends_with("ip filter"));
    }

    #[test]
    fn tracking_is_a_warning_when_it_is_nearly_full() {
        let mut case = case();
        let mut fill = |count: &str| {
            case.measured
                .settings
                .insert("netfilter/nf_conntrack_max".to_owned(), "100".to_owned());
            case.measured
                .settings
                .insert("netfilter/nf_conntrack_count".to_owned(), count.to_owned());
            level(&all(&case), "conntrack")
        };
        assert_eq!([fill("0"), fill("79"), fill("80")], [Level::Ok, Level::Notice, Level::Warning]);
    }
}

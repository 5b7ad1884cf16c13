//! What of the firewall may drop: base chains of nftables whose policy or rules do.
//!
//! A rule counts when its verdict is to drop or to reject, whatever packets it is about: whether those are ours cannot be told from
//! outside. Rules of `iptables` are among these where it is the one of nftables; of the older one only the tables are told.
//! The bytes are those of `linux/netfilter/nf_tables.h`.

use std::collections::BTreeMap;
use std::io;

use super::messages::{Attributes, NLM_F_DUMP, dump, message, open, text};

const NETLINK_NETFILTER: isize = 12;
const NF_TABLES: u16 = 10 << 8;
const GET_CHAIN: u16 = NF_TABLES | 4;
const GET_RULE: u16 = NF_TABLES | 7;

const TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;

const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const IMMEDIATE_DATA: u16 = 2;
const VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const DROP: u32 = 0;

/// A base chain that may drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Family, table and chain, as `nft` writes them.
    pub name: String,
    /// Where it stands: `prerouting`, `input`, `forward`, `output`, `postrouting`, `ingress`, `egress`.
    pub hook: &'static str,
    /// Its place among those of the hook.
    pub priority: i32,
    /// Whether what no rule has decided is dropped.
    pub drops_the_rest: bool,
    /// Rules that drop or reject; those of chains that are jumped to count for each base chain of the table.
    pub rules: usize,
}

/// All base chains, in the kernel's order.
///
/// # Errors
///
/// When the kernel gives no socket, or refuses the question (`CAP_NET_ADMIN` is needed).
pub fn chains() -> io::Result<Vec<Chain>> {
    let socket = open(NETLINK_NETFILTER)?;
    let mut all = Vec::new();
    let mut jumped_to = Vec::new();
    dump(&socket, &request(GET_CHAIN), |payload| match chain(payload) {
        Some((at, Some(chain))) => all.push((at, chain)),
        Some((at, None)) => jumped_to.push(at),
        None => {}
    })?;
    let mut rules: BTreeMap<At, usize> = BTreeMap::new();
    dump(&socket, &request(GET_RULE), |payload| {
        if let Some(at) = dropping_rule(payload) {
            *rules.entry(at).or_default() += 1;
        }
    })?;
    let count = |at: &At| rules.get(at).copied().unwrap_or_default();
    Ok(all
        .into_iter()
        .map(|(at, chain)| {
            let others = jumped_to.iter().filter(|other| (other.0, &other.1) == (at.0, &at.1));
            Chain { rules: count(&at) + others.map(count).sum::<usize>(), ..chain }
        })
        .collect())
}

/// Family, table, chain.
type At = (u8, String, String);

fn request(kind: u16) -> Vec<u8> {
    message(kind, NLM_F_DUMP, [0; 4], &[])
}

/// Which chain it is, and more of one that hangs on a hook.
fn chain(payload: &[u8]) -> Option<(At, Option<Chain>)> {
    let family = *payload.first()?;
    let (mut table, mut name, mut hook, mut policy) = (None, None, None, None);
    for (kind, value) in Attributes::of(payload) {
        match kind {
            TABLE => table = Some(text(value)),
            CHAIN_NAME => name = Some(text(value)),
            CHAIN_HOOK => hook = Some((number(value, HOOK_NUMBER)?, number(value, HOOK_PRIORITY)?)),
            CHAIN_POLICY => policy = big_endian(value),
            _ => {}
        }
    }
    let (table, name) = (table?, name?);
    let at = (family, table.clone(), name.clone());
    let Some((hook, priority)) = hook else { return Some((at, None)) };
    let chain = Chain {
        name: format!("{} {table} {name}", family_name(family)),
        hook: hook_name(family, hook),
        priority: priority.cast_signed(),
        drops_the_rest: policy == Some(DROP),
        rules: 0,
    };
    Some((at, Some(chain)))
}

fn dropping_rule(payload: &[u8]) -> Option<At> {
    let family = *payload.first()?;
    let (mut table, mut chain, mut drops) = (None, None, false);
    for (kind, value) in Attributes::of(payload) {
        match kind {
            TABLE => table = Some(text(value)),
            RULE_CHAIN => chain = Some(text(value)),
            RULE_EXPRESSIONS => {
                drops = Attributes(value).any(|(_, expression)| is_drop(expression));
            }
            _ => {}
        }
    }
    drops.then_some((family, table?, chain?))
}

fn is_drop(expression: &[u8]) -> bool {
    let part = |whole, wanted| Attributes(whole).find(|(kind, _)| *kind == wanted).map(|(_, v)| v);
    match part(expression, EXPRESSION_NAME).map(text).as_deref() {
        Some("reject") => true,
        Some("immediate") => {
            let data =
                part(expression, EXPRESSION_DATA).and_then(|data| part(data, IMMEDIATE_DATA));
            let verdict = data.and_then(|data| part(data, VERDICT));
            verdict.and_then(|verdict| number(verdict, VERDICT_CODE)) == Some(DROP)
        }
        _ => false,
    }
}

fn number(attributes: &[u8], wanted: u16) -> Option<u32> {
    let (_, value) = Attributes(attributes).find(|(kind, _)| *kind == wanted)?;
    big_endian(value)
}

fn big_endian(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn family_name(family: u8) -> &'static str {
    match family {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "unknown",
    }
}

fn hook_name(family: u8, hook: u32) -> &'static str {
    match (family, hook) {
        (5, 0) | (1 | 2 | 10 | 7, 5) => "ingress",
        (5, 1) => "egress",
        (3, 0) => "arp input",
        (3, 1) => "arp output",
        (3, 2) => "arp forward",
        (_, 0) => "prerouting",
        (_, 1) => "input",
        (_, 2) => "forward",
        (_, 3) => "output",
        (_, 4) => "postrouting",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::messages::{NESTED, attribute, terminated};

    fn text_of(kind: u16, text: &str) -> Vec<u8> {
        attribute(kind, &terminated(text))
    }

    fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
        attribute(kind | NESTED, &parts.concat())
    }

    fn word(kind: u16, number: u32) -> Vec<u8> {
        attribute(kind, &number.to_be_bytes())
    }

    #[test]
    fn base_chain_is_told_with_its_hook_and_policy() {
        let hook =
            nested(CHAIN_HOOK, &[word(HOOK_NUMBER, 2), word(HOOK_PRIORITY, 0u32.wrapping_sub(10))]);
        let payload = [
            vec![1, 0, 0, 0],
            text_of(TABLE, "filter"),
            text_of(CHAIN_NAME, "fwd"),
            hook,
            word(CHAIN_POLICY, 0),
        ]
        .concat();
        let (_, chain) = chain(&payload).unwrap();
        let wanted = Chain {
            name: "inet filter fwd".to_owned(),
            hook: "forward",
            priority: -10,
            drops_the_rest: true,
            rules: 0,
        };
        assert_eq!(chain, Some(wanted));
    }

    #[test]
    fn rule_counts_when_its_verdict_is_to_drop_or_reject() {
        let rule = |expression: Vec<u8>| {
            let payload = [
                vec![2, 0, 0, 0],
                text_of(TABLE, "t"),
                text_of(RULE_CHAIN, "c"),
                nested(RULE_EXPRESSIONS, &[nested(1, &[expression])]),
            ];
            dropping_rule(&payload.concat())
        };
        let verdict = |code| {
            let data = nested(IMMEDIATE_DATA, &[nested(VERDICT, &[word(VERDICT_CODE, code)])]);
            [text_of(EXPRESSION_NAME, "immediate"), nested(EXPRESSION_DATA, &[data])].concat()
        };
        let at = Some((2, "t".to_owned(), "c".to_owned()));
        assert_eq!(rule(verdict(DROP)), at);
        assert_eq!(rule(verdict(1)), None, "accepted");
        assert_eq!(rule(text_of(EXPRESSION_NAME, "reject")), at);
        assert_eq!(rule(text_of(EXPRESSION_NAME, "counter")), None);
    }
}

//! The schedulers of IPVS, which `ipvsadm` and keepalived name alike.

use super::{Choosing, Notes};

/// How a scheduler picks, and what is different here.
pub(super) fn choosing(name: &str, flags: &[&str], line: usize, notes: &mut Notes<'_>) -> Choosing {
    let of = |algorithm, unweighted| Choosing {
        algorithm: Some(algorithm),
        unweighted,
        ..Choosing::default()
    };
    let by_source = Choosing { by_source: true, ..Choosing::default() };
    let has = |flag: &str| flags.contains(&flag);
    match name {
        "rr" => of("round-robin", true),
        "wrr" => of("round-robin", false),
        "lc" => of("least-connections", true),
        "wlc" => of("least-connections", false),
        "sh" if has("sh-port") => of("maglev", false),
        "mh" if has("mh-port") => of("maglev", false),
        "sh" | "mh" => by_source,
        "sed" | "nq" => {
            notes.add(
                line,
                format!("scheduler `{name}` has become `least-connections`, of two at random"),
            );
            of("least-connections", false)
        }
        other => {
            notes.add(
                line,
                format!("there is no scheduler `{other}` here; new connections go by `maglev`"),
            );
            of("maglev", false)
        }
    }
}

/// Clients are kept together, by so many bits of their address.
pub(super) fn persist(
    choosing: &mut Choosing,
    mask: Option<&str>,
    line: usize,
    notes: &mut Notes<'_>,
) {
    choosing.by_source = true;
    notes.add(line, "clients are kept together by the hash of their address, not for a time");
    let Some(mask) = mask else { return };
    let bits = match mask.parse::<std::net::Ipv4Addr>() {
        Ok(mask) if u32::from(mask).leading_ones() == u32::from(mask).count_ones() => {
            u8::try_from(u32::from(mask).count_ones()).ok().map(|bits| (Some(bits), None))
        }
        Ok(_) => None,
        Err(_) => mask.parse().ok().map(|bits| (None, Some(bits))),
    };
    match bits.filter(|bits| *bits != (Some(0), None) && *bits != (None, Some(0))) {
        Some((Some(32), None) | (None, Some(128))) => {}
        Some(bits) => choosing.prefix = bits,
        None => notes.add(line, format!("`{mask}` is no mask that tells clients apart")),
    }
}

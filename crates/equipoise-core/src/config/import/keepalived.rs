//! Files of keepalived: its virtual servers. VRRP is told to be left out, but for the interfaces that it puts addresses on.

mod check;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::words::words;
use super::{Draft, Notes, Ports, Server, scheduler};

pub(super) fn read(text: &str, notes: &mut Notes<'_>) -> Vec<Draft> {
    let blocks = blocks(text, notes);
    let interfaces = interfaces(&blocks);
    let mut groups: BTreeMap<&str, &Block> = BTreeMap::new();
    for block in &blocks {
        if let (Some("virtual_server_group"), Some(name)) = (block.word(0), block.word(1)) {
            groups.insert(name, block);
        }
    }
    let mut drafts = Vec::new();
    for block in &blocks {
        match block.word(0).unwrap_or("") {
            "virtual_server" => {
                for place in places(block, &groups, notes) {
                    drafts.push(service(block, &place, &interfaces, notes));
                }
            }
            "virtual_server_group" => {}
            "vrrp_instance" | "vrrp_sync_group" | "vrrp_script" | "vrrp_track_process" => notes.add(
                block.line,
                "addresses are not moved between machines: keep VRRP, gated by the state of this balancer",
            ),
            other => notes.add(block.line, format!("`{other}` has no counterpart")),
        }
    }
    drafts
}

/// A line, and what stands in braces after it.
#[derive(Debug, Default)]
struct Block {
    line: usize,
    words: Vec<String>,
    inner: Vec<Self>,
}

impl Block {
    fn word(&self, index: usize) -> Option<&str> {
        self.words.get(index).map(String::as_str)
    }

    /// The word after a name, in what stands inside.
    fn value(&self, name: &str) -> Option<&str> {
        self.inner.iter().find(|inner| inner.word(0) == Some(name))?.word(1)
    }
}

fn blocks(text: &str, notes: &mut Notes<'_>) -> Vec<Block> {
    let mut open = vec![Block::default()];
    for (line, rule) in (1..).zip(text.lines()) {
        let mut block = Block { line, ..Block::default() };
        for word in words(rule, &['#', '!']) {
            match word.as_str() {
                "{" => {
                    // Or the brace is on the next line.
                    let last = open.last_mut().filter(|_| block.words.is_empty());
                    let begun = last.and_then(|outer| outer.inner.pop());
                    let new = Block { line, ..Block::default() };
                    open.push(begun.unwrap_or_else(|| std::mem::replace(&mut block, new)));
                }
                "}" => {
                    close(
                        &mut open,
                        std::mem::replace(&mut block, Block { line, ..Block::default() }),
                    );
                    match open.pop().filter(|_| !open.is_empty()) {
                        Some(inner) => close(&mut open, inner),
                        None => {
                            open.push(Block::default());
                            notes.add(
                                line,
                                "a brace closes nothing, and what stood before it is lost",
                            );
                        }
                    }
                }
                _ => block.words.push(word),
            }
        }
        close(&mut open, block);
    }
    while open.len() > 1 {
        if let Some(inner) = open.pop() {
            notes.add(inner.line, "what begins here does not end");
            close(&mut open, inner);
        }
    }
    open.pop().map(|whole| whole.inner).unwrap_or_default()
}

fn close(open: &mut [Block], block: Block) {
    if let Some(outer) = open.last_mut().filter(|_| !block.words.is_empty()) {
        outer.inner.push(block);
    }
}

/// Where VRRP puts addresses.
fn interfaces(blocks: &[Block]) -> BTreeMap<IpAddr, String> {
    let mut found = BTreeMap::new();
    for block in blocks.iter().filter(|block| block.word(0) == Some("vrrp_instance")) {
        let Some(interface) = block.value("interface") else { continue };
        let lists = ["virtual_ipaddress", "virtual_ipaddress_excluded"];
        let is_list = |inner: &&Block| inner.word(0).is_some_and(|name| lists.contains(&name));
        for entry in block.inner.iter().filter(is_list).flat_map(|list| &list.inner) {
            let address = entry.word(0).and_then(|text| text.split('/').next()?.parse().ok());
            let own = entry.words.iter().position(|word| word == "dev");
            let own = own.and_then(|dev| entry.word(dev + 1)).unwrap_or(interface);
            found.extend(address.map(|address: IpAddr| (address, own.to_owned())));
        }
    }
    found
}

/// An address and a port that a virtual server is reached by.
struct Place {
    line: usize,
    name: String,
    address: IpAddr,
    port: u16,
}

fn places(block: &Block, groups: &BTreeMap<&str, &Block>, notes: &mut Notes<'_>) -> Vec<Place> {
    match (block.word(1), block.word(2)) {
        (Some("fwmark"), _) => {
            notes.add(
                block.line,
                "services by firewall mark are not served: packets are chosen by address and port",
            );
            Vec::new()
        }
        (Some("group"), Some(name)) => match groups.get(name) {
            Some(group) => {
                group.inner.iter().flat_map(|entry| group_places(name, entry, notes)).collect()
            }
            None => {
                notes.add(block.line, format!("there is no virtual_server_group `{name}`"));
                Vec::new()
            }
        },
        (Some(address), port) => match address.parse() {
            Ok(address) => {
                let port = port.and_then(|port| port.parse().ok()).unwrap_or(0);
                let name = format!("{address} {port}");
                vec![Place { line: block.line, name, address, port }]
            }
            Err(_) => {
                notes.add(block.line, format!("`{address}` is not an address"));
                Vec::new()
            }
        },
        (None, _) => {
            notes.add(block.line, "this virtual server has no address");
            Vec::new()
        }
    }
}

/// `10.0.0.1 80`, or `10.0.0.1-9 80`.
fn group_places(group: &str, entry: &Block, notes: &mut Notes<'_>) -> Vec<Place> {
    let (written, port) = (entry.word(0).unwrap_or(""), entry.word(1));
    let port: u16 = port.and_then(|port| port.parse().ok()).unwrap_or(0);
    let addresses: Option<Vec<IpAddr>> = match written.split_once('-') {
        None => written.parse().ok().map(|address| vec![address]),
        Some((first, last)) => {
            first.parse::<Ipv4Addr>().ok().zip(last.parse::<u8>().ok()).map(|(first, last)| {
                let [a, b, c, d] = first.octets();
                (d..=last).map(|d| Ipv4Addr::new(a, b, c, d).into()).collect()
            })
        }
    };
    let Some(addresses) = addresses.filter(|_| written != "fwmark") else {
        notes.add(entry.line, format!("`{written}` is neither an address nor a range of them"));
        return Vec::new();
    };
    let place = |address: IpAddr| Place {
        line: entry.line,
        name: format!("{group} {address} {port}"),
        address,
        port,
    };
    addresses.into_iter().map(place).collect()
}

fn service(
    block: &Block,
    place: &Place,
    interfaces: &BTreeMap<IpAddr, String>,
    notes: &mut Notes<'_>,
) -> Draft {
    let ports = if place.port == 0 { Ports::All } else { Ports::one(place.port) };
    let mut draft = Draft::new(place.line, place.name.clone(), Some(place.address), ports);
    draft.interfaces.extend(interfaces.get(&place.address).cloned());
    let mut common = check::Common::default();
    draft.choosing = scheduler::choosing("wlc", &[], block.line, notes);
    let mut persists = false;
    for inner in &block.inner {
        let value = inner.word(1).unwrap_or("");
        match inner.word(0).unwrap_or("") {
            "lb_algo" | "lvs_sched" => {
                let flags: Vec<_> = block.inner.iter().filter_map(|flag| flag.word(0)).collect();
                draft.choosing = scheduler::choosing(value, &flags, inner.line, notes);
            }
            "mh-port" | "sh-port" | "mh-fallback" | "sh-fallback" | "persistence_granularity" => {}
            "lb_kind" | "lvs_method" => match value {
                "NAT" => draft.mode = "nat",
                "DR" => draft.mode = "dsr",
                "TUN" => draft.mode = tunnel(inner),
                other => notes.add(inner.line, format!("packets are not sent by `{other}`")),
            },
            "protocol" => match value {
                "TCP" => {}
                "UDP" => draft.protocol = "udp",
                other => notes
                    .add(inner.line, format!("{other} is not balanced; the service is for TCP")),
            },
            "persistence_timeout" => persists = true,
            "delay_loop" => common.interval = seconds(value, inner.line, notes),
            "virtualhost" => common.host = Some(value.to_owned()),
            "retry" | "delay_before_retry" | "connect_timeout" => {
                common.keys.push(inner.words.clone());
            }
            "real_server" | "sorry_server" => {}
            other => notes.add(inner.line, format!("`{other}` has no counterpart")),
        }
    }
    if persists {
        let mask = block.value("persistence_granularity");
        let line = block.inner.iter().find(|inner| inner.word(0) == Some("persistence_timeout"));
        let line = line.map_or(block.line, |inner| inner.line);
        scheduler::persist(&mut draft.choosing, mask, line, notes);
    }
    for inner in &block.inner {
        let is_sorry = match inner.word(0) {
            Some("real_server") => false,
            Some("sorry_server") => true,
            _ => continue,
        };
        let Some(mut server) = server(inner, &draft, notes) else { continue };
        if is_sorry {
            draft.fallback.push(server);
            continue;
        }
        let (keys, is_command) = check::of(inner, &common, notes);
        draft.runs_commands |= is_command;
        server.check = keys;
        draft.backends.push(server);
    }
    draft
}

fn tunnel(block: &Block) -> &'static str {
    if block.words.iter().any(|word| word == "gue") { "gue" } else { "ipip" }
}

fn server(block: &Block, draft: &Draft, notes: &mut Notes<'_>) -> Option<Server> {
    let Some(address) = block.word(1).and_then(|text| text.parse().ok()) else {
        notes.add(block.line, format!("`{}` is not an address", block.word(1).unwrap_or("")));
        return None;
    };
    let port = block.word(2).and_then(|text| text.parse().ok()).filter(|port| *port != 0);
    let mut server = Server::new(address, port.filter(|_| draft.mode == "nat"));
    server.asked = port;
    for inner in &block.inner {
        let number = inner.word(1).and_then(|text| text.parse::<u32>().ok());
        match inner.word(0).unwrap_or("") {
            "weight" => match number.and_then(|weight| u16::try_from(weight).ok()) {
                Some(weight) => server.weight = weight,
                None => notes.add(inner.line, "this is no weight of 0 to 65535"),
            },
            "uthreshold" => server.max_flows = number.unwrap_or(0),
            name if check::KINDS.contains(&name) => {}
            "retry" | "delay_loop" | "delay_before_retry" | "connect_timeout" | "virtualhost" => {}
            other => notes.add(inner.line, format!("`{other}` has no counterpart")),
        }
    }
    Some(server)
}

/// A time in words.
fn seconds(text: &str, line: usize, notes: &mut Notes<'_>) -> Option<String> {
    let time =
        text.parse::<f64>().ok().and_then(|time| std::time::Duration::try_from_secs_f64(time).ok());
    if time.is_none() {
        notes.add(line, format!("`{text}` is no time"));
    }
    time.map(|time| humantime::format_duration(time).to_string())
}

//! The rules of IPVS, as `ipvsadm -Sn` prints them.

use std::net::{IpAddr, SocketAddr};

use super::words::words;
use super::{Draft, Notes, Ports, Server, scheduler};

/// A virtual service, and how it is spoken of.
struct Virtual {
    /// Protocol flag and address, as written.
    spoken: (String, String),
    draft: Draft,
    has_mode: bool,
}

pub(super) fn read(text: &str, notes: &mut Notes<'_>) -> Vec<Draft> {
    let mut services: Vec<Virtual> = Vec::new();
    for (line, rule) in (1..).zip(text.lines()) {
        let words = words(rule, &['#']);
        let options = Options::of(words.iter().map(String::as_str));
        match words.first().map(String::as_str) {
            None => {}
            Some("-A" | "--add-service") => services.extend(service(&options, line, notes)),
            Some("-a" | "--add-server") => {
                let spoken = options.service();
                match services.iter_mut().find(|service| Some(&service.spoken) == spoken.as_ref()) {
                    Some(service) => server(service, &options, line, notes),
                    None => notes.add(line, "the service of this server was not carried over"),
                }
            }
            Some("--start-daemon") => notes.add(line, "connections are not told to other machines"),
            Some(other) => {
                notes.add(line, format!("`{other}` adds neither a service nor a server"));
            }
        }
    }
    services.into_iter().map(|service| service.draft).collect()
}

/// Flags with what comes after them.
struct Options<'w>(Vec<(&'w str, Option<&'w str>)>);

impl<'w> Options<'w> {
    fn of(words: impl Iterator<Item = &'w str>) -> Self {
        let mut options: Vec<(&str, Option<&str>)> = Vec::new();
        for word in words {
            let is_flag = word.starts_with('-') && word.len() > 1;
            match options.last_mut() {
                Some((_, value @ None)) if !is_flag => *value = Some(word),
                _ => options.push((word, None)),
            }
        }
        Self(options)
    }

    fn has(&self, names: &[&str]) -> bool {
        self.0.iter().any(|(flag, _)| names.contains(flag))
    }

    fn get(&self, names: &[&str]) -> Option<&'w str> {
        self.0.iter().find(|(flag, _)| names.contains(flag)).and_then(|(_, value)| *value)
    }

    /// Protocol flag and address of the service.
    fn service(&self) -> Option<(String, String)> {
        let kinds = [
            ("-t", "--tcp-service"),
            ("-u", "--udp-service"),
            ("-f", "--fwmark-service"),
            ("--sctp-service", "--sctp-service"),
        ];
        kinds.iter().find_map(|(short, long)| {
            Some(((*short).to_owned(), self.get(&[short, long])?.to_owned()))
        })
    }
}

fn service(options: &Options<'_>, line: usize, notes: &mut Notes<'_>) -> Option<Virtual> {
    let Some(spoken) = options.service() else {
        notes.add(line, "this service has no address");
        return None;
    };
    let protocol = match spoken.0.as_str() {
        "-t" => "tcp",
        "-u" => "udp",
        "-f" => {
            notes.add(
                line,
                "services by firewall mark are not served: packets are chosen by address and port",
            );
            return None;
        }
        _ => {
            notes.add(line, "SCTP is not balanced");
            return None;
        }
    };
    let (address, port) = address(&spoken.1, line, notes)?;
    let ports = if port == 0 { Ports::All } else { Ports::one(port) };
    let mut draft = Draft::new(line, format!("{}/{protocol}", spoken.1), Some(address), ports);
    draft.protocol = protocol;
    let flags: Vec<_> = options.get(&["-b", "--sched-flags"]).unwrap_or("").split(',').collect();
    let name = options.get(&["-s", "--scheduler"]).unwrap_or("wlc");
    draft.choosing = scheduler::choosing(name, &flags, line, notes);
    if options.has(&["-p", "--persistent"]) {
        let mask = options.get(&["-M", "--netmask"]);
        scheduler::persist(&mut draft.choosing, mask, line, notes);
    }
    if options.has(&["--pe"]) {
        notes.add(line, "clients are told apart by their addresses alone (`--pe`)");
    }
    if options.has(&["-o", "--ops"]) {
        notes.add(line, "datagrams of one client and port are one flow (`--ops`)");
    }
    Some(Virtual { spoken, draft, has_mode: false })
}

fn server(service: &mut Virtual, options: &Options<'_>, line: usize, notes: &mut Notes<'_>) {
    let Some(written) = options.get(&["-r", "--real-server"]) else {
        notes.add(line, "this server has no address");
        return;
    };
    let Some((address, port)) = address(written, line, notes) else { return };
    let is = |names: &[&str]| options.has(names);
    let mode = if is(&["-m", "--masquerading"]) {
        "nat"
    } else if is(&["-i", "--ipip"]) {
        match options.get(&["--tun-type"]) {
            None | Some("ipip") => "ipip",
            Some("gue") => "gue",
            Some(other) => {
                notes.add(line, format!("packets are not sent by `{other}`"));
                return;
            }
        }
    } else {
        "dsr"
    };
    let draft = &mut service.draft;
    if service.has_mode && draft.mode != mode {
        notes.add(
            line,
            format!(
                "the servers of a service get packets in one way, which is `{}` by the first",
                draft.mode
            ),
        );
        return;
    }
    service.has_mode = true;
    draft.mode = mode;
    if options.get(&["--tun-port"]).is_some_and(|port| port != "6080") {
        notes.add(line, "GUE packets go to port 6080");
    }
    let mut server = Server::new(address, Some(port).filter(|port| *port != 0 && mode == "nat"));
    let number = |names: &[&str]| options.get(names).and_then(|text| text.parse().ok());
    let weight: u32 = number(&["-w", "--weight"]).unwrap_or(1);
    server.weight = u16::try_from(weight).unwrap_or_else(|_| {
        notes.add(line, "weights go up to 65535");
        u16::MAX
    });
    server.max_flows = number(&["-x", "--u-threshold"]).unwrap_or(0);
    if number(&["-y", "--l-threshold"]).is_some_and(|lower| lower > 0) {
        notes.add(line, "a server is full at its upper threshold, and no longer below it (`-y`)");
    }
    draft.backends.push(server);
}

fn address(text: &str, line: usize, notes: &mut Notes<'_>) -> Option<(IpAddr, u16)> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some((address.ip(), address.port()));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address, 0));
    }
    notes.add(line, format!("`{text}` is not an address and a port: `ipvsadm -Sn` prints numbers"));
    None
}

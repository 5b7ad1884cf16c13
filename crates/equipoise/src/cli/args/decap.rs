//! Arguments of `decap`.

use std::net::IpAddr;

use clap::Args;
use equipoise_core::config::AttachMode;
use ipnet::IpNet;

use crate::decap::Mss;

/// Below the long help.
pub(super) const EXAMPLES: &str = "\
Examples:
  # Packets for any address of this host, which has the VIP already
  equipoise decap -i eth0

  # Put the VIPs on lo, keep eth0 quiet about them, and take packets from the balancers alone.
  # Their outer sources are in 198.18.0.0/15 and 100::/64 for ipip, and their own addresses for GUE.
  equipoise decap -i eth0 --address 203.0.113.10 2001:db8:f::10 --lo --from 198.18.0.0/15 100::/64 10.0.0.0/24

  # Counters of the running process, as a table
  kill -USR1 PID

At SIGINT or SIGTERM the programs go, with --lo also the addresses and settings, and the counters are printed.";

/// Take packets out of ipip (IPv4 and IPv6, inside of either) and GUE, and leave what is inside to the stack.
#[derive(Debug, Args)]
pub struct Decap {
    /// Interfaces that encapsulated packets come to, and by which answers leave
    #[arg(short, long, value_name = "IFACE", num_args = 1.., required_unless_present = "clean")]
    pub interface: Vec<String>,
    /// VIPs: take out only what is for them [default: any address of this host]
    #[arg(short, long, value_name = "VIP", num_args = 1.., value_parser = vip)]
    pub address: Vec<IpAddr>,
    /// Put the VIPs on lo, and set arp_ignore and arp_announce of the interfaces; all is as before at the end
    #[arg(long, requires = "address")]
    pub lo: bool,
    /// Take packets only if the outer source is in one of these [default: from anybody; use it on trusted networks alone]
    #[arg(long, value_name = "PREFIX", num_args = 1.., value_parser = prefix)]
    pub from: Vec<IpNet>,
    /// UDP port of GUE
    #[arg(short, long, default_value_t = equipoise_common::decap::PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Largest segment that new connections of VIPs tell of: auto (what fits into the interface's MTU with 48 bytes of
    /// outer headers), off, or bytes
    #[arg(long, value_name = "auto|off|BYTES", default_value = "auto", value_parser = mss)]
    pub mss_clamp: Mss,
    /// Where the programs hang: auto, xdp, xdp-generic, tc
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = attach)]
    pub attach: AttachMode,
    /// Do nothing but put back what a process left that was killed
    #[arg(long, conflicts_with_all = ["interface", "address", "lo", "from"])]
    pub clean: bool,
}

fn vip(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| "not an IP address".to_owned())?;
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() || is_broadcast {
        return Err("a VIP is a unicast address, and not of loopback".to_owned());
    }
    Ok(address)
}

/// An address alone is a prefix of full length.
fn prefix(text: &str) -> Result<IpNet, String> {
    let one = |_| text.parse::<IpAddr>().map(IpNet::from);
    let prefix = text.parse::<IpNet>().or_else(one);
    prefix.map(|prefix| prefix.trunc()).map_err(|_| "not a prefix such as 10.0.0.0/8".to_owned())
}

fn mss(text: &str) -> Result<Mss, String> {
    /// The least that a host must take (RFC 9293 section 3.7.1), less room for options.
    const LEAST: u16 = 88;
    match text {
        "auto" => Ok(Mss::Auto),
        "off" => Ok(Mss::Off),
        _ => match text.parse() {
            Ok(bytes) if bytes >= LEAST => Ok(Mss::Bytes(bytes)),
            _ => Err(format!("auto, off, or {LEAST} to {} bytes", u16::MAX)),
        },
    }
}

fn attach(text: &str) -> Result<AttachMode, String> {
    match text {
        "auto" => Ok(AttachMode::Auto),
        "xdp" => Ok(AttachMode::Xdp),
        "xdp-generic" => Ok(AttachMode::XdpGeneric),
        "tc" => Ok(AttachMode::Tc),
        _ => Err("auto, xdp, xdp-generic or tc".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Arguments, Command};
    use clap::Parser;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Decap, ErrorKind> {
        let arguments = Arguments::try_parse_from(line.split(' ')).map_err(|e| e.kind())?;
        let Command::Decap(decap) = arguments.command else { panic!("not decap") };
        Ok(decap)
    }

    #[test]
    fn interfaces_alone_will_do() {
        let asked = parse("equipoise decap -i eth0 eth1").unwrap();
        assert_eq!(asked.interface, ["eth0", "eth1"]);
        assert!(asked.address.is_empty() && asked.from.is_empty() && !asked.lo);
        assert_eq!(
            (asked.port, asked.mss_clamp, asked.attach),
            (6080, Mss::Auto, AttachMode::Auto)
        );
    }

    #[test]
    fn all_can_be_said() {
        let asked = parse(
            "equipoise decap -i eth0 --address 203.0.113.10 2001:db8:f::10 --lo --from 198.18.7.0/15 10.0.0.1 --port 6081 --mss-clamp 1300 --attach xdp-generic",
        )
        .unwrap();
        assert_eq!(asked.address.len(), 2);
        let prefixes: Vec<_> = asked.from.iter().map(ToString::to_string).collect();
        assert_eq!(prefixes, ["198.18.0.0/15", "10.0.0.1/32"]);
        assert_eq!((asked.port, asked.mss_clamp), (6081, Mss::Bytes(1300)));
        assert_eq!(asked.attach, AttachMode::XdpGeneric);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, kind) in [
            ("equipoise decap", ErrorKind::MissingRequiredArgument),
            ("equipoise decap -i eth0 --lo", ErrorKind::MissingRequiredArgument),
            ("equipoise decap -i eth0 --clean", ErrorKind::ArgumentConflict),
            ("equipoise decap -i eth0 --address 127.0.0.1", ErrorKind::ValueValidation),
            ("equipoise decap -i eth0 --address ff02::1", ErrorKind::ValueValidation),
            ("equipoise decap -i eth0 --address 203.0.113.0/24", ErrorKind::ValueValidation),
            ("equipoise decap -i eth0 --from web", ErrorKind::ValueValidation),
            ("equipoise decap -i eth0 --port 0", ErrorKind::ValueValidation),
            ("equipoise decap -i eth0 --mss-clamp 20", ErrorKind::ValueValidation),
            ("equipoise decap -i eth0 --attach ebpf", ErrorKind::ValueValidation),
        ] {
            assert_eq!(parse(line).unwrap_err(), kind, "{line}");
        }
        assert!(parse("equipoise decap --clean").unwrap().clean);
    }
}

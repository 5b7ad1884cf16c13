//! What becomes of a packet, as data, and packets as hexadecimal text.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{form, object};

/// Bytes of an Ethernet header: less is no packet.
const ETHERNET: usize = 14;
/// The largest packet: a 64 kB IP packet behind its Ethernet header and two VLAN tags.
const LARGEST: usize = ETHERNET + 8 + 65_535;

/// A packet to be explained: by its bytes, or by its addresses, for which one is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// Its bytes from the Ethernet header on, as hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hex: Option<String>,
    /// Its addresses.
    #[serde(default, deserialize_with = "object::if_any", skip_serializing_if = "Option::is_none")]
    pub packet: Option<Addresses>,
    /// Name of the interface that it comes by; that which leads to its source if that is a backend, else the first listening one.
    #[serde(rename = "in", default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The server that its client names in TLS, where that decides where its connection goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
}

/// Where a packet comes from and goes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Addresses {
    /// `tcp` or `udp`.
    #[schema(pattern = "^(tcp|udp)$")]
    pub protocol: String,
    /// Where it comes from; an IPv6 address in brackets.
    #[schema(schema_with = form::source)]
    pub source: SocketAddr,
    /// Where it goes; an IPv6 address in brackets.
    #[schema(schema_with = form::destination)]
    pub destination: SocketAddr,
}

/// What becomes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainAnswer {
    /// The interface that it comes by.
    pub interface: String,
    /// The hook that packets meet first there: `xdp` or `tc-ingress`. What follows is its answer.
    pub hook: String,
    /// `forward`, `stack`, `answer`, `pass` or `drop`.
    pub verdict: String,
    /// Name of the verdict.
    pub reason: String,
    /// Name of the service that it is for, or of.
    pub service: Option<String>,
    /// The route that leads to the pool: `default`, or its first source or name.
    pub route: Option<String>,
    /// The backend that it goes to, or comes from.
    pub backend: Option<String>,
    /// The other backends of the pool, and why they are not the one.
    pub why_not: Vec<WhyNot>,
    /// What becomes otherwise in it; nothing where it stays as it is.
    pub rewrite: Rewrite,
    /// Where it leaves; none where it does not, or the stack decides.
    pub out: Option<Out>,
    /// What the link carries that it leaves by.
    pub mtu: Option<Mtu>,
    /// What it meets on its way, in order.
    pub steps: Vec<Told>,
    /// `pass`, `drop`, `tx` or `redirect`.
    pub action: String,
    /// The packet as it leaves the program.
    pub out_hex: String,
    /// The answer of every hook, if the packet came to it as it is.
    pub hooks: Vec<HookAnswer>,
}

/// A backend that is not the one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyNot {
    /// Address and port, as the configuration writes them.
    pub backend: String,
    /// Why not.
    pub reason: String,
}

/// What becomes otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rewrite {
    /// The source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Becomes>,
    /// The destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Becomes>,
    /// The TTL or hop limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop_limit: Option<Becomes>,
    /// Between which addresses it is put inside another packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer: Option<Becomes>,
}

/// One thing that was, and what it is then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Becomes {
    /// As it came.
    pub from: String,
    /// As it leaves.
    pub to: String,
}

/// Where a packet leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Out {
    /// By this interface.
    pub interface: String,
    /// To the backend, or the gateway on the way to it; none on the way to a client, where the kernel is asked for each packet.
    #[schema(value_type = Option<String>)]
    pub next_hop: Option<IpAddr>,
}

/// What a link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mtu {
    /// IP bytes that it carries at most.
    pub link: u32,
    /// Of them, bytes that go before the packet that the client has sent.
    pub overhead: u32,
    /// IP bytes of this packet as it leaves.
    pub packet: u32,
}

/// Something that a packet meets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Told {
    /// At which hook.
    pub hook: String,
    /// What it is.
    pub step: String,
    /// In words.
    pub text: String,
}

/// What the program of a hook does with a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HookAnswer {
    /// `xdp`, `tc-ingress` or `tc-egress`.
    pub hook: String,
    /// As above; none where the kernel does not run this program on such a packet.
    pub action: Option<String>,
    /// As above.
    pub reason: Option<String>,
    /// As above.
    pub out_hex: Option<String>,
    /// Why there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The bytes of a packet that is written as hexadecimal digits; white space and colons between bytes do not count.
///
/// # Errors
///
/// A sentence, when they are no hexadecimal digits, or no packet.
pub fn packet(hex: &str) -> Result<Vec<u8>, String> {
    let mut digits = Vec::new();
    for (place, c) in hex.chars().enumerate() {
        match c.to_digit(16) {
            Some(digit) => digits.push(digit as u8),
            None if c.is_ascii_whitespace() || c == ':' => {}
            None => return Err(format!("{c:?} at place {} is no hexadecimal digit", place + 1)),
        }
    }
    let bytes: Vec<u8> =
        digits.chunks(2).map(|pair| pair.iter().fold(0, |a, d| a << 4 | d)).collect();
    if digits.len() % 2 == 1 {
        return Err(format!("{} digits are no whole number of bytes", digits.len()));
    }
    if !(ETHERNET..=LARGEST).contains(&bytes.len()) {
        return Err(format!(
            "{} bytes are no packet: from its Ethernet header on it has {ETHERNET} to {LARGEST}",
            bytes.len()
        ));
    }
    Ok(bytes)
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a text cannot fail.
        let _: std::fmt::Result = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_from_hexadecimal_text() {
        let bytes: Vec<u8> = (0..16).map(|n| n * 17).collect();
        assert_eq!(packet(&hex(&bytes)), Ok(bytes.clone()));
        assert_eq!(packet("00 11:22 33\n44 55 66 77 88 99 AA bb cC dd ee ff"), Ok(bytes));
    }

    #[test]
    fn what_is_no_packet_is_refused_with_its_place() {
        let said = |text: &str| packet(text).unwrap_err();
        assert_eq!(said("00 1x"), "'x' at place 5 is no hexadecimal digit");
        assert_eq!(said("0x00"), "'x' at place 2 is no hexadecimal digit");
        assert_eq!(said("001"), "3 digits are no whole number of bytes");
        assert!(said(&"00".repeat(13)).starts_with("13 bytes are no packet"));
        assert!(said("").starts_with("0 bytes are no packet"));
        assert!(said(&"00".repeat(LARGEST + 1)).contains("no packet"));
    }
}

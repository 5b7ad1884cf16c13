//! The PROXY header, version 2: who has connected, before the first byte of a connection.
//!
//! As haproxy.org's `doc/proxy-protocol.txt` has it, section 2.2: a signature of 12 bytes, version and command, family and transport, the
//! length of what follows, and addresses and ports in network order. 28 bytes for IPv4, 52 for IPv6.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// What a backend is told of a client that has connected to a VIP of the same family.
pub(super) fn header(client: SocketAddr, vip: SocketAddr) -> Vec<u8> {
    let mut header = Vec::with_capacity(52);
    header.extend(SIGNATURE);
    header.push(PROXY);
    match (client.ip(), vip.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.extend([TCP_OVER_IPV4, 0, 12]);
            header.extend(source.octets());
            header.extend(destination.octets());
        }
        (source, destination) => {
            header.extend([TCP_OVER_IPV6, 0, 36]);
            header.extend(wide(source));
            header.extend(wide(destination));
        }
    }
    header.extend(client.port().to_be_bytes());
    header.extend(vip.port().to_be_bytes());
    header
}

fn wide(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_what_the_document_says() {
        let v4 = header("198.51.100.7:4242".parse().unwrap(), "203.0.113.10:443".parse().unwrap());
        let wanted =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\xcb\0\x71\x0a\x10\x92\x01\xbb";
        assert_eq!(v4, wanted);
        let v6 =
            header("[2001:db8:1::7]:4242".parse().unwrap(), "[2001:db8::10]:443".parse().unwrap());
        assert_eq!(v6.len(), 52);
        assert_eq!(v6[12..16], [0x21, 0x21, 0, 36]);
        assert_eq!(v6[16..18], [0x20, 0x01]);
        assert_eq!(v6[48..], [0x10, 0x92, 0x01, 0xbb]);
    }
}

//! Texts of addresses and interface names: which can work at all.
//!
//! Says why an address can be neither a VIP nor a backend on any machine. What one machine has or
//! can reach is not asked here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::report::shown;

/// Why a text is not what it should be, and what would be.
pub(super) type Refusal = (String, String);

const VIP: &str = "an address without a port, such as 203.0.113.10 or 2001:db8::10";
const BACKEND: &str = "an address and a port, such as 10.0.0.1:8080 or [2001:db8::1]:8080, or an address alone to keep \
    the client's port";
const UNICAST: &str = "a unicast address, that of one machine";

/// The address of a listen.
pub(super) fn vip(text: &str) -> Result<IpAddr, Refusal> {
    let Ok(address) = text.parse::<IpAddr>() else {
        let shown = shown(text);
        let message = if text.parse::<SocketAddr>().is_ok() {
            format!("{shown} has a port, which is a key of its own")
        } else if text.contains('/') {
            format!("{shown} is a prefix, not an address")
        } else {
            format!("{shown} is not an address")
        };
        return Err((message, VIP.to_owned()));
    };
    unicast(address)?;
    Ok(address)
}

/// The address and port of a backend; port 0 where it keeps the client's.
pub(super) fn backend(text: &str) -> Result<SocketAddr, Refusal> {
    if let Ok(address) = text.parse::<IpAddr>() {
        unicast(address)?;
        return Ok(SocketAddr::new(address, 0));
    }
    let Ok(address) = text.parse::<SocketAddr>() else {
        return Err((format!("{} is not an address and a port", shown(text)), BACKEND.to_owned()));
    };
    if address.port() == 0 {
        return Err((format!("`{text}` has port 0"), "a port of 1 to 65535".to_owned()));
    }
    if matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0) {
        let bare = SocketAddr::new(address.ip(), address.port());
        return Err((format!("`{text}` has a scope"), format!("the address alone: {bare}")));
    }
    unicast(address.ip())?;
    Ok(address)
}

/// Whether the kernel can have an interface of this name (`dev_valid_name`).
pub(super) fn interface(name: &str) -> Result<(), Refusal> {
    let allowed = "1 to 15 bytes without `/`, `:` or space, such as eth0 or eth0.100".to_owned();
    let shown = shown(name);
    if name.is_empty() {
        return Err(("an interface without a name".to_owned(), allowed));
    }
    if name.len() > 15 {
        let message = format!("{shown} has {} bytes, too many for an interface", name.len());
        return Err((message, allowed));
    }
    // 0xa0 is a space to the kernel, whatever character it is a part of.
    let odd = |byte: u8| matches!(byte, b'/' | b':' | b' ' | 0x09..=0x0d | 0x00 | 0xa0);
    if name == "." || name == ".." || name.bytes().any(odd) {
        return Err((format!("{shown} cannot be the name of an interface"), allowed));
    }
    Ok(())
}

/// Refuses what no packet of a connection can carry as its destination.
fn unicast(address: IpAddr) -> Result<(), Refusal> {
    let why = match address {
        _ if address.is_unspecified() => "stands for no address",
        _ if address.is_multicast() => "is a multicast address",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "is the broadcast address",
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => {
                let message = format!("`{address}` is an IPv4 address in the form of IPv6");
                return Err((message, format!("the address itself: {v4}")));
            }
            None => return Ok(()),
        },
        IpAddr::V4(_) => return Ok(()),
    };
    Err((format!("`{address}` {why}"), UNICAST.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_takes_are_taken() {
        for name in ["eth0", "eth0.100", "br-lan", "a", "123456789012345", "wlp0s20f3", "é"] {
            assert!(interface(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_that_the_kernel_refuses_are_refused() {
        for name in
            ["", ".", "..", "a/b", "eth0:1", "a b", "a\tb", "1234567890123456", "\u{a0}", "a\0"]
        {
            assert!(interface(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn addresses_of_one_machine_are_taken() {
        for text in ["10.0.0.1", "169.254.1.1", "2001:db8::1", "fe80::1", "240.0.0.1"] {
            assert!(vip(text).is_ok(), "{text}");
        }
        for text in ["10.0.0.1:1", "[2001:db8::1]:65535", "127.0.0.1:80", "10.0.0.1", "2001:db8::1"]
        {
            assert!(backend(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn addresses_of_none_or_many_are_refused() {
        for text in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:10.0.0.1"]
        {
            assert!(vip(text).is_err(), "{text}");
        }
        for text in [
            "0.0.0.0:80",
            "[::]:80",
            "[ff02::1]:80",
            "[fe80::1%2]:80",
            "10.0.0.1:0",
            "::",
            "0.0.0.0",
        ] {
            assert!(backend(text).is_err(), "{text}");
        }
    }
}

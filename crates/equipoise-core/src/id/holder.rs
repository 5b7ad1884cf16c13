//! Who holds a number, as a number that can stand in a map: the same in every process and version.
//!
//! What is written there tells the next process which id is whose, so that flows go on naming the right service and
//! backend. It is a hash of names and addresses (FNV-1a, 64 bits), which nobody else chooses: among as many as there can be,
//! two alike are a matter of one in billions.

use std::net::{IpAddr, SocketAddr};

use equipoise_common::value::Mode;

use super::{Family, RouteName};

/// Who holds an id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder(pub u64);

impl Holder {
    /// A service.
    pub fn service(name: &str) -> Self {
        Hash::new(b's').text(name).end()
    }

    /// The pool of a service for clients of a family, all of them or those of a route.
    pub fn pool(service: &str, route: &RouteName, family: Family) -> Self {
        Hash::new(b'p').text(service).route(route).bytes(&[family as u8]).end()
    }

    /// A backend of such a pool. In another mode it is another backend.
    pub fn backend(service: &str, route: &RouteName, address: SocketAddr, mode: Mode) -> Self {
        let hash = Hash::new(b'b').text(service).route(route);
        let hash = match address.ip() {
            IpAddr::V4(address) => hash.bytes(&address.octets()),
            IpAddr::V6(address) => hash.bytes(&address.octets()),
        };
        hash.bytes(&address.port().to_be_bytes()).bytes(&[mode as u8]).end()
    }
}

struct Hash(u64);

impl Hash {
    fn new(kind: u8) -> Self {
        Self(0xcbf2_9ce4_8422_2325).bytes(&[kind])
    }

    fn bytes(self, bytes: &[u8]) -> Self {
        let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(bytes.iter().fold(self.0, add))
    }

    /// With its length, so that two texts are not taken for two others.
    fn text(self, text: &str) -> Self {
        self.bytes(&(text.len() as u64).to_le_bytes()).bytes(text.as_bytes())
    }

    fn route(self, route: &RouteName) -> Self {
        match route {
            None => self.bytes(&[0]),
            Some(name) => self.bytes(&[1]).text(name),
        }
    }

    fn end(self) -> Holder {
        Holder(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn holders_are_told_apart_by_all_that_they_are() {
        let (one, other): (SocketAddr, SocketAddr) =
            ("192.0.2.1:80".parse().unwrap(), "[2001:db8::1]:80".parse().unwrap());
        let route = |name: &str| Some(name.into());
        let all = [
            Holder::service("web"),
            Holder::service("webb"),
            Holder::pool("web", &None, Family::V4),
            Holder::pool("web", &None, Family::V6),
            Holder::pool("web", &route(""), Family::V4),
            Holder::pool("we", &route("b"), Family::V4),
            Holder::backend("web", &None, one, Mode::Nat),
            Holder::backend("web", &None, one, Mode::FullNat),
            Holder::backend("web", &None, other, Mode::Nat),
            Holder::backend("web", &route("10.0.0.0/8"), one, Mode::Nat),
            Holder::backend("web", &None, SocketAddr::new(one.ip(), 81), Mode::Nat),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    /// What stands in the maps of a process that runs is read by the next version.
    #[test]
    fn holders_are_the_same_in_every_version() {
        assert_eq!(Holder::service("web"), Holder(0xb5f6_5793_2718_e2c5));
        let at = "192.0.2.1:80".parse().unwrap();
        assert_eq!(
            Holder::backend("web", &Some("10.0.0.0/8".into()), at, Mode::Nat),
            Holder(0x81fc_5a34_f935_5fe8)
        );
    }
}

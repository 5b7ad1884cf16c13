//! The ports of a service, and the address of a backend that keeps a client's port.
//!
//! Both are written as in the file wherever they are told. Knows nothing of how a range of ports is
//! laid out in the maps.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The ports of a service. None is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// These, each once, at least one; in the order of the file.
    List(Vec<u16>),
    /// From the first to the last.
    Range(u16, u16),
    /// All that no other service has on the same address.
    All,
}

impl Ports {
    /// One port.
    pub fn one(port: u16) -> Self {
        Self::List(vec![port])
    }

    /// The port, if there is but one.
    pub fn only(&self) -> Option<u16> {
        match self {
            Self::List(list) => list.first().copied().filter(|_| list.len() == 1),
            Self::Range(first, last) => (first == last).then_some(*first),
            Self::All => None,
        }
    }

    /// The ports as ranges, from and to.
    pub fn ranges(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        let (list, range) = match self {
            Self::List(list) => (list.as_slice(), None),
            Self::Range(first, last) => (&[][..], Some((*first, *last))),
            Self::All => (&[][..], Some((1, u16::MAX))),
        };
        list.iter().map(|&port| (port, port)).chain(range)
    }

    /// Whether they have a port in common.
    pub fn meet(&self, other: &Self) -> bool {
        let mut mine = self.ranges();
        mine.any(|(first, last)| other.ranges().any(|(from, to)| first <= to && from <= last))
    }

    /// The ports at which packets for these arrive at a backend: its own, or the same.
    pub fn at(&self, backend: SocketAddr) -> Self {
        if backend.port() == 0 { self.clone() } else { Self::one(backend.port()) }
    }

    /// From the text of a range.
    fn from_text(text: &str) -> Option<Self> {
        if text == "all" {
            return Some(Self::All);
        }
        let (first, last) = text.split_once('-')?;
        // `parse` would take a sign.
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(first) || !is_number(last) {
            return None;
        }
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        match (first, last) {
            (0, _) => None,
            (1, u16::MAX) => Some(Self::All),
            (first, last) => (first <= last).then_some(Self::Range(first, last)),
        }
    }
}

impl std::str::FromStr for Ports {
    type Err = ();

    /// From the text of a range, or `all`.
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::from_text(text).ok_or(())
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(list) => {
                let list: Vec<_> = list.iter().map(u16::to_string).collect();
                f.write_str(&list.join(", "))
            }
            Self::Range(first, last) => write!(f, "{first}-{last}"),
            Self::All => f.write_str("all"),
        }
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::List(list) => match list.as_slice() {
                [port] => port.serialize(serializer),
                list => list.serialize(serializer),
            },
            Self::Range(..) | Self::All => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            One(u16),
            List(Vec<u16>),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::One(port) => Ok(Self::one(port)),
            Written::List(list) => Ok(Self::List(list)),
            Written::Text(text) => {
                Self::from_text(&text).ok_or_else(|| D::Error::custom("neither a range nor `all`"))
            }
        }
    }
}

/// The address of a backend in words, as in the file: without a port where it keeps the client's.
pub mod target {
    use super::{Deserialize, Deserializer, IpAddr, Serializer, SocketAddr};
    use serde::de::Error as _;

    /// The words.
    pub fn text(backend: SocketAddr) -> String {
        if backend.port() == 0 { backend.ip().to_string() } else { backend.to_string() }
    }

    /// A backend from its words; port 0 where there is none.
    pub fn parse(text: &str) -> Option<SocketAddr> {
        let with_port = text.parse().ok().filter(|address: &SocketAddr| address.port() != 0);
        with_port.or_else(|| Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, 0)))
    }

    /// For fields that are serialized.
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(
        backend: &SocketAddr,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&text(*backend))
    }

    /// For fields that are read back.
    ///
    /// # Errors
    ///
    /// What is not the text of a backend.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| D::Error::custom("neither an address nor one with a port"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_they_are_written() {
        for ports in [
            Ports::one(80),
            Ports::List(vec![443, 80]),
            Ports::Range(8000, 8100),
            Ports::Range(7, 7),
            Ports::All,
        ] {
            let written = serde_json::to_string(&ports).unwrap();
            assert_eq!(serde_json::from_str::<Ports>(&written).unwrap(), ports, "{written}");
        }
        assert_eq!("1-65535".parse(), Ok(Ports::All));
        for text in ["", "-", "80", "80-", "0-80", "90-80", "+1-2", "1-+2", "1-65536", "every"] {
            assert_eq!(text.parse::<Ports>(), Err(()), "{text}");
        }
    }

    #[test]
    fn ports_meet_where_they_have_one_in_common() {
        let (list, range) = (Ports::List(vec![80, 443]), Ports::Range(440, 443));
        assert!(list.meet(&range) && range.meet(&list) && list.meet(&Ports::All));
        assert!(!list.meet(&Ports::Range(81, 442)) && !list.meet(&Ports::one(8080)));
        assert!(Ports::Range(1, 80).meet(&Ports::Range(80, 90)));
        assert!(!Ports::Range(1, 79).meet(&Ports::Range(80, 90)));
    }

    #[test]
    fn backends_are_told_as_they_are_written() {
        for text in ["10.0.0.1", "10.0.0.1:80", "2001:db8::3", "[2001:db8::3]:80"] {
            assert_eq!(target::text(target::parse(text).unwrap()), text);
        }
        for text in ["", "10.0.0.1:0", "[2001:db8::3]", "a:80"] {
            assert_eq!(target::parse(text), None, "{text}");
        }
    }
}

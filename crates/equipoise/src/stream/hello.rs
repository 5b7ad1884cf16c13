//! The server that a client names: read from the TLS ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3), in however many segments
//! and records it comes. Nothing is taken away from the connection: what has been read is passed on first.

use std::io;

use rustls::server::Acceptor;
use tokio::net::TcpStream;

/// The longest ClientHello that is waited for, with its records, bytes.
const MOST: usize = 1 << 17;

/// What a client has said first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// All of it, as it came.
    pub(super) bytes: Vec<u8>,
    /// The server that it names, in lower case; none where it names none, or does not speak TLS.
    pub(super) name: Option<String>,
}

/// Reads until the name is known, or it is known that there is none. What has been read is in `said` also when this is given up.
///
/// # Errors
///
/// When the connection ends in an error.
pub(super) async fn read(client: &TcpStream, said: &mut Said) -> io::Result<()> {
    let mut reader = Reader::default();
    loop {
        client.readable().await?;
        let before = said.bytes.len();
        match client.try_read_buf(&mut said.bytes) {
            // It says nothing more: whatever it has said goes on as it is.
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        match reader.take(&said.bytes[before..]) {
            Heard::More if said.bytes.len() < MOST => {}
            Heard::More => return Ok(()),
            Heard::Name(name) => {
                said.name = name;
                return Ok(());
            }
        }
    }
}

/// What is known by now.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// Too little.
    More,
    /// The name, or that there is none.
    Name(Option<String>),
}

#[derive(Default)]
struct Reader {
    acceptor: Acceptor,
}

impl Reader {
    fn take(&mut self, mut bytes: &[u8]) -> Heard {
        while !bytes.is_empty() {
            // What is no record of TLS is refused there or below.
            if self.acceptor.read_tls(&mut bytes).is_err() {
                return Heard::Name(None);
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                    return Heard::Name(name);
                }
                Err(_) => return Heard::Name(None),
            }
        }
        Heard::More
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn hello(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client =
            ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    fn heard(pieces: impl IntoIterator<Item = Vec<u8>>) -> Heard {
        let mut reader = Reader::default();
        for piece in pieces {
            match reader.take(&piece) {
                Heard::More => {}
                heard @ Heard::Name(_) => return heard,
            }
        }
        Heard::More
    }

    fn named(name: &str) -> Heard {
        Heard::Name(Some(name.to_owned()))
    }

    #[test]
    fn a_name_is_read_in_one_piece_in_two_anywhere_and_byte_by_byte() {
        let hello = hello("API.Example.com");
        assert_eq!(heard([hello.clone()]), named("api.example.com"));
        for at in 1..hello.len() {
            let (first, second) = hello.split_at(at);
            assert_eq!(heard([first.to_vec()]), Heard::More, "{at} bytes are too few");
            assert_eq!(heard([first.to_vec(), second.to_vec()]), named("api.example.com"), "{at}");
        }
        let bytes = hello.iter().map(|byte| vec![*byte]);
        assert_eq!(heard(bytes), named("api.example.com"));
    }

    #[test]
    fn a_hello_in_several_records_is_one() {
        let hello = hello("api.example.com");
        let (head, body) = hello.split_at(5);
        let mut bytes = Vec::new();
        for part in body.chunks(50) {
            bytes.extend(&head[..3]);
            bytes.extend((part.len() as u16).to_be_bytes());
            bytes.extend(part);
        }
        assert_eq!(heard([bytes]), named("api.example.com"));
    }

    #[test]
    fn what_names_nobody_is_known_at_once() {
        assert_eq!(heard([hello("192.0.2.1")]), Heard::Name(None), "an address is no name");
        for other in ["GET / HTTP/1.1\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n", "\0\0\0\0\0\0\0\0"] {
            assert_eq!(heard([other.as_bytes().to_vec()]), Heard::Name(None), "{other:?}");
        }
        let mut other = hello("api.example.com");
        other[5] = 2;
        assert_eq!(heard([other]), Heard::Name(None), "a ServerHello");
    }
}

//! The HTTP/1.1 backend.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /` | its name |
//! | `GET /peer` | the address and port it sees the client at |
//! | `GET /bytes/N?seed=S` | N bytes of [`Bytes`], of seed 0 unless given |
//! | `PUT` or `POST` to any path | digest and length of the body, in decimal |
//!
//! Every answer names the backend in `x-backend`. Connections are kept open unless asked otherwise.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use super::stream::Acceptor;
use crate::content::{Bytes, digest_from};
use crate::netns::Netns;

/// An HTTP backend.
#[derive(Debug)]
pub struct HttpServer {
    acceptor: Acceptor,
    requests: Arc<AtomicU64>,
}

impl HttpServer {
    /// Listens on all addresses; port 0 takes a free one.
    pub fn start(netns: &Netns, name: &str, addresses: &[SocketAddr]) -> Result<Self> {
        let requests = Arc::new(AtomicU64::new(0));
        let (name, counter) = (name.to_owned(), Arc::clone(&requests));
        let acceptor =
            Acceptor::start(netns, addresses, move |stream| converse(stream, &name, &counter))?;
        Ok(Self { acceptor, requests })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.acceptor.addresses
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.acceptor.connections()
    }

    /// Requests read so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// What matters of a request.
#[derive(Debug, Default)]
struct Head {
    method: String,
    path: String,
    length: u64,
    close: bool,
}

fn converse(stream: &TcpStream, name: &str, requests: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(head) = read_head(&mut reader)? {
        requests.fetch_add(1, Ordering::Relaxed);
        match (head.method.as_str(), head.path.as_str()) {
            ("PUT" | "POST", _) => {
                let digest = digest_from(&mut reader, head.length)?;
                send(stream, name, &format!("{digest} {}", head.length))?;
            }
            ("GET", "/") => send(stream, name, name)?,
            ("GET", "/peer") => send(stream, name, &stream.peer_addr()?.to_string())?,
            ("GET", path) => match bytes_asked(path) {
                Some((length, seed)) => {
                    let mut stream = stream;
                    stream.write_all(answer_head("200 OK", name, length).as_bytes())?;
                    Bytes::new(seed).write_to(length, &mut stream)?;
                }
                None => refuse(stream, "404 Not Found", name)?,
            },
            _ => {
                refuse(stream, "405 Method Not Allowed", name)?;
                return Ok(());
            }
        }
        if head.close {
            return Ok(());
        }
    }
    Ok(())
}

/// The next request's head, or nothing where the client is done.
fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a request line"));
    };
    let mut head = Head { method: method.to_owned(), path: path.to_owned(), ..Head::default() };
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some((key, value)) = line.trim_end().split_once(':') else {
            return Ok(Some(head));
        };
        match key.to_ascii_lowercase().as_str() {
            "content-length" => {
                let length = value.trim().parse();
                head.length =
                    length.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
            "connection" => head.close = value.trim().eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
}

/// Length and seed of a path `/bytes/N` or `/bytes/N?seed=S`.
fn bytes_asked(path: &str) -> Option<(u64, u64)> {
    let rest = path.strip_prefix("/bytes/")?;
    let (length, seed) = match rest.split_once('?') {
        Some((length, query)) => (length, query.strip_prefix("seed=")?.parse().ok()?),
        None => (rest, 0),
    };
    Some((length.parse().ok()?, seed))
}

fn send(mut stream: &TcpStream, name: &str, body: &str) -> io::Result<()> {
    let head = answer_head("200 OK", name, body.len() as u64);
    stream.write_all(format!("{head}{body}").as_bytes())
}

fn refuse(mut stream: &TcpStream, status: &str, name: &str) -> io::Result<()> {
    stream.write_all(answer_head(status, name, 0).as_bytes())
}

fn answer_head(status: &str, name: &str, length: u64) -> String {
    format!("HTTP/1.1 {status}\r\nx-backend: {name}\r\ncontent-length: {length}\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_with_length_and_wish_to_close() {
        let text =
            "PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nConnection: Close\r\n\r\nbody";
        let head = read_head(&mut text.as_bytes()).unwrap().unwrap();
        assert_eq!((head.method.as_str(), head.path.as_str()), ("PUT", "/x"));
        assert_eq!((head.length, head.close), (12, true));
    }

    #[test]
    fn the_end_between_requests_is_no_error_and_within_one_is() {
        assert!(read_head(&mut &b""[..]).unwrap().is_none());
        assert!(read_head(&mut &b"GET / HTTP/1.1\r\nHost: a\r\n"[..]).is_err());
        assert!(read_head(&mut &b"\r\n"[..]).is_err());
    }

    #[test]
    fn bytes_are_asked_by_length_and_seed() {
        assert_eq!(bytes_asked("/bytes/100"), Some((100, 0)));
        assert_eq!(bytes_asked("/bytes/100?seed=7"), Some((100, 7)));
        assert_eq!(bytes_asked("/bytes/x"), None);
        assert_eq!(bytes_asked("/bytes/1?tail=7"), None);
        assert_eq!(bytes_asked("/other"), None);
    }
}

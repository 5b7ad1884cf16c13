//! A name server for tests: what it says is set by the test, and may be wrong, late or nothing.
//!
//! It answers over UDP and TCP on one port of an address, follows aliases as a recursive server does, and counts what it is
//! asked.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::Netns;

/// Between two looks at whether the server is to end.
const PATIENCE: Duration = Duration::from_millis(20);
/// Aliases that are followed.
const CHAIN: usize = 8;

/// What the server says of a name.
#[derive(Clone, Debug)]
pub enum Says {
    /// These records, and how many seconds they may be believed.
    Records(Vec<Data>, u32),
    /// Over UDP that there are too many; over TCP these records.
    Long(Vec<Data>, u32),
    /// That it could not.
    Failure,
    /// Nothing.
    Silence,
}

/// A record.
#[derive(Clone, Debug)]
pub enum Data {
    /// An address, of either family.
    Address(IpAddr),
    /// Another name.
    Alias(&'static str),
    /// Priority, weight, port and host of a service.
    Service(u16, u16, u16, &'static str),
}

/// Of which kind of record something is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Addresses of IPv4.
    V4,
    /// Addresses of IPv6.
    V6,
    /// Services.
    Srv,
}

/// A running server; it ends when it is dropped.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Zone {
    says: BTreeMap<(String, Kind), Says>,
    asked: BTreeMap<String, usize>,
}

impl DnsServer {
    /// Starts it on an address of a host, at any free port of this address.
    ///
    /// # Errors
    ///
    /// When the address is not there, or no port is.
    pub fn start_in(netns: &Netns, address: IpAddr) -> Result<Self> {
        netns.run(|| Self::start(address))
    }

    /// Starts it where this thread is.
    ///
    /// # Errors
    ///
    /// When the address is not there, or no port is.
    pub fn start(address: IpAddr) -> Result<Self> {
        let sockets = sockets(address).with_context(|| format!("a name server on {address}"))?;
        Self::run(sockets)
    }

    /// Starts it on an address of a host, at a port of one's own choice: the system's resolver knows no other than 53.
    ///
    /// # Errors
    ///
    /// When the address is not there, or the port is taken.
    pub fn start_at(netns: &Netns, at: SocketAddr) -> Result<Self> {
        let bind = || Ok((TcpListener::bind(at)?, UdpSocket::bind(at)?));
        let sockets: std::io::Result<_> = netns.run(bind);
        Self::run(sockets.with_context(|| format!("a name server on {at}"))?)
    }

    fn run((tcp, udp): (TcpListener, UdpSocket)) -> Result<Self> {
        tcp.set_nonblocking(true)?;
        udp.set_read_timeout(Some(PATIENCE))?;
        let address = tcp.local_addr()?;
        let (zone, ends) =
            (Arc::new(Mutex::new(Zone::default())), Arc::new(AtomicBool::new(false)));
        let mut threads = Vec::new();
        let shared = (Arc::clone(&zone), Arc::clone(&ends));
        threads.push(thread::spawn(move || datagrams(&udp, &shared)));
        let shared = (Arc::clone(&zone), Arc::clone(&ends));
        threads.push(thread::spawn(move || connections(&tcp, &shared)));
        Ok(Self { address, zone, ends, threads })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it says this.
    pub fn says(&self, name: &str, kind: Kind, says: Says) {
        lock(&self.zone).says.insert((name.to_owned(), kind), says);
    }

    /// From now on a host has these addresses, for so many seconds, and no others.
    pub fn host(&self, name: &str, addresses: &[&str], ttl: u32) {
        let addresses = addresses.iter().map(|a| a.parse().expect("an address"));
        let (v4, v6): (Vec<IpAddr>, Vec<_>) = addresses.partition(IpAddr::is_ipv4);
        for (kind, addresses) in [(Kind::V4, v4), (Kind::V6, v6)] {
            let data = addresses.into_iter().map(Data::Address).collect();
            self.says(name, kind, Says::Records(data, ttl));
        }
    }

    /// From now on there is no such name.
    pub fn forget(&self, name: &str) {
        lock(&self.zone).says.retain(|(known, _), _| known != name);
    }

    /// How often it has been asked for a name.
    pub fn asked(&self, name: &str) -> usize {
        lock(&self.zone).asked.get(name).copied().unwrap_or_default()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // What it has failed by has been printed.
            drop(thread.join());
        }
    }
}

/// A port that is free for both.
fn sockets(address: IpAddr) -> std::io::Result<(TcpListener, UdpSocket)> {
    loop {
        let tcp = TcpListener::bind((address, 0))?;
        match UdpSocket::bind(tcp.local_addr()?) {
            Ok(udp) => return Ok((tcp, udp)),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
}

type Shared = (Arc<Mutex<Zone>>, Arc<AtomicBool>);

fn datagrams(socket: &UdpSocket, (zone, ends): &Shared) {
    let mut buffer = [0; 4096];
    while !ends.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(answer) = answer(&buffer[..length], zone, Way::Datagram) {
            // Who has asked may be gone.
            drop(socket.send_to(&answer, from));
        }
    }
}

fn connections(listener: &TcpListener, (zone, ends): &Shared) {
    while !ends.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => drop(connection(stream, zone)),
            Err(_) => thread::sleep(PATIENCE),
        }
    }
}

/// One question, which is what resolvers ask here.
fn connection(mut stream: TcpStream, zone: &Mutex<Zone>) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut question = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut question)?;
    let Some(answer) = answer(&question, zone, Way::Connection) else { return Ok(()) };
    let length = u16::try_from(answer.len()).map_err(|_| ErrorKind::InvalidData)?;
    stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat())
}

/// How a question has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Datagram,
    Connection,
}

fn answer(question: &[u8], zone: &Mutex<Zone>, way: Way) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).ok()?;
    let query = question.queries.first()?.clone();
    let kind = match query.query_type() {
        RecordType::A => Kind::V4,
        RecordType::AAAA => Kind::V6,
        RecordType::SRV => Kind::Srv,
        _ => return None,
    };
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.metadata.recursion_available = true;
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.add_query(query.clone());
    let mut name = query.name().clone();
    let mut zone = lock(zone);
    *zone.asked.entry(bare(&name)).or_default() += 1;
    for _ in 0..CHAIN {
        let text = bare(&name);
        let is_known = zone.says.keys().any(|(known, _)| *known == text);
        let (data, ttl) = match zone.says.get(&(text, kind)) {
            None if is_known => (&Vec::new(), 0),
            None => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                break;
            }
            Some(Says::Silence) => return None,
            Some(Says::Failure) => {
                answer.metadata.response_code = ResponseCode::ServFail;
                break;
            }
            Some(Says::Long(..)) if way == Way::Datagram => {
                answer.metadata.truncation = true;
                break;
            }
            Some(Says::Records(data, ttl) | Says::Long(data, ttl)) => (data, *ttl),
        };
        answer.add_answers(
            data.iter().map(|data| Record::from_rdata(name.clone(), ttl, rdata(data))),
        );
        match data.as_slice() {
            [Data::Alias(other)] => name = absolute(other),
            _ => break,
        }
    }
    drop(zone);
    answer.to_vec().ok()
}

fn rdata(data: &Data) -> RData {
    match *data {
        Data::Address(IpAddr::V4(address)) => RData::A(A::from(address)),
        Data::Address(IpAddr::V6(address)) => RData::AAAA(AAAA::from(address)),
        Data::Alias(other) => RData::CNAME(CNAME(absolute(other))),
        Data::Service(priority, weight, port, host) => {
            RData::SRV(SRV::new(priority, weight, port, absolute(host)))
        }
    }
}

fn absolute(name: &str) -> Name {
    let mut name = Name::from_ascii(name).expect("a name");
    name.set_fqdn(true);
    name
}

fn bare(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

fn lock(zone: &Mutex<Zone>) -> MutexGuard<'_, Zone> {
    // A test that has failed with it in its hands has left it whole.
    zone.lock().unwrap_or_else(PoisonError::into_inner)
}

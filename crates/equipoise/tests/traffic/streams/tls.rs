//! Servers that speak TLS, and say who they are and who has connected; clients that name a server.

use std::io::{self, BufRead as _, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use equipoise_lab::Netns;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

use crate::balanced::DEADLINE;

/// How often a server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);

/// A certificate for all names that a test uses.
#[derive(Clone)]
pub(crate) struct Identity {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Identity {
    pub(crate) fn of(names: &[&str]) -> Self {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let certificate: CertificateDer<'static> = certificate.der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = || Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider());
        let server = server.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let server = server.with_single_cert(vec![certificate.clone()], key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = ClientConfig::builder_with_provider(provider());
        let client = client.with_safe_default_protocol_versions().unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();
        Self { server: Arc::new(server), client: Arc::new(client) }
    }
}

/// A server whose answer to each line of a number is its name, who has connected as it was told, and so many bytes. It expects the PROXY
/// header where it is told to, and then answers in plain text as well as in TLS.
pub(crate) struct Server {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(
        netns: &Netns,
        (name, at): (&str, SocketAddr),
        (identity, told): (&Identity, bool),
    ) -> Self {
        let listener = netns.run(|| TcpListener::bind(at)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let (name, identity, ending) = (name.to_owned(), identity.clone(), Arc::clone(&ends));
        let thread = thread::spawn(move || {
            while !ending.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (name, identity) = (name.clone(), identity.clone());
                        // A client that goes away ends it.
                        thread::spawn(move || drop(serve(stream, (&name, &identity), told)));
                    }
                    Err(_) => thread::sleep(LOOK),
                }
            }
        });
        Self { ends, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Who has connected to what, as a PROXY header says it.
fn header(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    assert_eq!(head[..13], *b"\r\n\r\n\0\r\nQUIT\n\x21");
    let mut rest = vec![0; usize::from(u16::from_be_bytes([head[14], head[15]]))];
    stream.read_exact(&mut rest)?;
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    let [source, destination]: [SocketAddr; 2] = match head[13] {
        0x11 => {
            assert_eq!(rest.len(), 12);
            let v4 = |at: usize| <[u8; 4]>::try_from(&rest[at..at + 4]).unwrap();
            [(v4(0), port(8)).into(), (v4(4), port(10)).into()]
        }
        0x21 => {
            assert_eq!(rest.len(), 36);
            let v6 = |at: usize| <[u8; 16]>::try_from(&rest[at..at + 16]).unwrap();
            [(v6(0), port(32)).into(), (v6(16), port(34)).into()]
        }
        other => panic!("family {other:#x}"),
    };
    Ok(format!("{source} to {destination}"))
}

fn serve(mut stream: TcpStream, (name, identity): (&str, &Identity), told: bool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let told = if told { header(&mut stream)? } else { "nobody says who".to_owned() };
    let mut first = [0];
    stream.peek(&mut first)?;
    // The first byte of a handshake.
    if first == [22] {
        let tls = ServerConnection::new(Arc::clone(&identity.server)).map_err(io::Error::other)?;
        answer(StreamOwned::new(tls, stream), &format!("{name} told {told}"))
    } else {
        answer(stream, &format!("{name} in plain text told {told}"))
    }
}

fn answer(stream: impl Read + io::Write, says: &str) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line)? > 0 {
        let count: usize = line.trim().parse().map_err(io::Error::other)?;
        line.clear();
        let out = stream.get_mut();
        out.write_all(format!("{says}\n").as_bytes())?;
        out.write_all(&bytes(count))?;
        out.flush()?;
    }
    Ok(())
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 31 + at / 253) as u8).collect()
}

/// A connection that says what it is answered.
pub(crate) struct Client<S> {
    stream: BufReader<S>,
    pub(crate) address: SocketAddr,
}

/// A socket that writes a few bytes at a time.
pub(crate) struct Slowly(TcpStream, usize);

impl Read for Slowly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl io::Write for Slowly {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&bytes[..bytes.len().min(self.1)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn connected(netns: &Netns, to: SocketAddr) -> TcpStream {
    let stream = netns.run(|| TcpStream::connect_timeout(&to, DEADLINE)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // Each write is a segment.
    stream.set_nodelay(true).unwrap();
    stream
}

pub(crate) type Secure = Client<StreamOwned<ClientConnection, Slowly>>;

impl Secure {
    /// Names a server, so many bytes to a segment.
    pub(crate) fn open(
        netns: &Netns,
        to: SocketAddr,
        (identity, name, piece): (&Identity, &str, usize),
    ) -> Self {
        let stream = connected(netns, to);
        let address = stream.local_addr().unwrap();
        let name = name.to_owned().try_into().unwrap();
        let tls = ClientConnection::new(Arc::clone(&identity.client), name).unwrap();
        let stream = StreamOwned::new(tls, Slowly(stream, piece));
        Self { stream: BufReader::new(stream), address }
    }
}

impl Client<TcpStream> {
    /// Speaks no TLS.
    pub(crate) fn plain(netns: &Netns, to: SocketAddr) -> Self {
        let stream = connected(netns, to);
        Self { address: stream.local_addr().unwrap(), stream: BufReader::new(stream) }
    }
}

impl<S: Read + io::Write> Client<S> {
    /// Asks for so many bytes, checks them, and says who has sent them.
    pub(crate) fn ask(&mut self, count: usize) -> io::Result<String> {
        self.stream.get_mut().write_all(format!("{count}\n").as_bytes())?;
        self.stream.get_mut().flush()?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let mut got = vec![0; count];
        self.stream.read_exact(&mut got)?;
        assert!(got == bytes(count), "{count} bytes came damaged");
        Ok(line.trim().to_owned())
    }
}

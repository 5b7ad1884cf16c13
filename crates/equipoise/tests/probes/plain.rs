//! Checks that speak no HTTP: `tcp`, `udp`, `dns`, `exec`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use equipoise_core::health::FailureKind;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use tokio::net::{TcpListener, UdpSocket};

use crate::{fails, nobody, passes};

#[tokio::test]
async fn tcp_is_good_when_somebody_listens() {
    for any in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(any).await.unwrap();
        passes(listener.local_addr().unwrap(), "type = 'tcp'").await;
    }
    let (kind, message) = fails(nobody(), "type = 'tcp'").await;
    assert_eq!(kind, FailureKind::ConnectionRefused, "{message}");
}

#[tokio::test]
async fn tcp_that_is_swallowed_is_late() {
    // One connection fits into the queue of a listener that asks for none; the SYNs of more get no answer.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _first = tokio::net::TcpStream::connect(address).await.unwrap();
    let began = Instant::now();
    let (kind, message) = fails(address, "type = 'tcp'\ntimeout = '300ms'").await;
    assert_eq!((kind, &*message), (FailureKind::Timeout, "no answer within 300ms"));
    assert!(began.elapsed() < Duration::from_secs(2));
}

/// Answers each datagram by what a function makes of it.
async fn answers(answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut asked = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut asked).await {
            let answer = answer(&asked[..length]);
            if !answer.is_empty() {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    address
}

#[tokio::test]
async fn udp_is_good_when_the_answer_is_the_one_expected() {
    let echo = answers(|asked| [b"<", asked, b">"].concat()).await;
    passes(echo, "type = 'udp'").await;
    passes(echo, "type = 'udp'\nsend = 'ping'\nexpect = '<ping>'").await;
    passes(echo, "type = 'udp'\nsend = 'hex:00ff'\nexpect = 'hex:ff3e'").await;
    let (kind, _) = fails(echo, "type = 'udp'\nsend = 'ping'\nexpect = 'pong'").await;
    assert_eq!(kind, FailureKind::UnexpectedAnswer);
    let (kind, _) = fails(nobody(), "type = 'udp'\nsend = 'ping'").await;
    assert_eq!(kind, FailureKind::ConnectionRefused);
    let silent = answers(|_| Vec::new()).await;
    let (kind, _) = fails(silent, "type = 'udp'\ntimeout = '200ms'").await;
    assert_eq!(kind, FailureKind::Timeout);
}

#[tokio::test]
async fn dns_is_good_when_the_code_is_the_one_expected() {
    let server = answers(|asked| {
        let question = Message::from_vec(asked).unwrap();
        let name = question.queries[0].name().to_ascii();
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.message_type = MessageType::Response;
        answer.metadata.response_code = match &*name {
            "example.com." | "example.com" => ResponseCode::NoError,
            _ => ResponseCode::NXDomain,
        };
        answer.add_queries(question.queries);
        answer.to_vec().unwrap()
    })
    .await;
    passes(server, "type = 'dns'\nquery = 'example.com'").await;
    passes(server, "type = 'dns'\nquery = 'example.org'\nexpected-rcode = 'NXDOMAIN'").await;
    let (kind, message) = fails(server, "type = 'dns'\nquery = 'example.org'").await;
    assert_eq!(kind, FailureKind::UnexpectedAnswer, "{message}");
    let garbled = answers(|_| vec![1, 2, 3]).await;
    let (kind, _) = fails(garbled, "type = 'dns'\nquery = 'example.com'").await;
    assert_eq!(kind, FailureKind::UnexpectedAnswer);
}

#[tokio::test]
async fn exec_is_good_when_the_command_ends_with_0() {
    let address = "[2001:db8::1]:53".parse().unwrap();
    passes(address, "type = 'exec'\ncommand = ['/bin/true']").await;
    let script = "test \"$EQUIPOISE_ADDRESS\" = 2001:db8::1 && test \"$EQUIPOISE_PORT\" = 53";
    passes(address, &format!("type = 'exec'\ncommand = ['/bin/sh', '-c', '''{script}''']")).await;
    let (kind, message) = fails(address, "type = 'exec'\ncommand = ['/bin/false']").await;
    assert_eq!(kind, FailureKind::ExitCode);
    assert_eq!(message, "/bin/false: exit status: 1");
    let (kind, _) = fails(address, "type = 'exec'\ncommand = ['/bin/no-such-program']").await;
    assert_eq!(kind, FailureKind::Io);
}

#[tokio::test]
async fn command_that_takes_too_long_is_ended_with_all_that_it_waits_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let script = format!("sleep 600 & echo $! > {}; wait", file.display());
    let lines =
        format!("type = 'exec'\ntimeout = '1s'\ncommand = ['/bin/sh', '-c', '''{script}''']");
    let (kind, _) = fails("127.0.0.1:1".parse().unwrap(), &lines).await;
    assert_eq!(kind, FailureKind::Timeout);
    let pid = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    equipoise_lab::wait_until(Duration::from_secs(10), "the end of what was started", || {
        state().is_empty() || state().contains(") Z ")
    })
    .unwrap();
}

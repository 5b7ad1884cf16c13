//! Clients of the admin API that say half of what they want, or do not read what they get: they keep nobody else waiting.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, UnixStream};

use super::*;
use equipoise::status::change::{ReloadRequest, ReloadResult};
use metrics::free;
use port::ask;

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

type Client = Box<dyn Stream>;

/// Connections that are served at a time, at each way in.
const MOST: usize = 256;
/// Clients that say nothing, or half a head: alone as many as have a place.
const SILENT: usize = MOST + 20;
/// Clients that say half a body.
const HALF: usize = 14;
/// Clients that read nothing.
const UNREAD: usize = 6;
/// Flows, whose list of ten megabytes no connection holds.
const FLOWS: u16 = 30_000;

/// How an instance is asked.
#[derive(Clone, Copy)]
enum Way<'l> {
    Socket(&'l Lab),
    Port(std::net::SocketAddr),
}

impl Way<'_> {
    async fn connect(self) -> Client {
        match self {
            Self::Socket(lab) => {
                Box::new(UnixStream::connect(lab.path("test.sock")).await.unwrap())
            }
            Self::Port(address) => {
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_recv_buffer_size(4096).unwrap();
                Box::new(socket.connect(address).await.unwrap())
            }
        }
    }

    async fn say(self, text: &str) -> Client {
        let mut client = self.connect().await;
        client.write_all(text.as_bytes()).await.unwrap();
        client
    }
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("it is kept waiting")
}

/// Asked by who has nothing to do with the others: an answer, a configuration taken, and a fact that comes in.
async fn goes_on(lab: &Lab, way: Way<'_>, weight: u32) {
    let mut client = in_time(way.connect()).await;
    let (code, ..) =
        in_time(ask(&mut client, "GET /api/v1/status", "Host: localhost\r\n", "")).await;
    assert_eq!(code, 200);
    let text = fs::read_to_string(lab.path("a.toml")).unwrap();
    let begin = text.find("weight = 3").or_else(|| text.find("weight = 9")).unwrap();
    let text =
        format!("{}weight = {weight}{}", &text[..begin], &text[begin + "weight = 9".len()..]);
    fs::write(lab.path("a.toml"), text).unwrap();
    let answer = in_time(lab.client.reload(&ReloadRequest::default())).await.unwrap();
    assert_eq!(answer.result, ReloadResult::Applied);
    // The machine tells of a change, which is followed without a question.
    let device = format!("203.0.113.{weight}");
    lab.world.send_modify(|world| {
        let eth0 = world.reading.devices.get_mut("eth0").unwrap();
        eth0.addresses.push(device.parse().unwrap());
    });
    lab.status_when(|status| {
        let own = status.services.iter().find(|service| service.name == "own").unwrap();
        own.listen.addresses.contains(&device.parse().unwrap())
    })
    .await;
}

#[tokio::test]
async fn clients_that_stop_halfway_keep_nobody_waiting_however_many_they_are() {
    let listen = free();
    let own = "[[service]]\nname = \"own\"\nlisten = { interfaces = [\"eth0\"], port = 81 }\nbackends = [{ address = \"10.0.0.3:81\" }]\n";
    let config = format!("{CONFIG}{own}[settings.admin]\nlisten = \"{listen}\"\n");
    let (driver, lab) = Lab::start(&config).await;
    lab.flows(0, FLOWS);
    run(driver, async {
        for (way, weight) in [(Way::Socket(&lab), 9), (Way::Port(listen), 3)] {
            let mut unread = Vec::new();
            for _ in 0..UNREAD {
                let flows = "GET /api/v1/flows HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
                unread.push(in_time(way.say(flows)).await);
            }
            let mut half = Vec::new();
            for _ in 0..HALF {
                let body = "POST /api/v1/plan HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{\"name\":";
                half.push(in_time(way.say(body)).await);
            }
            let mut silent = Vec::new();
            for said in ["", "GET /api/v1/sta"].into_iter().cycle().take(SILENT) {
                silent.push(in_time(way.say(said)).await);
            }
            goes_on(&lab, way, weight).await;
            // They do not add up: the oldest are cut long before their time is over.
            let cut = in_time(async {
                for client in half.iter_mut().chain(&mut silent).take(SILENT + HALF - MOST) {
                    let read = client.read(&mut [0; 1]).await;
                    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
                }
            });
            cut.await;
            // Whoever is slow to read, and reads, has it all.
            let mut slow = unread.pop().unwrap();
            let mut text = String::new();
            in_time(slow.read_to_string(&mut text)).await.unwrap();
            assert_eq!(text.matches("\"client\"").count(), usize::from(FLOWS));
            assert!(text.ends_with("\r\n0\r\n\r\n"));
        }
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

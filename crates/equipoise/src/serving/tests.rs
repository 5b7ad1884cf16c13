//! Clients that say half of what they want, or read nothing: in memory, with buffers of a known size.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::routing::{get, post};
use futures_util::stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);
/// That which nobody lives to see.
const NEVER: Duration = Duration::from_secs(3600);
const FOREVER: Patience =
    Patience { agreeing: NEVER, head: NEVER, body: NEVER, unread: NEVER, most: 3 };
const SOON: Duration = Duration::from_millis(50);
/// What a connection holds that nobody reads.
const HELD: usize = 256;

/// A way in without a network.
struct Door(mpsc::UnboundedReceiver<DuplexStream>);

impl Entrance for Door {
    type Peer = &'static str;

    async fn accept(&mut self) -> io::Result<Accepted<&'static str>> {
        let Some(stream) = self.0.recv().await else { return std::future::pending().await };
        let stream: Stream = Box::new(stream);
        Ok(Accepted { by: "somebody", ready: Box::pin(std::future::ready(Ok(stream))) })
    }
}

/// What is served, and how many are let go on.
struct Served {
    door: mpsc::UnboundedSender<DuplexStream>,
    end: oneshot::Sender<()>,
    /// What `/slow` waits for.
    release: watch::Sender<bool>,
    /// How many wait for it.
    waiting: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

type Slow = (watch::Receiver<bool>, Arc<watch::Sender<usize>>);

async fn slow(State((mut released, waiting)): State<Slow>) -> &'static str {
    waiting.send_modify(|count| *count += 1);
    drop(released.wait_for(|is_released| *is_released).await);
    "slow"
}

/// A stream without an end, as whoever follows something gets.
async fn endless() -> Body {
    Body::from_stream(stream::repeat_with(|| Ok::<_, Infallible>("more and more ")))
}

fn served(patience: Patience) -> Served {
    let (door, incoming) = mpsc::unbounded_channel();
    let (end, ended) = oneshot::channel();
    let (release, released) = watch::channel(false);
    let (count, waiting) = watch::channel(0);
    let router = Router::new()
        .route("/", get(async || "here"))
        .route("/asked", post(async |body: Bytes| format!("{} bytes", body.len())))
        .route("/slow", get(slow))
        .route("/endless", get(endless))
        .with_state((released, Arc::new(count)));
    let serving = serve(Door(incoming), router, ended, patience);
    let task = tokio::spawn(async { serving.await.finish().await });
    Served { door, end, release, waiting, task }
}

impl Served {
    /// A client that has said so much.
    async fn client(&self, said: &str) -> DuplexStream {
        let (mut near, far) = duplex(HELD);
        self.door.send(far).unwrap();
        near.write_all(said.as_bytes()).await.unwrap();
        near
    }
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    timeout(DEADLINE, what).await.expect("it never came")
}

/// What a client gets until it is cut.
async fn rest(mut client: DuplexStream) -> String {
    let mut text = String::new();
    in_time(client.read_to_string(&mut text)).await.unwrap();
    text
}

const ASKED: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn whoever_says_half_a_head_is_cut() {
    let served = served(Patience { head: SOON, ..FOREVER });
    for said in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        let told = rest(served.client(said).await).await;
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 408"), "{said}: {told}");
    }
    // Also behind an answer.
    let told = rest(served.client("GET / HTTP/1.1\r\nHost: x\r\n\r\nGET").await).await;
    assert!(told.starts_with("HTTP/1.1 200") && told.contains("here"), "{told}");
}

#[tokio::test]
async fn whoever_says_half_a_body_is_told_so_and_cut() {
    let served = served(Patience { body: SOON, ..FOREVER });
    let head = "POST /asked HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n";
    let told = rest(served.client(&format!("{head}half")).await).await;
    assert!(told.starts_with("HTTP/1.1 400"), "{told}");
    let whole = head.replace("Host: x", "Host: x\r\nConnection: close");
    let told = rest(served.client(&format!("{whole}123456789")).await).await;
    assert!(told.starts_with("HTTP/1.1 200") && told.ends_with("9 bytes"), "{told}");
}

#[tokio::test]
async fn whoever_reads_nothing_is_cut() {
    let served = served(Patience { unread: SOON, ..FOREVER });
    let mut client = served.client(&ASKED.replace("/ ", "/endless ")).await;
    // Nothing can be said any more when it is cut: to write more is how that is seen without reading.
    in_time(async { while client.write_all(b" ").await.is_ok() {} }).await;
    let told = rest(client).await;
    assert!(told.starts_with("HTTP/1.1 200") && told.len() <= HELD, "{told}");
}

#[tokio::test]
async fn the_oldest_that_says_nothing_makes_room_and_who_is_answered_does_not() {
    let served = served(FOREVER);
    let answered = served.client(&ASKED.replace("/ ", "/slow ")).await;
    in_time(served.waiting.clone().wait_for(|count| *count == 1)).await.unwrap();
    let first = served.client("GET").await;
    let body = "POST /asked HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf";
    let second = served.client(body).await;
    let third = served.client("").await;
    assert_eq!(rest(first).await, "", "it has made room");
    assert!(rest(served.client(ASKED).await).await.ends_with("here"));
    assert_eq!(rest(second).await, "", "half a body is no better");
    let fourth = served.client("").await;
    assert!(rest(served.client(ASKED).await).await.ends_with("here"));
    assert_eq!(rest(third).await, "");
    served.release.send_replace(true);
    assert!(rest(answered).await.ends_with("slow"), "whoever waits for an answer gets it");
    drop(fourth);
}

#[tokio::test]
async fn where_all_are_answered_the_next_waits_and_who_does_not_read_makes_room() {
    let served = served(FOREVER);
    let slow = ASKED.replace("/ ", "/slow ");
    let mut answered = Vec::new();
    for count in 1..=2 {
        answered.push(served.client(&slow).await);
        in_time(served.waiting.clone().wait_for(|waiting| *waiting == count)).await.unwrap();
    }
    // It has a place until it is seen that it does not read on.
    let mut unread = served.client(&ASKED.replace("/ ", "/endless ")).await;
    assert_eq!(in_time(unread.read_u8()).await.unwrap(), b'H');
    assert!(rest(served.client(ASKED).await).await.ends_with("here"));
    let told = rest(unread).await;
    assert!(told.starts_with("TTP/1.1 200") && told.len() <= HELD, "{told}");
    answered.push(served.client(&slow).await);
    in_time(served.waiting.clone().wait_for(|waiting| *waiting == 3)).await.unwrap();
    let mut next = served.client(ASKED).await;
    assert!(timeout(SOON, next.read_u8()).await.is_err(), "three are served already");
    served.release.send_replace(true);
    for answered in answered {
        assert!(rest(answered).await.ends_with("slow"));
    }
    assert!(rest(next).await.ends_with("here"));
}

#[tokio::test]
async fn at_the_end_what_has_been_asked_is_answered_and_nobody_comes_in() {
    let served = served(FOREVER);
    let answered = served.client(&ASKED.replace("/ ", "/slow ")).await;
    in_time(served.waiting.clone().wait_for(|count| *count == 1)).await.unwrap();
    let mut kept = served.client("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut begin = [0; 12];
    in_time(kept.read_exact(&mut begin)).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    drop(served.end);
    assert!(rest(kept).await.ends_with("here"), "it is not kept any more");
    in_time(served.door.closed()).await;
    served.release.send_replace(true);
    assert!(rest(answered).await.ends_with("slow"));
    in_time(served.task).await.unwrap();
}

//! Flows that open and close, as they are told to whoever follows them and to the access log.
//!
//! The kernel tells numbers; names of services and routes are added here. Nobody waits for a follower: one that is too
//! slow loses its own oldest ones and is told how many.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use equipoise_common::event::Event;
use equipoise_common::flow::{Reason, State};
use equipoise_common::key::{Address as _, TCP, UDP, V4, V6};
use ipnet::IpNet;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::status::flow_event::FlowEvent;

/// Flow events that a follower may be behind.
pub const BEHIND: usize = 4096;
/// Nanoseconds of a tick, as the programs count time.
const TICK: u64 = 1 << 20;
/// Nanoseconds of a moment.
const MOMENT: u64 = 1 << 10;

/// Whose a flow is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Name of the service.
    pub service: Arc<str>,
    /// The route that leads to the pool: `default`, or its first source or name.
    pub route: Arc<str>,
}

/// Whose the backends are, by id.
pub type Owners = BTreeMap<u32, Owner>;

/// A flow that has closed, or opened.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) event: Event,
    pub(crate) at: SystemTime,
    pub(crate) owner: Option<Owner>,
}

impl Told {
    pub(crate) fn is_closed(&self) -> bool {
        self.event.what & Event::CLOSED != 0
    }

    pub(crate) fn protocol(&self) -> &'static str {
        match self.event.protocol {
            TCP => "tcp",
            UDP => "udp",
            _ => "other",
        }
    }

    /// Who or what has closed it; nothing where it opens.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        self.is_closed().then(|| Reason::from_number(self.event.why).name())
    }

    /// Nothing where it opens.
    pub(crate) fn duration_ms(&self) -> Option<f64> {
        self.is_closed().then(|| milliseconds(u64::from(self.event.duration) * TICK))
    }

    /// From the client's SYN to the packet that has confirmed the connection; none where none has.
    fn handshake_ms(&self) -> Option<f64> {
        (self.event.handshake > 0).then(|| milliseconds(self.event.handshake * MOMENT))
    }

    /// Client, VIP and backend.
    pub(crate) fn ends(&self) -> [SocketAddr; 3] {
        let event = &self.event;
        let place = |address: V6, is_v6: u16, port: u16| {
            let ip = if is_v6 == 0 { V4::unpack(address).into() } else { address.into() };
            SocketAddr::new(ip, port)
        };
        let (outside, inside) = (event.what & Event::IPV6, event.what & Event::BACKEND_IPV6);
        [
            place(event.client, outside, event.client_port.get()),
            place(event.vip, outside, event.vip_port.get()),
            place(event.backend_address, inside, event.backend_port.get()),
        ]
    }
}

/// Milliseconds of nanoseconds, to the microsecond.
fn milliseconds(nanoseconds: u64) -> f64 {
    (nanoseconds as f64 / 1e3).round() / 1e3
}

impl From<&Told> for FlowEvent {
    fn from(told: &Told) -> Self {
        let [client, vip, backend] = told.ends();
        let owner = told.owner.as_ref();
        let event = &told.event;
        Self {
            timestamp: humantime::format_rfc3339_millis(told.at).to_string(),
            event: if told.is_closed() { "closed" } else { "opened" }.into(),
            protocol: told.protocol().into(),
            client: client.into(),
            vip: vip.into(),
            backend: backend.into(),
            service: owner.map(|owner| owner.service.as_ref().to_owned()),
            route: owner.map(|owner| owner.route.as_ref().to_owned()),
            reason: told.reason().map(Cow::Borrowed),
            state: State::from_number(event.state as u8).name().into(),
            duration_ms: told.duration_ms(),
            handshake_ms: told.handshake_ms(),
            packets_in: event.packets_in,
            bytes_in: event.bytes_in,
            packets_out: event.packets_out,
            bytes_out: event.bytes_out,
        }
    }
}

/// Between whom flows are meant; what is absent does not limit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends {
    /// With port 0 for all ports of an address.
    pub(crate) backends: Option<Vec<SocketAddr>>,
    pub(crate) client: Option<IpNet>,
}

impl Ends {
    /// Whether a flow is between them.
    pub(crate) fn have(&self, client: IpAddr, backend: SocketAddr) -> bool {
        self.backends.as_ref().is_none_or(|all| all.iter().any(|one| is_at(backend, *one)))
            && self.client.is_none_or(|prefix| prefix.contains(&client))
    }
}

/// Which flows are told to a follower; what is absent does not limit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// By its name: an id may become another's while it is followed.
    pub(crate) service: Option<String>,
    pub(crate) ends: Ends,
}

impl Wanted {
    fn takes(&self, told: &Told) -> bool {
        let [client, _, backend] = told.ends();
        let owner = told.owner.as_ref();
        let of = |name: &String| owner.is_some_and(|owner| *owner.service == **name);
        self.service.as_ref().is_none_or(of) && self.ends.have(client.ip(), backend)
    }
}

/// Whether a flow is at a backend, which is meant with all ports if it has none.
fn is_at(flow: SocketAddr, backend: SocketAddr) -> bool {
    flow.ip() == backend.ip() && (backend.port() == 0 || flow.port() == backend.port())
}

/// Where flow events are told to followers.
#[derive(Clone, Debug)]
pub(crate) struct Feed(broadcast::Sender<Arc<Told>>);

impl Default for Feed {
    fn default() -> Self {
        Self(broadcast::channel(BEHIND).0)
    }
}

impl Feed {
    /// Whether anybody follows.
    pub(crate) fn is_followed(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// Tells all who follow.
    pub(crate) fn tell(&self, told: Told) {
        // The last of them may have gone meanwhile.
        let _: Result<_, _> = self.0.send(Arc::new(told));
    }

    /// From now on.
    pub(crate) fn follow(&self, wanted: Wanted) -> FlowFollower {
        FlowFollower { followed: self.0.subscribe(), wanted }
    }
}

/// Flow events as one follower gets them.
#[derive(Debug)]
pub struct FlowFollower {
    followed: broadcast::Receiver<Arc<Told>>,
    wanted: Wanted,
}

/// What a follower of flows is told.
#[derive(Clone, Debug, PartialEq)]
pub enum FlowTold {
    /// A flow has opened or closed.
    Flow(Box<FlowEvent>),
    /// So many flow events are lost to this follower, whether it wanted them or not.
    Lost(u64),
}

impl FlowFollower {
    /// Waits for the next one; none when the instance has ended.
    pub async fn next(&mut self) -> Option<FlowTold> {
        loop {
            match self.followed.recv().await {
                Ok(told) if self.wanted.takes(&told) => {
                    return Some(FlowTold::Flow(Box::new(FlowEvent::from(&*told))));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(lost)) => return Some(FlowTold::Lost(lost)),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use equipoise_common::key::Be16;

    use super::*;

    fn told(client: [u8; 4], service: Option<&str>) -> Told {
        let event = Event {
            what: Event::OPENED,
            client: IpAddr::from(client).into(),
            backend_address: IpAddr::from([10, 0, 0, 1]).into(),
            backend_port: Be16::new(80),
            ..Event::default()
        };
        let owner = service.map(|name| Owner { service: name.into(), route: "default".into() });
        Told { event, at: SystemTime::UNIX_EPOCH, owner }
    }

    #[test]
    fn what_is_wanted_is_told_apart_from_what_is_not() {
        let web = told([192, 0, 2, 7], Some("web"));
        let takes =
            |wanted: Wanted| [&web, &told([198, 51, 100, 7], None)].map(|one| wanted.takes(one));
        let between = |ends| Wanted { ends, ..Wanted::default() };
        assert_eq!(takes(Wanted::default()), [true, true]);
        let service = |name: &str| Wanted { service: Some(name.to_owned()), ..Wanted::default() };
        assert_eq!(takes(service("web")), [true, false]);
        assert_eq!(takes(service("other")), [false, false]);
        let client = Some("192.0.2.0/24".parse().unwrap());
        assert_eq!(takes(between(Ends { client, ..Ends::default() })), [true, false]);
        for (backend, is_it) in
            [("10.0.0.1:80", true), ("10.0.0.1:0", true), ("10.0.0.1:81", false)]
        {
            let backends = Some(vec![backend.parse().unwrap()]);
            assert_eq!(
                takes(between(Ends { backends, ..Ends::default() })),
                [is_it; 2],
                "{backend}"
            );
        }
    }

    #[tokio::test]
    async fn slow_follower_loses_its_own_oldest_and_is_told_how_many() {
        let feed = Feed::default();
        assert!(!feed.is_followed());
        let (mut slow, mut quick) =
            (feed.follow(Wanted::default()), feed.follow(Wanted::default()));
        assert!(feed.is_followed());
        for _ in 0..BEHIND + 10 {
            feed.tell(told([192, 0, 2, 7], Some("web")));
            assert!(matches!(quick.next().await, Some(FlowTold::Flow(_))));
        }
        assert_eq!(slow.next().await, Some(FlowTold::Lost(10)));
        assert!(matches!(slow.next().await, Some(FlowTold::Flow(_))));
        drop((feed, slow));
        assert_eq!(quick.next().await, None);
    }
}

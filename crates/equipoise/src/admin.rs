//! The admin API: HTTP and JSON on a Unix socket, and where that is configured on a port (`listener`).
//!
//! The server side (`routes`, [`server`]) sees a read-only [`Snapshot`] and a channel of
//! [`Command`]s, never the state; the client side ([`client`]) is what the commands of the command
//! line use. Errors are problem details (RFC 9457).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use equipoise_core::config::{Denial, Prefix, RateOf};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use self::peer::Peer;
use crate::config_file::Base;
use crate::events::Subscription;
use crate::flow_events::FlowFollower;
use crate::metrics::Counts;
use crate::status::change::{
    AddRequest, ReloadAnswer, ReloadRequest, RuntimeChange, WeightRequest,
};
use crate::status::explain::{ExplainAnswer, ExplainRequest};
use crate::status::health::{BackendHealth, BackendName, HealthFilter, HealthWord};
use crate::status::history::{Author, ConfirmAnswer, HistoryEntry};
use crate::status::limits::{Denied, DenyRequest, LimitsAnswer, RateRequest};
use crate::status::names::NameStatus;
use crate::status::operate::{
    BreakerRequest, BreakerStatus, DrainAnswer, DrainRequest, DrainStatus, DrainsAnswer,
    UndrainRequest,
};
use crate::status::pool::{EndAnswer, EndRequest, PoolShares};
use crate::status::talkers::{TalkersRequest, TopTalkers};
use crate::status::trace::{TraceFilter, TracedPacket};
use crate::status::{Flow, FlowFilter, PlanAnswer, PlanRequest, Status, StopAnswer, UpgradeAnswer};

mod accept;
pub mod client;
mod guard;
mod host;
pub mod listener;
pub mod lock;
pub mod peer;
pub mod problem;
mod routes;
mod secrets;
pub mod server;
mod tag;

pub use problem::ProblemDetails;
pub(crate) use secrets::{faults as file_faults, from_file};
pub use tag::Expected;

/// What can be told without asking the driver; published anew with each configuration taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The configuration that runs, as JSON.
    pub config: Value,
    /// Its number.
    pub generation: u64,
}

/// The receiving side of an answer.
pub type Reply<T> = oneshot::Sender<Result<T, ProblemDetails>>;

/// What the admin API asks the driver.
#[derive(Debug)]
pub enum Command {
    /// How it is.
    Status(Reply<Status>),
    /// Why new flows had better go elsewhere; nothing when it takes them.
    Unready(Reply<Option<String>>),
    /// What it counts of itself.
    Counts(Reply<Counts>),
    /// The flows that pass a filter, or a page of them.
    Flows(FlowFilter, Page, Reply<Listed>),
    /// The sources with most flows.
    Talkers(TalkersRequest, Reply<TopTalkers>),
    /// End flows.
    EndFlows(EndRequest, Reply<EndAnswer>),
    /// The limits of a service, or of all.
    Limits(Option<String>, Reply<LimitsAnswer>),
    /// Prefixes that are denied since the file was read.
    Denied(Reply<Vec<Denied>>),
    /// What the backends of the pools of a service get, or of one of them.
    Pools(OfPools, Reply<Vec<PoolShares>>),
    /// So, after its weights have been made anew from live flows.
    Recompute(OfPools, Reply<Vec<PoolShares>>),
    /// What a configuration would change, that somebody gives.
    Plan(PlanRequest, Peer, Reply<PlanAnswer>),
    /// What becomes of a packet.
    Explain(ExplainRequest, Reply<ExplainAnswer>),
    /// Give backends no new flows; answered when that is so, or when it is over.
    Drain(DrainRequest, Reply<DrainAnswer>),
    /// Give them new flows again.
    Undrain(UndrainRequest, Reply<Vec<DrainStatus>>),
    /// All drains.
    Drains(Reply<DrainsAnswer>),
    /// The breakers of a service, or of all.
    Breakers(Option<String>, Reply<Vec<BreakerStatus>>),
    /// Open, close or reset breakers.
    TurnBreaker(BreakerRequest, Reply<Vec<BreakerStatus>>),
    /// The names that are looked up.
    Names(Reply<Vec<NameStatus>>),
    /// Look a name up now; answered when that is done.
    RefreshNames(String, Reply<Vec<NameStatus>>),
    /// The health of backends.
    Health(HealthFilter, Reply<Vec<BackendHealth>>),
    /// An operator says how a backend is.
    SetHealth(BackendName, HealthWord, Reply<Vec<BackendHealth>>),
    /// Check a backend now; answered when that is done.
    CheckHealth(BackendName, Reply<Vec<BackendHealth>>),
    /// Take another configuration; answered when it is in the maps.
    Configure(Configure, Asker, Reply<ReloadAnswer>),
    /// The events from the one after this number on.
    Events(u64, Reply<Subscription>),
    /// Flows that pass a filter, as they open and close.
    FlowEvents(FlowFilter, Reply<FlowFollower>),
    /// The packets that pass a filter, as they come and leave.
    Trace(TraceFilter, Reply<mpsc::Receiver<TracedPacket>>),
    /// What was taken stays.
    Confirm(Reply<ConfirmAnswer>),
    /// Who has changed the configuration.
    History(Reply<Vec<HistoryEntry>>),
    /// What is otherwise than the file says.
    Changes(Reply<Vec<RuntimeChange>>),
    /// Run another binary in place of this process; answered when it runs.
    Upgrade(PathBuf, Reply<UpgradeAnswer>),
    /// Detach, remove everything, and end; answered when it is done.
    Stop(Reply<StopAnswer>),
}

/// Which part of a list is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Without so many at the beginning.
    pub offset: usize,
    /// So many at most; all if none.
    pub limit: Option<usize>,
}

/// A page of flows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listed {
    /// What is on it.
    pub flows: Vec<Flow>,
    /// How many there are on all pages.
    pub total: usize,
}

/// Who asks for another configuration, and in place of which one.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Who.
    pub by: Author,
    /// The one that it is to take the place of.
    pub expected: Expected,
}

/// What configuration is to be taken.
#[derive(Debug)]
pub enum Configure {
    /// That of the file, or of another one.
    Reload(ReloadRequest),
    /// With another weight of a backend.
    Weight(BackendName, WeightRequest),
    /// With one more backend in a pool of this service.
    Add(String, AddRequest),
    /// Without a backend.
    Remove(BackendName),
    /// That of a text, as an application has it in memory.
    Text(Base),
    /// With this service, given with the keys of a file.
    Service(String, Value, Existing),
    /// Without a service.
    WithoutService(String),
    /// With other rates of a service.
    Rates(String, Vec<RateOf>, RateRequest),
    /// Without clients of a prefix.
    Deny(Prefix, DenyRequest),
    /// With them again.
    AllowAgain(Denial),
    /// Without what has been denied until now.
    Expire,
}

impl Configure {
    /// Whether it has files of this host read, or commands run on it, that whoever asks has chosen: others than
    /// those of the same service in the configuration that runs.
    fn reaches_into_host(&self, running: &Value) -> bool {
        match self {
            Self::Reload(request) => request.file.is_some(),
            Self::Service(name, table, _) => {
                !host::named_by(table).is_subset(&host::named_by_service(running, name))
            }
            Self::Weight(..) | Self::Add(..) | Self::Remove(_) | Self::Text(_) => false,
            Self::WithoutService(_) | Self::Rates(..) => false,
            Self::Deny(..) | Self::AllowAgain(_) | Self::Expire => false,
        }
    }
}

/// What becomes of a service of the same name that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the new one is refused.
    Stays,
    /// It is replaced.
    IsReplaced,
}

/// Which pools of a service are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfPools {
    /// Name of the service.
    pub service: String,
    /// The pool of this route alone: `default`, or its first source or name.
    pub route: Option<String>,
}

/// Long lists of flows that are in memory at a time, on one way in: one of a million takes some 250 MB.
const LISTS: usize = 4;
/// Flows that make a list a long one.
const LONG: usize = 50_000;
/// How long one more waits for its turn.
const TURN_WITHIN: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 10_000 });
/// Followers of events and packets at a time, on one way in: they have a connection each for as long as they like, and others are
/// to get one, too.
const FOLLOWERS: usize = 64;

/// What the admin API works with.
#[derive(Clone, Debug)]
pub struct Access {
    /// Asks the driver.
    pub commands: mpsc::Sender<Command>,
    /// What it has published.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Who lists flows: one at a time, since the instance does nothing else meanwhile.
    listing: Arc<Semaphore>,
    lists: Arc<Semaphore>,
    followers: Arc<Semaphore>,
}

impl Access {
    /// By these.
    pub fn new(commands: mpsc::Sender<Command>, snapshot: watch::Receiver<Arc<Snapshot>>) -> Self {
        let [listing, lists, followers] =
            [1, LISTS, FOLLOWERS].map(|most| Arc::new(Semaphore::new(most)));
        Self { commands, snapshot, listing, lists, followers }
    }

    /// The same for another way in, whose clients are counted by themselves.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::new(self.commands.clone(), self.snapshot.clone())
    }

    /// Flows, with the place that a long list has in memory, for as long as it is there.
    async fn list(
        &self,
        filter: FlowFilter,
        page: Page,
    ) -> Result<(Listed, Option<OwnedSemaphorePermit>), ProblemDetails> {
        let turns = async {
            let place = Arc::clone(&self.lists).acquire_owned().await.ok()?;
            Some((place, self.listing.acquire().await.ok()?))
        };
        let turns = timeout(TURN_WITHIN, turns).await.ok().flatten();
        let (place, _turn) = turns.ok_or_else(|| {
            ProblemDetails::busy("others list flows, as many as may at a time; try again")
        })?;
        let listed = self.ask(|reply| Command::Flows(filter, page, reply)).await?;
        let place = (listed.flows.len() > LONG).then_some(place);
        Ok((listed, place))
    }

    /// The place of a follower, for as long as it follows.
    fn follower(&self) -> Result<OwnedSemaphorePermit, ProblemDetails> {
        Arc::clone(&self.followers).try_acquire_owned().map_err(|_| {
            ProblemDetails::busy(format!(
                "{FOLLOWERS} others follow already, which are as many as may"
            ))
        })
    }

    /// Asks the driver, and waits for the answer.
    ///
    /// # Errors
    ///
    /// What the driver says is wrong, or that it is ending.
    pub async fn ask<T>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, ProblemDetails> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| ProblemDetails::ending())?;
        answer.await.map_err(|_| ProblemDetails::ending())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An instance that has so many flows, and answers nothing else.
    fn with_flows(number: usize) -> Access {
        let (commands, mut asked) = mpsc::channel(8);
        let flow = Flow {
            protocol: "tcp".to_owned(),
            client: "198.51.100.7:4242".parse().unwrap(),
            vip: "203.0.113.10:80".parse().unwrap(),
            backend: "10.0.0.1:8080".parse().unwrap(),
            service: None,
            state: "established".to_owned(),
            age_seconds: 0.0,
            idle_seconds: 0.0,
            packets_in: 0,
            bytes_in: 0,
            packets_out: 0,
            bytes_out: 0,
        };
        tokio::spawn(async move {
            while let Some(Command::Flows(_, _, reply)) = asked.recv().await {
                let listed = Listed { flows: vec![flow.clone(); number], total: number };
                drop(reply.send(Ok(listed)));
            }
        });
        let (_, snapshot) = watch::channel(Arc::default());
        Access::new(commands, snapshot)
    }

    #[tokio::test]
    async fn long_lists_are_as_many_as_there_is_room_for_and_short_ones_are_not_counted() {
        let list =
            async |access: &Access| access.list(FlowFilter::default(), Page::default()).await;
        let many = with_flows(LONG + 1);
        let mut held = Vec::new();
        for _ in 0..LISTS {
            held.push(list(&many).await.unwrap());
        }
        assert_eq!(list(&many).await.unwrap_err().status, 503);
        let (waiting, ()) = tokio::join!(list(&many), async { drop(held.pop()) });
        assert!(waiting.is_ok(), "it waits for its turn");
        assert_eq!(list(&many.again()).await.unwrap().0.total, LONG + 1, "another way in");
        let few = with_flows(LONG);
        let mut held = Vec::new();
        for _ in 0..10 * LISTS {
            held.push(list(&few).await.unwrap());
        }
    }

    #[tokio::test]
    async fn followers_are_as_many_as_leave_room_for_others() {
        let access = with_flows(0);
        let mut held: Vec<_> = (0..FOLLOWERS).map(|_| access.follower().unwrap()).collect();
        assert_eq!(access.clone().follower().unwrap_err().status, 503);
        held.pop();
        assert!(access.follower().is_ok());
    }
}

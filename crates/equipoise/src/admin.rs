//! The admin API: HTTP and JSON on a Unix socket, and where that is configured on a port (`listener`).
//!
//! The server side (`routes`, [`server`]) sees a read-only [`Snapshot`] and a channel of
//! [`Command`]s, never the state; the client side ([`client`]) is what the commands of the command
//! line use. Errors are problem details (RFC 9457).

use std::path::PathBuf;
use std::sync::Arc;

use equipoise_core::config::{Denial, Prefix, RateOf};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::config_file::Base;
use crate::events::Subscription;
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
pub mod listener;
pub mod lock;
pub mod peer;
pub mod problem;
mod routes;
mod secrets;
pub mod server;
mod tag;

pub use problem::ProblemDetails;
pub(crate) use secrets::from_file;
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
    /// What it counts of itself.
    Counts(Reply<Counts>),
    /// The flows that pass a filter.
    Flows(FlowFilter, Reply<Vec<Flow>>),
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
    /// What a configuration would change.
    Plan(PlanRequest, Reply<PlanAnswer>),
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
    Service(String, Value),
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

/// Which pools of a service are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfPools {
    /// Name of the service.
    pub service: String,
    /// The pool of this route alone: `default`, or its first source or name.
    pub route: Option<String>,
}

/// What the admin API works with.
#[derive(Clone, Debug)]
pub struct Access {
    /// Asks the driver.
    pub commands: mpsc::Sender<Command>,
    /// What it has published.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
}

impl Access {
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

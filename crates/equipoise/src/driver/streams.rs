//! Connections that this host takes up itself, beside the flows of the data plane: asked about together, and ended together.
//!
//! The worker that takes them up knows how they go on before the maps lead any to it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use equipoise_common::flow::Reason;
use equipoise_common::value::{Fate, Traffic};
use equipoise_core::config::Config;
use equipoise_core::plan::denies;
use equipoise_core::state::State;
use tokio::time::Instant;

use super::Driver;
use super::trouble::Topic;
use crate::dataplane::DataPlane;
use crate::dataplane::kernel::{Farewell, FlowRow, KernelError};
use crate::host::Machine;
use crate::stream::table::Table;
use crate::stream::{Keeper, Number, Row};

/// How many, by a reason's name.
pub(super) type Reasons = BTreeMap<String, u64>;

/// Whether this configuration has connections taken up here.
fn takes_up(config: &Config) -> bool {
    let mut services = config.services.iter();
    let is_any = services.any(|service| service.pools().any(|pool| service.is_streamed(&pool)));
    is_any && !config.settings.observe
}

/// There is somebody to take up connections, if there are to be any. How they go on is told once it is planned.
pub(super) async fn begin<P: DataPlane>(
    streams: &mut Keeper,
    plane: &mut P,
    config: &Config,
) -> Result<(), String> {
    if !takes_up(config) {
        return Ok(());
    }
    let lead = |listener: BorrowedFd<'_>| {
        plane.listen_by([listener, listener]).map_err(|error| error.to_string())
    };
    streams.begin(lead).await.map_err(|error| error.to_string())
}

/// How connections go on by what is planned.
pub(super) fn table(state: &State) -> Table {
    let config = state.config();
    if config.settings.observe {
        return Table::default();
    }
    Table::of(config, state.planned())
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// At the start: what the process before has had taken up goes on.
    pub(super) async fn start_streams(&mut self) {
        self.begin_streams().await;
        self.streams.retire();
    }

    /// There is somebody to take up connections, if there are to be any.
    pub(super) async fn begin_streams(&mut self) {
        let begun = begin(&mut self.streams, &mut self.plane, self.state.config()).await;
        self.troubles.note(Topic::Streams, begun);
    }

    /// Tells how connections go on by what is planned.
    pub(super) fn tell_streams(&mut self) {
        if let Err(error) = self.streams.tell(table(&self.state)) {
            self.troubles.note(Topic::Streams, Err(error.to_string()));
            self.troubles.schedule(Instant::now());
        }
    }

    /// Takes up what workers have told.
    pub(super) fn take_stream_news(&mut self) {
        let (events, lost) = self.streams.mirror().take_events();
        if self.state.config().settings.events {
            self.events.tell(events);
            self.events.lose(lost);
        }
        if self.streams.is_broken() {
            self.due.settle = true;
        }
    }

    /// The live flows of a backend, by id.
    pub(super) fn live_flows(&self, backend: u32) -> u64 {
        self.plane.live_flows(backend) + self.streams.mirror().live(backend)
    }

    /// So, without those that are over and wait for what may still come.
    pub(super) fn open_flows_of(&self, backend: u32) -> u64 {
        self.plane.open_flows(backend) + self.streams.mirror().live(backend)
    }

    /// Calls `each` for every flow, until it answers false; says whether it never has.
    pub(super) fn each_flow(
        &self,
        each: &mut dyn FnMut(FlowRow) -> bool,
    ) -> Result<(), KernelError> {
        let mut goes_on = true;
        self.plane.flows(&mut |row| {
            goes_on = each(row);
            goes_on
        })?;
        if goes_on {
            self.streams.mirror().each(|_, row| each(row.flow));
        }
        Ok(())
    }

    /// What has gone through services and backends, by id: flows of the data plane, and connections.
    pub(super) fn traffic(
        &self,
        (services, backends): (&[u32], &[u32]),
    ) -> Result<[BTreeMap<u32, Traffic>; 2], KernelError> {
        let planned = self.state.planned();
        let mut of_services = self.plane.service_traffic(services)?;
        let mut of_backends = self.plane.backend_traffic(backends)?;
        let [streamed, behind] = self.streams.mirror().traffic();
        for ((id, holder), traffic) in streamed {
            if planned.service_holders.get(&id).is_some_and(|held| held.0 == holder) {
                *of_services.entry(id).or_default() += traffic;
            }
        }
        for ((id, holder), traffic) in behind {
            if planned.backends.get(&id).is_some_and(|held| held.holder.0 == holder) {
                *of_backends.entry(id).or_default() += traffic;
            }
        }
        Ok([of_services, of_backends])
    }

    /// Connections that were taken up and came to no backend, by reason: of each service, by id, and of all that there have been.
    pub(super) fn refused_streams(&self) -> (BTreeMap<u32, Reasons>, Reasons) {
        let holders = &self.state.planned().service_holders;
        let (mut of_services, mut of_all) = (BTreeMap::new(), Reasons::new());
        for ((id, holder), reasons) in self.streams.mirror().refused() {
            for (why, count) in &reasons {
                *of_all.entry(why.clone()).or_default() += count;
            }
            if holders.get(&id).is_some_and(|held| held.0 == holder) {
                of_services.insert(id, reasons);
            }
        }
        (of_services, of_all)
    }

    /// Ends connections that are wanted; says how many.
    fn end_streams(&self, mut wanted: impl FnMut(&Row) -> bool, why: Reason) -> u64 {
        let mut ended: Vec<Number> = Vec::new();
        self.streams.mirror().each(|number, row| {
            if wanted(&row) {
                ended.push(number);
            }
            true
        });
        self.streams.end(&ended, why as u32);
        ended.len() as u64
    }

    /// Ends all flows that are wanted; says how many.
    pub(super) fn end_wanted(
        &mut self,
        mut wanted: impl FnMut(&FlowRow) -> bool,
        farewell: Farewell,
    ) -> u64 {
        let expiry = self.plane.end_flows(&mut wanted, farewell);
        self.events.tell(expiry.events);
        expiry.cut + self.end_streams(|row| wanted(&row.flow), Reason::ByHand)
    }

    /// Ends all flows whose clients have come to be denied; says how many.
    pub(super) fn cut_denied(&mut self) -> u64 {
        let expiry = self.plane.cut_denied();
        self.events.tell(expiry.events);
        let access = &self.state.planned().access;
        let is_denied = |client: IpAddr, service| denies(access, service, client);
        let wanted = |row: &Row| is_denied(row.flow.client.ip(), row.flow.service);
        expiry.cut + self.end_streams(wanted, Reason::Denied)
    }

    /// Ends connections whose backend has gone since they were opened, where their service wants that. One that is to choose
    /// anew would come to a backend that knows nothing of it.
    pub(super) fn cut_gone(&self) {
        let backends = &self.state.planned().backends;
        let is_gone = |row: &Row| {
            backends.get(&row.flow.backend).is_some_and(|backend| {
                let is_kept = backend.value.fate == Fate::Keep as u8;
                backend.value.generation != row.generation && !is_kept
            })
        };
        self.end_streams(is_gone, Reason::BackendGone);
    }
}

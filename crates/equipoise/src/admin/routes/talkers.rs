//! Which sources have most.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::get;
use equipoise_common::verdict::{Kind, Verdict};
use etherparse::{LaxNetSlice, LaxSlicedPacket};
use tokio::time::{Instant, timeout_at};

use super::Route;
use super::events::time;
use crate::admin::{Access, Command, ProblemDetails};
use crate::status::explain::packet;
use crate::status::talkers::{DroppedRequest, ServiceTalkers, TalkersRequest, TopTalkers};
use crate::status::trace::{TraceFilter, TracedPacket};
use crate::talkers::Sketch;

/// Dropped packets that are looked at in a second on each CPU; of more than that, a sample is.
const RATE: u32 = 10_000;
/// The longest that is looked at.
const LONGEST: f64 = 3600.0;

pub(super) fn routes() -> Vec<Route> {
    vec![("/api/v1/top-talkers", get(talkers)), ("/api/v1/top-talkers/dropped", get(dropped))]
}

#[utoipa::path(get, path = "/api/v1/top-talkers", tag = "flows", summary = "The sources with most flows of each service", params(TalkersRequest), responses((status = 200, description = "What is asked for", body = TopTalkers), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn talkers(
    State(access): State<Access>,
    request: Result<Query<TalkersRequest>, QueryRejection>,
) -> Result<Json<TopTalkers>, ProblemDetails> {
    let Query(request) = request?;
    access.ask(|reply| Command::Talkers(request, reply)).await.map(Json)
}

#[utoipa::path(get, path = "/api/v1/top-talkers/dropped", tag = "flows", summary = "The sources of most packets that are dropped, looked at for some time; by the socket alone", params(DroppedRequest), responses((status = 200, description = "What is asked for", body = TopTalkers), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn dropped(
    State(access): State<Access>,
    request: Result<Query<DroppedRequest>, QueryRejection>,
) -> Result<Json<TopTalkers>, ProblemDetails> {
    let Query(DroppedRequest { service, for_seconds, limit }) = request?;
    let seconds = for_seconds.unwrap_or(DroppedRequest::SECONDS);
    let time = time(seconds, LONGEST)?;
    let drops = Verdict::ALL.iter().filter(|verdict| verdict.kind() == Kind::Drop);
    let reasons: Vec<&str> = drops.map(|verdict| verdict.name()).collect();
    let filter = TraceFilter { service, reason: Some(reasons.join(",")), rate: Some(RATE) };
    // From when the programs tell of packets, which takes seconds.
    let mut packets = access.ask(|reply| Command::Trace(filter, reply)).await?;
    let until = Instant::now() + time;
    let mut counted: BTreeMap<Option<String>, Sketch> = BTreeMap::new();
    let mut skipped = 0;
    while let Ok(Some(packet)) = timeout_at(until, packets.recv()).await {
        skipped += packet.skipped;
        if let Some(source) = source(&packet) {
            counted.entry(packet.service).or_default().add(source.into());
        }
    }
    let limit = limit.unwrap_or(TalkersRequest::LIMIT);
    let of = |(service, sketch): (Option<String>, Sketch)| {
        ServiceTalkers::of(service, sketch.total(), &sketch.talkers(), limit)
    };
    let services = counted.into_iter().map(of).collect();
    Ok(Json(TopTalkers { over_seconds: Some(seconds), services, skipped }))
}

/// Where a packet comes from, as far as it can be read.
fn source(traced: &TracedPacket) -> Option<IpAddr> {
    let bytes = packet(&traced.hex).ok()?;
    match LaxSlicedPacket::from_ethernet(&bytes).ok()?.net? {
        LaxNetSlice::Ipv4(ip) => Some(ip.header().source_addr().into()),
        LaxNetSlice::Ipv6(ip) => Some(ip.header().source_addr().into()),
        LaxNetSlice::Arp(_) => None,
    }
}

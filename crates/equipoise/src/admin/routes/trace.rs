//! Packets, as server-sent events (WHATWG HTML, section 9.2), for as long as somebody listens.

use std::convert::Infallible;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::get;
use futures_util::Stream;
use futures_util::stream::unfold;

use super::Route;
use super::events::Sent;
use crate::admin::{Access, Command, ProblemDetails};
use crate::status::trace::TraceFilter;

pub(super) fn routes() -> Vec<Route> {
    vec![("/api/v1/trace", get(trace))]
}

#[utoipa::path(get, path = "/api/v1/trace", tag = "flows", summary = "Packets as they come and leave, as server-sent events", params(TraceFilter), responses((status = 200, description = "What is asked for", body = Sent, content_type = "text/event-stream"), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn trace(
    State(access): State<Access>,
    filter: Result<Query<TraceFilter>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ProblemDetails> {
    let Query(filter) = filter?;
    let place = access.follower()?;
    let packets = access.ask(|reply| Command::Trace(filter, reply)).await?;
    let stream = unfold((packets, place), |(mut packets, place)| async move {
        let packet = packets.recv().await?;
        let text = serde_json::to_string(&packet).unwrap_or_default();
        Some((Ok(Event::default().event("packet").data(text)), (packets, place)))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

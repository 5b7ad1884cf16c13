//! Events, as server-sent events (WHATWG HTML, section 9.2): the last ones, and then those that come.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::get;
use futures_util::Stream;
use futures_util::stream::unfold;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::Route;
use crate::admin::{Access, Command, ProblemDetails};
use crate::events::Told;
use crate::flow_events::FlowTold;
use crate::status::FlowFilter;
use crate::status::flow_event::FlowEventsRequest;

/// How a follower that has lost its connection says what it has seen.
const LAST_SEEN: &str = "last-event-id";

pub(super) fn routes() -> Vec<Route> {
    vec![("/api/v1/events", get(events)), ("/api/v1/flows/events", get(flow_events))]
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Whether those that come are wanted, too.
    #[serde(default = "yes")]
    follow: bool,
    /// Only those after this number; all of them where it has not been reached, which is then of an earlier process.
    #[param(maximum = 18_446_744_073_709_551_615_u64)]
    after: Option<u64>,
}

/// One of the events of a stream, by the fields that it has there.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it stands for its place in the document")]
pub(super) struct Sent {
    /// What an event of an instance can be asked for again by.
    id: Option<String>,
    /// Its kind; `lost` where some are.
    event: String,
    /// All of it, as JSON.
    data: String,
}

fn yes() -> bool {
    true
}

#[utoipa::path(get, path = "/api/v1/events", tag = "instance", summary = "Events, as server-sent events", params(Wanted), responses((status = 200, description = "What is asked for", body = Sent, content_type = "text/event-stream"), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn events(
    State(access): State<Access>,
    headers: HeaderMap,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ProblemDetails> {
    let Query(Wanted { follow, after }) = wanted?;
    let seen = headers.get(LAST_SEEN).and_then(|value| value.to_str().ok()?.parse().ok());
    let after = after.or(seen).unwrap_or_default();
    let place = follow.then(|| access.follower()).transpose()?;
    let subscription = access.ask(|reply| Command::Events(after, reply)).await?;
    let stream = unfold((subscription, place), move |(mut subscription, place)| async move {
        let told = if follow { subscription.next().await } else { subscription.take_kept() };
        Some((Ok(written(told?)), (subscription, place)))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

fn written(told: Told) -> Event {
    match told {
        Told::Event(event) => {
            let text = serde_json::to_string(&*event).unwrap_or_default();
            Event::default().id(event.sequence.to_string()).event(event.kind.name()).data(text)
        }
        Told::Lost(count) => lost(count),
    }
}

fn lost(count: u64) -> Event {
    Event::default().event("lost").data(format!("{{\"lost\":{count}}}"))
}

#[utoipa::path(get, path = "/api/v1/flows/events", tag = "flows", summary = "Flows as they open and close, as server-sent events", params(FlowEventsRequest), responses((status = 200, description = "What is asked for: as the access log has it, `opened` or `closed`", body = Sent, content_type = "text/event-stream"), (status = "default", description = "A problem", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn flow_events(
    State(access): State<Access>,
    request: Result<Query<FlowEventsRequest>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ProblemDetails> {
    let Query(FlowEventsRequest { service, backend, client, for_seconds }) = request?;
    let time = for_seconds.map(|seconds| time(seconds, FlowEventsRequest::LONGEST)).transpose()?;
    let until = time.map(|time| Instant::now() + time);
    let place = access.follower()?;
    let filter = FlowFilter { service, backend, client };
    let follower = access.ask(|reply| Command::FlowEvents(filter, reply)).await?;
    let stream = unfold((follower, place), move |(mut follower, place)| async move {
        let next = follower.next();
        let told = match until {
            Some(until) => timeout_at(until, next).await.ok()?,
            None => next.await,
        };
        let told = match told? {
            FlowTold::Flow(flow) => {
                let text = serde_json::to_string(&flow).unwrap_or_default();
                Event::default().event(&*flow.event).data(text)
            }
            FlowTold::Lost(count) => lost(count),
        };
        Some((Ok(told), (follower, place)))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

/// So many seconds that are asked for.
pub(super) fn time(seconds: f64, longest: f64) -> Result<Duration, ProblemDetails> {
    if !(seconds > 0.0 && seconds <= longest) {
        let message = format!("for_seconds: {seconds} is not more than 0 and at most {longest}");
        return Err(ProblemDetails::unprocessable(message));
    }
    Ok(Duration::from_secs_f64(seconds))
}

//! `equipoise events`: what has changed, with `--follow` what changes, and with `--flows` flows as they open and close.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde::Serialize;

use super::args::{Events, Global};
use super::{Exit, Failure, flows, following, print, print_json};
use crate::admin::client::{Told, Wanted};
use crate::events::Event;
use crate::flow_events::FlowTold;
use crate::status::FlowFilter;
use crate::status::flow_event::FlowEvent;

pub(super) async fn events(global: &Global, asked: &Events) -> Result<(), Failure> {
    let filter = flows::filter(&asked.which)?;
    if asked.flows {
        return flow_events(global, asked, &filter).await;
    }
    if filter != FlowFilter::default() {
        let message = "--service, --backend and --client say which flows, and `--flows` that it is about them";
        return Err(Failure::new(Exit::Usage, message));
    }
    let wanted = Wanted { follows: asked.follow, after: 0 };
    let mut stream = global.patient_client().events(wanted).await?;
    let mut all = Vec::new();
    following::each(
        asked.enough,
        async || stream.next().await,
        |told| {
            match told {
                // One value, as every command gives one; those that never end are a line each.
                Told::Event(event) if global.json && !asked.follow => all.push(event),
                Told::Event(event) if global.json => print_line(&event)?,
                Told::Event(event) => print(&shown(&event))?,
                Told::Lost(lost) => {
                    eprintln!("{lost} events are not kept any more");
                    return Ok(false);
                }
            }
            Ok(true)
        },
    )
    .await?;
    if global.json && !asked.follow { print_json(&all) } else { Ok(()) }
}

async fn flow_events(global: &Global, asked: &Events, filter: &FlowFilter) -> Result<(), Failure> {
    let mut stream = global.patient_client().flow_events(filter).await?;
    following::each(
        asked.enough,
        async || stream.next().await,
        |told| {
            match told {
                FlowTold::Flow(flow) if global.json => print_line(&flow)?,
                FlowTold::Flow(flow) => print(&shown_flow(&flow))?,
                FlowTold::Lost(lost) => {
                    eprintln!("{lost} flow events are lost: they came faster than they were read");
                    return Ok(false);
                }
            }
            Ok(true)
        },
    )
    .await
}

fn print_line(value: &impl Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value).map_err(Failure::failed)?;
    print(&format!("{line}\n"))
}

fn shown_flow(flow: &FlowEvent) -> String {
    let [client, vip, backend] = [flow.client, flow.vip, flow.backend].map(SocketAddr::from);
    let FlowEvent { timestamp, event, protocol, .. } = flow;
    let mut line = format!("{timestamp} {event} {protocol} {client} -> {vip} at {backend}");
    // Memory refuses nothing.
    let mut add = |part: std::fmt::Arguments<'_>| _ = line.write_fmt(part);
    if let Some(service) = &flow.service {
        add(format_args!(" of {service}"));
    }
    if let Some(route) = flow.route.as_ref().filter(|route| *route != "default") {
        add(format_args!(" from {route}"));
    }
    if let (Some(reason), Some(took)) = (&flow.reason, flow.duration_ms) {
        let FlowEvent { state, packets_in, packets_out, bytes_in, bytes_out, .. } = flow;
        add(format_args!(
            ": {reason} when {state}, after {:.1} s, {packets_in}/{packets_out} packets and {bytes_in}/{bytes_out} bytes in/out",
            took / 1e3
        ));
    }
    line.push('\n');
    line
}

fn shown(event: &Event) -> String {
    let Event { sequence, time, kind, service, route, backend, from, to, why } = event;
    let mut line = format!("{sequence:>5} {time} {}", kind.name());
    for part in [backend, service].into_iter().flatten() {
        line.push_str(&format!(" {part}"));
    }
    if let Some(route) = route.as_ref().filter(|route| *route != "default") {
        line.push_str(&format!(" from {route}"));
    }
    match (from, to) {
        (Some(from), Some(to)) => line.push_str(&format!(": {from} -> {to}")),
        (Some(one), None) | (None, Some(one)) => line.push_str(&format!(": {one}")),
        (None, None) => {}
    }
    if let Some(why) = why {
        line.push_str(&format!(" ({why})"));
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Kind;
    use crate::status::flow_event::Place;

    #[test]
    fn event_is_one_line_with_all_that_is_known() {
        let event = Event { sequence: 7, time: "now".into(), ..Event::new(Kind::Health) };
        let event = Event { backend: Some("10.0.0.1:80".into()), ..event.of("web", "10.0.0.0/8") };
        let event = event.from("healthy").to("unhealthy").because("timeout: late");
        let line = "    7 now health 10.0.0.1:80 web from 10.0.0.0/8: healthy -> unhealthy (timeout: late)\n";
        assert_eq!(shown(&event), line);
        let event = Event { time: "now".into(), ..Event::new(Kind::Started) };
        assert_eq!(shown(&event), "    0 now started\n");
    }

    #[test]
    fn flow_is_one_line_and_has_an_end_when_it_has_closed() {
        let place = |text: &str| Place::from(text.parse::<SocketAddr>().unwrap());
        let opened = FlowEvent {
            timestamp: "now".into(),
            event: "opened".into(),
            protocol: "tcp".into(),
            client: place("198.51.100.7:4242"),
            vip: place("203.0.113.10:80"),
            backend: place("[2001:db8::1]:8080"),
            service: Some("web".into()),
            route: Some("10.0.0.0/8".into()),
            reason: None,
            state: "opening".into(),
            duration_ms: None,
            handshake_ms: None,
            packets_in: 1,
            bytes_in: 60,
            packets_out: 0,
            bytes_out: 0,
        };
        let line = "now opened tcp 198.51.100.7:4242 -> 203.0.113.10:80 at [2001:db8::1]:8080 of web from 10.0.0.0/8\n";
        assert_eq!(shown_flow(&opened), line);
        let closed = FlowEvent {
            event: "closed".into(),
            service: None,
            route: None,
            reason: Some("client_fin".into()),
            state: "established".into(),
            duration_ms: Some(1_249.0),
            packets_out: 4,
            bytes_out: 700,
            ..opened
        };
        let line = "now closed tcp 198.51.100.7:4242 -> 203.0.113.10:80 at [2001:db8::1]:8080: client_fin when established, \
                    after 1.2 s, 1/4 packets and 60/700 bytes in/out\n";
        assert_eq!(shown_flow(&closed), line);
    }
}

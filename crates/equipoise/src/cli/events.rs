//! `equipoise events`: what has changed, and with `--follow` what changes.

use super::args::{Events, Global};
use super::{Failure, print, print_json};
use crate::admin::client::{Told, Wanted};
use crate::events::Event;

pub(super) async fn events(global: &Global, asked: &Events) -> Result<(), Failure> {
    let wanted = Wanted { follows: asked.follow, after: 0 };
    let mut stream = global.patient_client().events(wanted).await?;
    let mut all = Vec::new();
    while let Some(told) = stream.next().await? {
        match told {
            // One value, as every command gives one; those that never end are a line each.
            Told::Event(event) if global.json && !asked.follow => all.push(event),
            Told::Event(event) if global.json => {
                let line = serde_json::to_string(&event).map_err(Failure::failed)?;
                print(&format!("{line}\n"))?;
            }
            Told::Event(event) => print(&shown(&event))?,
            Told::Lost(lost) => eprintln!("{lost} events are not kept any more"),
        }
    }
    if global.json && !asked.follow { print_json(&all) } else { Ok(()) }
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
}

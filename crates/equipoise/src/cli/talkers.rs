//! `equipoise top-talkers`: the sources with most flows, new flows, or packets that are dropped.

use std::time::Duration;

use super::args::{Global, Most, TopTalkers as Asked};
use super::{Exit, Failure, json, table, watch};
use crate::status::talkers::{DroppedRequest, ServiceTalkers, TalkersRequest, TopTalkers};

pub(super) async fn talkers(global: &Global, asked: &Asked) -> Result<(), Failure> {
    if asked.time.is_some() && asked.by != Most::Dropped {
        let message =
            "--for: only packets that are dropped are looked at for a time (--by dropped)";
        return Err(Failure::new(Exit::Usage, message));
    }
    let Asked { limit, .. } = *asked;
    let service = || asked.service.clone();
    watch::show(asked.watch, async || {
        // Packets are looked at for a time before there is an answer.
        let client = global.patient_client();
        let told = match asked.by.counted() {
            Some(by) => {
                client.talkers(&TalkersRequest { service: service(), by: Some(by), limit }).await?
            }
            None => {
                let for_seconds = asked.time.map(|time| time.as_secs_f64());
                client.dropped(&DroppedRequest { service: service(), for_seconds, limit }).await?
            }
        };
        if global.json { json(&told) } else { Ok(shown(&told, asked.by)) }
    })
    .await
}

fn shown(told: &TopTalkers, by: Most) -> String {
    let what = match by {
        Most::NewFlows => "NEW FLOWS",
        Most::LiveFlows => "FLOWS",
        Most::Dropped => "DROPPED",
    };
    let mut table = table(&["SERVICE", "SOURCE", what, "PART"]);
    for ServiceTalkers { service, total, sources } in &told.services {
        for talker in sources {
            let count = if talker.at_least == talker.at_most {
                talker.at_least.to_string()
            } else {
                format!("{} to {}", talker.at_least, talker.at_most)
            };
            let service = service.as_deref().unwrap_or("-");
            let part = format!("{:.1} %", talker.at_least as f64 / *total as f64 * 100.0);
            table.add_row([service, &talker.source, &count, &part]);
        }
    }
    let mut text = if told.services.is_empty() { String::new() } else { format!("{table}\n") };
    text.push_str(match (told.services.is_empty(), by) {
        (false, _) => "",
        (true, Most::Dropped) => "no packet was dropped\n",
        (true, Most::NewFlows | Most::LiveFlows) => "0 flows\n",
    });
    if let Some(seconds) = told.over_seconds {
        let over = humantime::format_duration(Duration::from_secs(seconds.round() as u64));
        text.push_str(&format!("over the last {over}\n"));
    }
    if told.skipped > 0 {
        text.push_str(&format!("{} more packets were dropped and not looked at\n", told.skipped));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::talkers::Talker;

    #[test]
    fn sources_are_rows_with_what_is_sure_and_what_is_not() {
        let talker = |source: &str, at_least, at_most| Talker {
            source: source.to_owned(),
            at_least,
            at_most,
        };
        let sources = vec![talker("192.0.2.1", 60, 60), talker("2001:db8::/64", 20, 25)];
        let services = vec![ServiceTalkers { service: Some("web".to_owned()), total: 80, sources }];
        let told = TopTalkers { over_seconds: Some(64.2), services, skipped: 3 };
        let text = shown(&told, Most::NewFlows);
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["web", "192.0.2.1", "60", "75.0", "%"], "{text}");
        assert_eq!(lines[2], ["web", "2001:db8::/64", "20", "to", "25", "25.0", "%"], "{text}");
        assert!(
            text.ends_with("over the last 1m 4s\n3 more packets were dropped and not looked at\n")
        );
        let nothing = TopTalkers { over_seconds: None, ..TopTalkers::default() };
        assert_eq!(shown(&nothing, Most::LiveFlows), "0 flows\n");
    }
}

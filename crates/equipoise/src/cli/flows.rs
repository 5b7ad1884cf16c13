//! `equipoise flows`: the flow table as rows.

use std::time::Duration;

use super::args::{Flows, Global};
use super::{Exit, Failure, print, print_json, table};
use crate::driver::parse_prefix;
use crate::status::{Flow, FlowFilter};

pub(super) async fn flows(global: &Global, asked: &Flows) -> Result<(), Failure> {
    if let Some(text) = &asked.client {
        parse_prefix(text).map_err(|e| Failure::new(Exit::Usage, format!("--client: {e}")))?;
    }
    let filter = FlowFilter {
        service: asked.service.clone(),
        backend: asked.backend.clone(),
        client: asked.client.clone(),
    };
    let flows = global.client().flows(&filter).await?;
    if global.json {
        return print_json(&flows);
    }
    print(&shown(&flows))
}

fn shown(flows: &[Flow]) -> String {
    let mut table = table(&[
        "PROTO", "CLIENT", "VIP", "BACKEND", "SERVICE", "STATE", "AGE", "IDLE", "PKTS IN",
        "PKTS OUT",
    ]);
    for flow in flows {
        table.add_row([
            flow.protocol.clone(),
            flow.client.to_string(),
            flow.vip.to_string(),
            flow.backend.to_string(),
            flow.service.clone().unwrap_or_else(|| "-".to_owned()),
            flow.state.clone(),
            seconds(flow.age_seconds),
            seconds(flow.idle_seconds),
            flow.packets_in.to_string(),
            flow.packets_out.to_string(),
        ]);
    }
    let total = match flows.len() {
        1 => "1 flow".to_owned(),
        n => format!("{n} flows"),
    };
    if flows.is_empty() { format!("{total}\n") } else { format!("{table}\n{total}\n") }
}

fn seconds(seconds: f64) -> String {
    let duration = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

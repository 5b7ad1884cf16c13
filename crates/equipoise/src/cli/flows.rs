//! `equipoise flows`: the flow table as rows; `flows delete` ends some of them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::args::{Flows, FlowsAction, Global, SumBy, WhichFlows};
use super::{Exit, Failure, ORDER, json, print, print_json, table, watch};
use crate::driver::parse_prefix;
use crate::status::pool::{EndAnswer, EndRequest};
use crate::status::{Flow, FlowFilter};

pub(super) async fn flows(global: &Global, asked: &Flows) -> Result<(), Failure> {
    if let Some(FlowsAction::Delete { which, all, reset }) = &asked.action {
        return delete(global, &filter(which)?, (*all, *reset)).await;
    }
    let filter = filter(&asked.which)?;
    watch::show(asked.watch, async || {
        // A table of millions of flows is read first.
        let flows = global.client().within(ORDER, ORDER).flows(&filter).await?;
        if let Some(by) = asked.sum_by {
            let sums = sums(&flows, by);
            return if global.json { json(&sums) } else { Ok(shown_sums(&sums, by)) };
        }
        if global.json { json(&flows) } else { Ok(shown(&flows)) }
    })
    .await
}

pub(super) fn filter(which: &WhichFlows) -> Result<FlowFilter, Failure> {
    let WhichFlows { service, backend, client } = which;
    if let Some(text) = client {
        parse_prefix(text).map_err(|e| Failure::new(Exit::Usage, format!("--client: {e}")))?;
    }
    let (service, backend, client) = (service.clone(), backend.clone(), client.clone());
    Ok(FlowFilter { service, backend, client })
}

async fn delete(
    global: &Global,
    filter: &FlowFilter,
    (all, reset): (bool, bool),
) -> Result<(), Failure> {
    if *filter == FlowFilter::default() && !all {
        let message = "which flows: --service, --backend or --client; or --all for all of them";
        return Err(Failure::new(Exit::Usage, message));
    }
    let FlowFilter { service, backend, client } = filter.clone();
    let request = EndRequest { service, backend, client, all, reset };
    let answer = global.client().end_flows(&request).await?;
    if global.json {
        return print_json(&answer);
    }
    let EndAnswer { ended } = answer;
    print(&format!("{} ended\n", counted(ended)))
}

fn counted(flows: u64) -> String {
    if flows == 1 { "1 flow".to_owned() } else { format!("{flows} flows") }
}

/// What flows come to that have something in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Sum {
    /// Address of the client, backend, or protocol.
    key: String,
    flows: u64,
    packets_in: u64,
    bytes_in: u64,
    packets_out: u64,
    bytes_out: u64,
}

/// The most flows first.
fn sums(flows: &[Flow], by: SumBy) -> Vec<Sum> {
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    for flow in flows {
        let key = match by {
            SumBy::Client => flow.client.ip().to_string(),
            SumBy::Backend => flow.backend.to_string(),
            SumBy::Protocol => flow.protocol.clone(),
        };
        let sum = sums.entry(key).or_default();
        sum.flows += 1;
        sum.packets_in += flow.packets_in;
        sum.bytes_in += flow.bytes_in;
        sum.packets_out += flow.packets_out;
        sum.bytes_out += flow.bytes_out;
    }
    let mut sums: Vec<_> = sums.into_iter().map(|(key, sum)| Sum { key, ..sum }).collect();
    sums.sort_by_key(|sum| Reverse(sum.flows));
    sums
}

fn shown_sums(sums: &[Sum], by: SumBy) -> String {
    let what = match by {
        SumBy::Client => "CLIENT",
        SumBy::Backend => "BACKEND",
        SumBy::Protocol => "PROTO",
    };
    let mut table = table(&[what, "FLOWS", "PKTS IN", "BYTES IN", "PKTS OUT", "BYTES OUT"]);
    for sum in sums {
        let numbers = [sum.flows, sum.packets_in, sum.bytes_in, sum.packets_out, sum.bytes_out];
        let cells = std::iter::once(sum.key.clone()).chain(numbers.map(|n| n.to_string()));
        table.add_row(cells);
    }
    if sums.is_empty() { "0 flows\n".to_owned() } else { format!("{table}\n") }
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
    let total = counted(flows.len() as u64);
    if flows.is_empty() { format!("{total}\n") } else { format!("{table}\n{total}\n") }
}

fn seconds(seconds: f64) -> String {
    let duration = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

//! `equipoise explain`: what becomes of a packet, by the programs themselves.

use equipoise_common::verdict::Verdict;

use super::args::{Explain, Global};
use super::{Exit, Failure, print, print_json, table};
use crate::status::explain::{ExplainAnswer, ExplainRequest, packet};

pub(super) async fn explain(global: &Global, asked: &Explain) -> Result<(), Failure> {
    packet(&asked.hex).map_err(|e| Failure::new(Exit::Usage, format!("--hex: {e}")))?;
    let request = ExplainRequest { hex: asked.hex.clone(), interface: asked.interface.clone() };
    let answer = global.client().explain(&request).await?;
    if global.json {
        return print_json(&answer);
    }
    print(&shown(&answer))
}

fn shown(answer: &ExplainAnswer) -> String {
    let ExplainAnswer { interface, hook, action, reason, out_hex, hooks } = answer;
    let verdict = Verdict::ALL.iter().find(|verdict| verdict.name() == reason);
    let meaning = verdict.map_or("", |verdict| verdict.meaning());
    let mut table = table(&["HOOK", "ACTION", "REASON"]);
    for answer in hooks {
        let action = answer.action.clone().unwrap_or_else(|| "-".to_owned());
        let why = answer.reason.clone().or_else(|| answer.error.clone());
        table.add_row([answer.hook.clone(), action, why.unwrap_or_default()]);
    }
    format!(
        "{action}: {reason}, by {hook} of {interface}\n{}\nleaves as {out_hex}\n\n{table}\n",
        meaning.trim()
    )
}

//! `equipoise history`: who has changed the configuration, when and how; `equipoise confirm`: what runs stays.

use super::args::Global;
use super::{Failure, print, print_json};
use crate::status::change::ReloadResult;
use crate::status::history::{Author, Difference, HistoryEntry};

pub(super) async fn history(global: &Global) -> Result<(), Failure> {
    let entries = global.client().history().await?;
    if global.json {
        return print_json(&entries);
    }
    print(&entries.iter().map(shown).collect::<String>())
}

pub(super) async fn confirm(global: &Global) -> Result<(), Failure> {
    let answer = global.client().confirm().await?;
    if global.json {
        return print_json(&answer);
    }
    print(&format!("generation {} stays\n", answer.generation))
}

fn shown(entry: &HistoryEntry) -> String {
    let by = match &entry.by {
        Author::File => "the file".to_owned(),
        Author::Signal => "a signal".to_owned(),
        Author::User { uid } => format!("user {uid}"),
        Author::Key { name } => format!("the key {name}"),
        Author::Address { address } => format!("somebody at {address}"),
        Author::Deadline => "nobody".to_owned(),
    };
    let result = match entry.result {
        ReloadResult::Applied => "applied",
        ReloadResult::Unchanged => "unchanged",
        ReloadResult::Rejected => "rejected",
        ReloadResult::RolledBack => "rolled back",
    };
    let HistoryEntry { at, what, generation, .. } = entry;
    let mut text = format!("{at}  {result} by {by}: {what} (generation {generation})\n");
    if let Some(error) = &entry.error {
        text.push_str(&format!("  {error}\n"));
    }
    for Difference { key, before, after } in &entry.changes {
        let line = match (before, after) {
            (None, Some(after)) => format!("  + {key}: {after}\n"),
            (Some(before), None) => format!("  - {key}: {before}\n"),
            (Some(before), Some(after)) => format!("  {key}: {before} -> {after}\n"),
            (None, None) => continue,
        };
        text.push_str(&line);
    }
    if entry.more > 0 {
        text.push_str(&format!("  and {} more\n", entry.more));
    }
    text
}

//! `equipoise reload`, `weight` and `backend`: another configuration for the running instance.

use super::args::{Backend, BackendAction, Global, OneBackend, Reload, Weight};
use super::{Exit, Failure, print, print_json};
use crate::admin::client::ClientError;
use crate::admin::problem::ROLLED_BACK;
use crate::status::change::{
    AddRequest, ReloadAnswer, ReloadRequest, ReloadResult, RuntimeChange, ServiceChanges,
};
use crate::status::health::BackendName;

pub(super) async fn reload(global: &Global, asked: &Reload) -> Result<(), Failure> {
    // The instance runs elsewhere.
    let file = asked.file.as_ref().map(std::path::absolute).transpose().map_err(Failure::failed)?;
    let file = file.map(|file| file.display().to_string());
    let confirm_seconds = asked.confirm.map(|within| within.as_secs_f64());
    let request = ReloadRequest { file, reset: asked.reset, confirm_seconds };
    let taken = global.client().reload(&request).await;
    if let (Some(within), true, false) = (asked.confirm, taken.is_ok(), global.json) {
        let within = humantime::format_duration(within);
        eprintln!(
            "what ran before runs again in {within}, unless `equipoise confirm` comes before"
        );
    }
    told(global, taken).await
}

pub(super) async fn weight(global: &Global, asked: &Weight) -> Result<(), Failure> {
    let taken = global.client().set_weight(&name(&asked.backend), asked.weight).await;
    told(global, taken).await
}

pub(super) async fn backend(global: &Global, asked: &Backend) -> Result<(), Failure> {
    let client = global.client();
    let taken = match &asked.action {
        BackendAction::Add(add) => {
            let request = AddRequest {
                address: add.backend.clone(),
                weight: add.weight,
                route: add.route.clone(),
                max_flows: add.max_flows,
                backup: add.backup,
            };
            client.add_backend(&add.service, &request).await
        }
        BackendAction::Remove(backend) => client.remove_backend(&name(backend)).await,
    };
    told(global, taken).await
}

fn name(backend: &OneBackend) -> BackendName {
    let OneBackend { service, backend, route } = backend.clone();
    BackendName { service, backend, route }
}

/// Says what has become of a change.
pub(super) async fn told(
    global: &Global,
    taken: Result<ReloadAnswer, ClientError>,
) -> Result<(), Failure> {
    let answer = match taken {
        Ok(answer) => answer,
        Err(ClientError::Problem(problem)) if !problem.errors.is_empty() => {
            if global.json {
                let generation = global.client().status().await?.config.generation;
                let is_back = problem.is_of(ROLLED_BACK);
                print_json(&ReloadAnswer {
                    result: if is_back { ReloadResult::RolledBack } else { ReloadResult::Rejected },
                    generation,
                    steps: 0,
                    services: ServiceChanges::default(),
                    errors: problem.errors,
                })?;
                return Err(Failure::said(if is_back { Exit::Failed } else { Exit::Usage }));
            }
            return Err(ClientError::Problem(problem).into());
        }
        Err(error) => return Err(error.into()),
    };
    if global.json {
        return print_json(&answer);
    }
    print(&shown(&answer))
}

fn shown(answer: &ReloadAnswer) -> String {
    let generation = answer.generation;
    if answer.result == ReloadResult::Unchanged {
        return format!("nothing is otherwise: generation {generation}\n");
    }
    let ServiceChanges { added, removed, changed } = &answer.services;
    let mut text = format!("taken: generation {generation}, {} steps\n", answer.steps);
    for (what, names) in [("added", added), ("removed", removed), ("changed", changed)] {
        if !names.is_empty() {
            text.push_str(&format!("  {what}: {}\n", names.join(", ")));
        }
    }
    text
}

/// A change made while running, in words.
pub(super) fn in_words(change: &RuntimeChange) -> String {
    let RuntimeChange { service, route, backend, change, weight, rate, burst, prefix, until } =
        change;
    let service = service.as_deref();
    let of = service.map(|service| format!(" of {service}")).unwrap_or_default();
    if let Some(prefix) = prefix {
        let at = service.map(|service| format!(" at {service}")).unwrap_or_default();
        let until = until.as_ref().map(|until| format!(" until {until}")).unwrap_or_default();
        return format!("{prefix}{at}: {change}{until}");
    }
    if let Some(rate) = rate {
        let what = match burst {
            Some(burst) if *rate > 0 => format!("{rate} in a second, {burst} at once"),
            _ => "none".to_owned(),
        };
        return format!("limit {change}{of}: {what}");
    }
    if let (None, Some(name)) = (backend, service) {
        return format!("service {name}: {}", change.trim_start_matches("service-"));
    }
    let weight = weight.map(|weight| format!(" {weight}")).unwrap_or_default();
    let what = match &**change {
        "added" => format!("added with weight{weight}"),
        "weight" => format!("weight{weight}"),
        other => other.to_owned(),
    };
    let backend = backend.as_deref().unwrap_or_default();
    let route = route.as_ref().map(|route| format!(", route {route}")).unwrap_or_default();
    format!("{backend}{of}{route}: {what}")
}

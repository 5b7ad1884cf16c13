//! `equipoise plan`: what a configuration would change in the running instance, or in empty maps
//! when none is running; with `--dump`, the whole desired state.

use equipoise_core::diff::{Applied, diff};
use equipoise_core::dump::dump;
use equipoise_core::state::State;

use super::args::{Global, Plan};
use super::check::{Loaded, load};
use super::{Failure, print, print_json};
use crate::admin::client::ClientError;
use crate::driver::targets;
use crate::host::{Machine, Netlink};
use crate::status::{MtuChange, PlanAnswer, PlanRequest, ServiceEffect};

pub(super) async fn plan(global: &Global, asked: &Plan) -> Result<(), Failure> {
    let loaded = load(global, asked.file.as_ref())?;
    let answer = against_instance(global, loaded).await?;
    if global.json {
        return print_json(&answer);
    }
    for note in &answer.notes {
        eprintln!("note: {note}");
    }
    if asked.dump {
        return print(&answer.dump);
    }
    let against =
        if answer.running { "the running instance" } else { "nothing: no instance is running" };
    let mut text = format!("{} steps, against {against}\n", answer.steps.len());
    for step in &answer.steps {
        text.push_str(&format!("  {step}\n"));
    }
    for effect in &answer.effect {
        text.push_str(&told(effect));
    }
    print(&text)
}

/// What becomes of a service's clients.
fn told(effect: &ServiceEffect) -> String {
    let ServiceEffect { service, change, moved_percent, broken_flows, mtu } = effect;
    let mut parts = vec![match &**change {
        "none" => "unchanged itself".to_owned(),
        change => change.to_owned(),
    }];
    if change == "changed" || *moved_percent > 0.0 {
        parts.push(format!("{moved_percent:.1} % of its new flows go elsewhere"));
    }
    if *broken_flows > 0 {
        parts.push(format!("{broken_flows} live flows break"));
    }
    if let Some(MtuChange { before, after }) = mtu {
        parts.push(format!(
            "packets of up to {after} bytes get through whole, in place of {before}"
        ));
    }
    format!("service {service}: {}\n", parts.join("; "))
}

async fn against_instance(global: &Global, loaded: Loaded) -> Result<PlanAnswer, Failure> {
    // The instance may be anywhere, and finds what the file includes from there.
    let name = std::path::absolute(&loaded.text.name)
        .map_or_else(|_| loaded.text.name.clone(), |path| path.display().to_string());
    let request = PlanRequest { name, text: loaded.text.text.clone() };
    match global.client().plan(&request).await {
        Ok(answer) => Ok(answer),
        Err(ClientError::NoInstance(_)) => against_nothing(loaded).await,
        Err(error) => Err(error.into()),
    }
}

async fn against_nothing(loaded: Loaded) -> Result<PlanAnswer, Failure> {
    let mut machine = Netlink::open().map_err(Failure::failed)?;
    let reading = machine.read(&targets(&loaded.config)).await.map_err(Failure::failed)?;
    let mut state = State::new(loaded.config, reading.facts());
    state.plan();
    let desired = state.planned();
    let difference = diff(&Applied::default(), desired);
    let notes = loaded.notes.iter().map(ToString::to_string);
    Ok(PlanAnswer {
        running: false,
        steps: difference.steps.iter().map(ToString::to_string).collect(),
        notes: notes
            .chain(desired.notes.iter().map(ToString::to_string))
            .chain(difference.unplaced.iter().map(ToString::to_string))
            .collect(),
        dump: dump(desired, state.facts()),
        effect: Vec::new(),
    })
}

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
use crate::status::{PlanAnswer, PlanRequest};

pub(super) async fn plan(global: &Global, asked: &Plan) -> Result<(), Failure> {
    let loaded = load(global, asked.file.as_ref())?;
    let answer = if asked.dump {
        against_nothing(loaded).await?
    } else {
        against_instance(global, loaded).await?
    };
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
    print(&text)
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
    })
}

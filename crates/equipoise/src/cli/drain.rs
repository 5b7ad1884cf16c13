//! `equipoise drain`, `undrain` and `drains`.

use std::time::Duration;

use equipoise_core::config::target;

use super::args::{Drain, Drains, Global, Undrain, Which};
use super::{Exit, Failure, json, print, print_json, table, watch};
use crate::status::operate::{DrainRequest, DrainStatus, Selection, UndrainRequest};

impl Which {
    /// With the address of a backend, where one is named.
    fn selection(&self, backend: Option<&String>) -> Selection {
        Selection {
            service: self.service.clone(),
            backend: backend.cloned(),
            route: self.route.clone(),
            host: self.host,
            itself: self.itself,
        }
    }
}

pub(super) async fn drain(global: &Global, asked: &Drain) -> Result<(), Failure> {
    let which = &asked.which;
    let backends = match &*asked.backends {
        [] => vec![which.selection(None)],
        backends => backends.iter().map(|backend| which.selection(Some(backend))).collect(),
    };
    let request = DrainRequest {
        backends,
        timeout: asked.timeout.clone(),
        on_timeout: asked.on_timeout.clone(),
        force: asked.force,
        wait: asked.wait,
    };
    let answer = global.client().drain(&request).await?;
    if global.json {
        print_json(&answer)?;
    } else if asked.which.itself {
        print("this balancer is drained: not ready, its flows go on\n")?;
    } else {
        print(&shown(&answer.drains))?;
    }
    for warning in &answer.warnings {
        eprintln!("warning: {warning}");
    }
    if asked.wait { waited(&answer.drains) } else { Ok(()) }
}

/// How a drain that was waited for has ended, as an exit code.
fn waited(drains: &[DrainStatus]) -> Result<(), Failure> {
    let is = |status: &str| drains.iter().any(|drain| drain.status == status);
    if is("interrupted") {
        let message = "the instance has ended; it stays drained when it runs again";
        return Err(Failure::new(Exit::Failed, message));
    }
    if is("cancelled") {
        return Err(Failure::new(Exit::Failed, "the drain was cancelled"));
    }
    if is("timeout") {
        return Err(Failure::new(Exit::InVain, "flows were left when the time was up"));
    }
    Ok(())
}

pub(super) async fn undrain(global: &Global, asked: &Undrain) -> Result<(), Failure> {
    let selection = asked.which.selection(asked.backend.as_ref());
    let request = UndrainRequest { gradual: asked.gradual, ..UndrainRequest::of(selection) };
    let ended = global.client().undrain(&request).await?;
    if global.json {
        return print_json(&ended);
    }
    if asked.which.itself {
        return print("this balancer is ready again\n");
    }
    let lines = ended.iter().map(|drain| {
        let (service, backend) = (&drain.service, target::text(drain.backend));
        format!("{backend} of {service} gets new flows again\n")
    });
    print(&lines.collect::<String>())
}

pub(super) async fn drains(global: &Global, asked: &Drains) -> Result<(), Failure> {
    watch::show(asked.watch, async || {
        let answer = global.client().drains().await?;
        if global.json {
            return json(&answer);
        }
        let itself = if answer.itself { "this balancer is drained\n" } else { "" };
        if answer.drains.is_empty() && !answer.itself {
            return Ok("nothing is drained\n".to_owned());
        }
        Ok(format!("{itself}{}", shown(&answer.drains)))
    })
    .await
}

fn shown(drains: &[DrainStatus]) -> String {
    if drains.is_empty() {
        return String::new();
    }
    let mut table =
        table(&["SERVICE", "ROUTE", "BACKEND", "STATUS", "FLOWS", "AT FIRST", "SINCE", "TIMEOUT"]);
    for drain in drains {
        table.add_row([
            drain.service.clone(),
            drain.route.clone(),
            target::text(drain.backend),
            drain.status.clone(),
            drain.live_flows.to_string(),
            drain.initial_flows.to_string(),
            time(drain.elapsed_ms / 1_000 * 1_000),
            time(drain.timeout_ms),
        ]);
    }
    format!("{table}\n")
}

fn time(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

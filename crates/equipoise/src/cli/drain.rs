//! `equipoise drain`, `undrain` and `drains`.

use std::pin::pin;
use std::time::Duration;

use equipoise_core::config::target;
use tokio::time::{MissedTickBehavior, interval};

use super::args::{Drain, Drains, Global, Undrain, Which};
use super::progress::{Progress, Stage};
use super::{Exit, Failure, json, print, print_json, table, watch};
use crate::admin::client::ClientError;
use crate::status::operate::{
    DrainAnswer, DrainRequest, DrainStatus, DrainsAnswer, Selection, UndrainRequest,
};

/// From one look at drains that are waited for to the next.
const LOOK: Duration = Duration::from_millis(250);

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
    let answer = if asked.wait {
        watched(global, &request).await?
    } else {
        global.client().drain(&request).await?
    };
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

/// Waits for drains, and shows meanwhile how far they have come.
async fn watched(global: &Global, request: &DrainRequest) -> Result<DrainAnswer, ClientError> {
    let client = global.patient_client();
    let mut progress = Progress::new(global);
    let mut ended = pin!(client.drain(request));
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let look = async {
            looks.tick().await;
            client.drains().await
        };
        tokio::select! {
            answer = &mut ended => return answer,
            // Whether the instance answers is known by the answer that is waited for.
            Ok(DrainsAnswer { drains, .. }) = look => {
                if let Some(stage) = stage(&drains, request) {
                    progress.show(stage);
                }
            }
        }
    }
}

/// How far those of these drains have come that are meant; nothing where none of them goes on.
fn stage(drains: &[DrainStatus], request: &DrainRequest) -> Option<Stage> {
    let is_meant =
        |drain: &&DrainStatus| request.backends.iter().any(|backend| means(backend, drain));
    let meant: Vec<_> = drains.iter().filter(is_meant).collect();
    let open = meant.iter().filter(|drain| drain.status == "draining");
    let left = open.map(|drain| drain.timeout_ms.saturating_sub(drain.elapsed_ms)).max()?;
    let flows: u64 = meant.iter().map(|drain| drain.live_flows).sum();
    // A packet that was on its way may have opened one more.
    let all = meant.iter().map(|drain| drain.initial_flows).sum::<u64>().max(flows);
    Some(Stage {
        what: "draining",
        words: format!("{flows} of {all} flows are not over"),
        done: all - flows,
        all,
        left: Some(Duration::from_millis(left)),
    })
}

/// Whether a drain is one of those. One of a name is shown with all of its service, as nobody here knows its addresses.
fn means(selection: &Selection, drain: &DrainStatus) -> bool {
    let backend = selection.backend.as_deref().and_then(target::parse);
    selection.service.as_ref().is_none_or(|service| *service == drain.service)
        && selection.route.as_ref().is_none_or(|route| *route == drain.route)
        && selection.host.is_none_or(|host| host == drain.backend.ip())
        && backend.is_none_or(|backend| backend == drain.backend)
        && !selection.itself
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
        let help = "`equipoise flows --backend BACKEND` lists them; `--on-timeout reset` would have ended them";
        let failure = Failure::new(Exit::InVain, "flows were left when the time was up");
        return Err(failure.with_help(help));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(backend: &str, status: &str, flows: [u64; 2]) -> DrainStatus {
        let [initial_flows, live_flows] = flows;
        serde_json::from_value(serde_json::json!({
            "service": "web", "route": "default", "backend": backend, "status": status, "started_at": "", "elapsed_ms": 2_000,
            "timeout_ms": 30_000, "on_timeout": "keep", "forced": false, "configured_weight": 1,
            "initial_flows": initial_flows, "live_flows": live_flows, "closing_flows": 0,
        }))
        .unwrap()
    }

    fn request(backends: &[&str]) -> DrainRequest {
        let selection = |backend: &&str| Selection {
            service: Some("web".to_owned()),
            backend: Some((*backend).to_owned()),
            ..Selection::default()
        };
        DrainRequest {
            backends: backends.iter().map(selection).collect(),
            timeout: None,
            on_timeout: None,
            force: false,
            wait: true,
        }
    }

    #[test]
    fn what_is_left_is_summed_over_those_that_are_meant_alone() {
        let drains = [
            drain("10.0.0.1:80", "draining", [10, 4]),
            drain("10.0.0.2:80", "completed", [5, 0]),
            drain("10.0.0.3:80", "draining", [7, 7]),
        ];
        let stage = stage(&drains, &request(&["10.0.0.1:80", "10.0.0.2:80"])).unwrap();
        assert_eq!((stage.words.as_str(), stage.done), ("4 of 15 flows are not over", 11));
        assert_eq!((stage.all, stage.left), (15, Some(Duration::from_secs(28))));
        let flows = |asked: &[&str]| super::stage(&drains, &request(asked)).map(|stage| stage.all);
        assert_eq!(flows(&["10.0.0.2:80"]), None, "nothing of it goes on");
        assert_eq!(flows(&["api.internal:80"]), Some(22), "a name is of the service");
        let more = [drain("10.0.0.1:80", "draining", [1, 3])];
        assert_eq!(super::stage(&more, &request(&["10.0.0.1:80"])).unwrap().all, 3);
    }
}

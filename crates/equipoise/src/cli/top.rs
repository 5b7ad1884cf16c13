//! `equipoise top`: a live screen over the status of the running instance, asked for each second.
//!
//! What is shown and what keys do is in `screen`, how it looks in `draw`; both are pure, and here is what they leave: the terminal, the
//! clock and the instance. Refuses politely where there is no terminal.

use std::io::{self, IsTerminal};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::args::Global;
use super::{Exit, Failure};
use crate::admin::client::{Client, ClientError};
use crate::status::Status;
use crate::status::operate::{DrainRequest, UndrainRequest};

mod draw;
mod rates;
mod screen;

use screen::{Act, Screen};

const EACH: Duration = Duration::from_secs(1);

pub(super) async fn top(global: &Global) -> Result<(), Failure> {
    if global.json {
        return Err(Failure::new(
            Exit::Usage,
            "a screen has no JSON; `equipoise status --json` has what it shows",
        ));
    }
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let message = "this takes a terminal; `equipoise status` shows the same once";
        return Err(Failure::new(Exit::Usage, message));
    }
    let client = global.client();
    let mut screen = Screen::default();
    let begun = Instant::now();
    // Nothing is drawn where there is nothing to show.
    screen.take(client.status().await?, begun.elapsed());
    let mut terminal = ratatui::try_init().map_err(Failure::failed)?;
    let ended = show(&client, &mut screen, &mut terminal, begun).await;
    ratatui::restore();
    ended
}

/// Keys are heard whatever the instance does: what it is asked is asked beside this, and answered when it is.
async fn show(
    client: &Client,
    screen: &mut Screen,
    terminal: &mut DefaultTerminal,
    begun: Instant,
) -> Result<(), Failure> {
    let mut keys = keys();
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut ticks = interval(EACH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told_to_end = signal(SignalKind::terminate()).map_err(Failure::failed)?;
    let mut asked_at = None;
    loop {
        terminal.draw(|frame| draw::draw(frame, screen)).map_err(Failure::failed)?;
        let act = tokio::select! {
            _ = told_to_end.recv() => return Ok(()),
            at = ticks.tick() => {
                screen.silent = asked_at.map_or(Duration::ZERO, |asked| at - asked);
                if asked_at.is_none() {
                    asked_at = Some(at);
                    ask(client, &tell, |client| async move { Answer::Status(client.status().await.map(Box::new)) });
                }
                None
            }
            Some(answer) = told.recv() => {
                match answer {
                    Answer::Status(answer) => {
                        (asked_at, screen.silent) = (None, Duration::ZERO);
                        match answer {
                            Ok(status) => screen.take(*status, begun.elapsed()),
                            Err(error) => screen.say(error.to_string()),
                        }
                    }
                    Answer::Done(said) => screen.say(said),
                }
                None
            }
            event = keys.recv() => match event {
                Some(Event::Key(key)) if key.kind == KeyEventKind::Press => screen.key(key),
                // Another size is drawn like anything else.
                Some(_) => None,
                None => return Ok(()),
            },
        };
        match act {
            Some(Act::Quit) => return Ok(()),
            Some(act) => ask(client, &tell, |client| async move {
                let done = carry_out(&client, act).await;
                Answer::Done(done.unwrap_or_else(|error| error.to_string()))
            }),
            None => {}
        }
    }
}

/// What the instance has said.
enum Answer {
    Status(Result<Box<Status>, ClientError>),
    Done(String),
}

/// Asks, and tells the answer when it is there.
fn ask<F: Future<Output = Answer> + Send + 'static>(
    client: &Client,
    tell: &mpsc::UnboundedSender<Answer>,
    question: impl FnOnce(Client) -> F,
) {
    let (tell, question) = (tell.clone(), question(client.clone()));
    // Nobody listens any more where the screen has ended.
    tokio::spawn(async move { tell.send(question.await).is_ok() });
}

/// What is typed, read on a thread of its own, which ends with the process: reading cannot be given up.
fn keys() -> mpsc::UnboundedReceiver<Event> {
    let (tell, told) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if tell.send(event).is_err() {
                return;
            }
        }
    });
    told
}

async fn carry_out(client: &Client, act: Act) -> Result<String, ClientError> {
    match act {
        Act::Quit => Ok(String::new()),
        Act::Drain(selection) => {
            let request = DrainRequest {
                backends: vec![selection],
                timeout: None,
                on_timeout: None,
                force: false,
                wait: false,
            };
            let answer = client.drain(&request).await?;
            Ok(answer.warnings.into_iter().next().unwrap_or_else(|| "drain has begun".to_owned()))
        }
        Act::Undrain(selection) => {
            let request = UndrainRequest {
                service: selection.service,
                backend: selection.backend,
                route: selection.route,
                ..UndrainRequest::default()
            };
            client.undrain(&request).await.map(|_| "it gets new flows again".to_owned())
        }
    }
}

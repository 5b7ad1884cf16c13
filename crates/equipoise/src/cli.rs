//! The command line: arguments to commands, outcomes to exit codes.
//!
//! Each command is a file: it asks the running instance or the machine, and shows the answer to
//! people or, with `--json`, as it came. Results go to standard output, everything else to
//! standard error.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use equipoise_core::config::log::Level;
use serde::Serialize;

use crate::admin::client::{Client, ClientError};
use crate::{log, stream};

pub mod args;
mod breaker;
mod change;
mod check;
mod config;
mod convert;
mod decap;
mod dns;
mod doctor;
mod drain;
mod events;
mod explain;
mod flows;
mod following;
mod health;
mod help;
mod hidden;
mod history;
mod import;
mod limits;
mod plan;
mod pool;
mod progress;
mod report;
mod run;
mod shell;
mod source;
mod status;
mod stop;
mod talkers;
mod top;
mod trace;
mod upgrade;
mod wait;
mod watch;

use args::{Arguments, Command, Global};

/// How long an instance may take to answer a question: many times what it takes, with the largest tables.
const QUESTION: Duration = Duration::from_secs(10);
/// How long it may take to do what it is told: names may have to be looked up first.
const ORDER: Duration = Duration::from_secs(60);

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did not do what it was asked to.
    Failed = 1,
    /// The configuration or the usage is wrong.
    Usage = 2,
    /// There is no such service, backend or flow.
    NotFound = 3,
    /// No instance is running.
    NoInstance = 4,
    /// It makes sense, and not as things are: it contradicts what is so already.
    Refused = 5,
    /// What was waited for has not come.
    InVain = 6,
}

impl Exit {
    /// All but that of a command which did what it was asked to, which is 0.
    pub const ALL: [Self; 6] =
        [Self::Failed, Self::Usage, Self::NotFound, Self::NoInstance, Self::Refused, Self::InVain];

    /// What it says to users.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "bad configuration or usage",
            Self::NotFound => "no such service, backend or flow",
            Self::NoInstance => "no running instance",
            Self::Refused => "refused: it contradicts what is so already",
            Self::InVain => "waited in vain",
        }
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    /// What is left to be said.
    message: Option<String>,
    /// What to do next.
    help: Option<String>,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: Some(message.into()), help: None }
    }

    fn failed(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Failed, error.into().to_string())
    }

    /// With what to do next.
    fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// All has been said already.
    fn said(exit: Exit) -> Self {
        Self { exit, message: None, help: None }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::NoInstance(_) => Exit::NoInstance,
            ClientError::Silent { .. } | ClientError::Socket { .. } | ClientError::Talk(_) => {
                Exit::Failed
            }
            ClientError::Problem(problem) => match problem.status {
                404 => Exit::NotFound,
                400 | 422 => Exit::Usage,
                409 | 412 => Exit::Refused,
                _ => Exit::Failed,
            },
        };
        let failure = Self::new(exit, error.to_string());
        Self { help: help::of(&error), ..failure }
    }
}

/// Runs the command that the command line of this process asks for.
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == stream::keeper::COMMAND) {
        return take_up();
    }
    let arguments = match Arguments::read(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to standard output and are no errors; clap knows which is which.
            let _: io::Result<()> = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage as u8 } else { 0 });
        }
    };
    log(&arguments);
    match execute(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { exit, message, help }) => {
            if let Some(message) = message {
                eprintln!("error: {message}");
            }
            if let Some(help) = help {
                eprintln!("  help: {help}");
            }
            ExitCode::from(exit as u8)
        }
    }
}

/// What an instance starts to take up connections, and nobody else: no command of users.
fn take_up() -> ExitCode {
    match stream::worker::run_process() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(Exit::Failed as u8)
        }
    }
}

fn execute(arguments: &Arguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::failed)?;
    let global = &arguments.global;
    runtime.block_on(async {
        match &arguments.command {
            Command::Run(flags) => run::run(global, flags).await,
            Command::Check(asked) => check::check(global, asked).await,
            Command::Convert(asked) => convert::convert(global, asked),
            Command::Import(asked) => import::import(global, asked),
            Command::Schema => convert::schema(),
            Command::Plan(asked) => plan::plan(global, asked).await,
            Command::Status(asked) => status::status(global, asked).await,
            Command::Top => top::top(global).await,
            Command::TopTalkers(asked) => talkers::talkers(global, asked).await,
            Command::Services(asked) => status::services(global, asked).await,
            Command::Flows(filter) => flows::flows(global, filter).await,
            Command::Pool(asked) => pool::pool(global, asked).await,
            Command::Limits(asked) => limits::limits(global, asked).await,
            Command::Deny(asked) => limits::deny(global, asked).await,
            Command::Explain(asked) => explain::explain(global, asked).await,
            Command::Trace(asked) => trace::trace(global, asked).await,
            Command::Capture(asked) => trace::capture(global, asked).await,
            Command::Drain(asked) => drain::drain(global, asked).await,
            Command::Undrain(asked) => drain::undrain(global, asked).await,
            Command::Drains(asked) => drain::drains(global, asked).await,
            Command::Events(asked) => events::events(global, asked).await,
            Command::Breaker(asked) => breaker::breaker(global, asked).await,
            Command::Health(asked) => health::health(global, asked).await,
            Command::Probe(asked) => health::probe(global, asked).await,
            Command::Dns(asked) => dns::dns(global, asked).await,
            Command::Doctor(asked) => doctor::doctor(global, asked).await,
            Command::Wait(asked) => wait::wait(global, asked).await,
            Command::Reload(asked) => change::reload(global, asked).await,
            Command::Confirm => history::confirm(global).await,
            Command::History => history::history(global).await,
            Command::Weight(asked) => change::weight(global, asked).await,
            Command::Backend(asked) => change::backend(global, asked).await,
            Command::Config(asked) => config::config(global, asked).await,
            Command::Decap(asked) => decap::decap(global, asked).await,
            Command::Upgrade(asked) => upgrade::upgrade(global, asked).await,
            Command::Stop => stop::stop(global).await,
            Command::Completions(asked) => shell::completions(asked),
            Command::Man(asked) => shell::man(asked),
        }
    })
}

/// An instance tells what changes; other commands are silent unless something is odd.
fn log(arguments: &Arguments) {
    let first = match arguments.command {
        Command::Run(_) | Command::Decap(_) => Level::Info,
        _ => Level::Warn,
    };
    log::begin(first, arguments.global.verbose.into());
}

impl Global {
    /// A client for what is answered at once, which does not wait for an instance that hangs.
    fn client(&self) -> Client {
        self.patient_client().within(QUESTION, ORDER)
    }

    /// A client for what may take any time.
    fn patient_client(&self) -> Client {
        Client::new(&self.socket())
    }
}

/// Writes to standard output. A reader that has gone away has seen enough.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::failed(error)),
        _ => Ok(()),
    }
}

fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    print(&json(value)?)
}

fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::failed)?;
    Ok(format!("{text}\n"))
}

/// A table without borders, as other tools of the system print theirs.
fn table(header: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_header(header.iter().copied());
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::ProblemDetails;

    fn exit(error: ClientError) -> u8 {
        Failure::from(error).exit as u8
    }

    #[test]
    fn answers_of_the_instance_have_their_exit_codes() {
        let problem = |details| ClientError::Problem(Box::new(details));
        assert_eq!(exit(ClientError::NoInstance("/run/x.sock".into())), 4);
        assert_eq!(exit(problem(ProblemDetails::not_found("no service"))), 3);
        assert_eq!(exit(problem(ProblemDetails::bad_config("bad", Vec::new()))), 2);
        assert_eq!(exit(problem(ProblemDetails::bad_request("bad"))), 2);
        assert_eq!(exit(problem(ProblemDetails::conflict("no"))), 5);
        assert_eq!(exit(problem(ProblemDetails::stale("no"))), 5);
        assert_eq!(exit(problem(ProblemDetails::failed("no"))), 1);
        assert_eq!(exit(problem(ProblemDetails::ending())), 1);
        assert_eq!(exit(ClientError::Talk("cut".into())), 1);
    }
}

//! What may be written on the command line.
//!
//! Global flags stand before or after the subcommand. What clap cannot say, such as a file and
//! flags together, is checked by the command itself and is a usage error as well.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args, Parser, Subcommand};
use equipoise_core::config::OnExit;

mod change;
mod decap;
mod dns;
mod doctor;
mod events;
mod explain;
mod files;
mod flows;
mod health;
mod limits;
mod operate;
mod shell;
mod talkers;
mod trace;

pub use change::{AddBackend, Backend, BackendAction, Config, Reload, Weight};
pub use decap::Decap;
pub use dns::{Dns, DnsAction, LookUp};
pub use doctor::Doctor;
pub use events::{Enough, Events};
pub use explain::Explain;
pub use files::{Check, Convert, From, Import};
pub use flows::{Flows, FlowsAction, Services, SumBy, WhichFlows};
pub use health::{Health, HealthAction, OneBackend, Probe, Wait};
pub use limits::{Deny, DenyAction, Limits, LimitsAction, Pool};
pub use operate::{Breaker, Drain, Drains, Turn as BreakerTurn, Turned, Undrain, Which};
pub use shell::{Completions, Man};
pub use talkers::{Most, TopTalkers};
pub use trace::{Capture, Trace, Which as WhichPackets};

/// Where the configuration is when no file is named.
pub const DEFAULT_CONFIG: &str = "/etc/equipoise/equipoise.toml";
/// Where sockets and locks of instances are.
pub const RUN_DIRECTORY: &str = "/run/equipoise";

/// A layer-4 load balancer for Linux.
#[derive(Debug, Parser)]
#[command(name = "equipoise", version, about, propagate_version = true)]
pub struct Arguments {
    /// Flags of all commands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of all commands.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Configuration file [default: /etc/equipoise/equipoise.toml]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of the instance
    #[arg(long, global = true, value_name = "NAME", default_value = "default", value_parser = instance)]
    pub instance: String,
    /// Socket of the instance [default: /run/equipoise/NAME.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the load balancer until it is told to stop
    Run(Run),
    /// Say what is wrong with a configuration
    Check(Check),
    /// Translate a configuration from one format to another
    #[command(after_long_help = files::EXAMPLES)]
    Convert(Convert),
    /// Carry over the configuration of another load balancer
    #[command(after_long_help = files::IMPORTS)]
    Import(Import),
    /// Print the JSON Schema of a configuration
    Schema,
    /// Show what a configuration would change in the running instance
    Plan(Plan),
    /// Show how the running instance is
    Status(Status),
    /// Watch the backends live: rates, shares, health; drain and undrain them by keys
    Top,
    /// Show the services, their pools and backends
    Services(Services),
    /// List the flows in the flow table, sum them up, or end some
    #[command(after_long_help = flows::EXAMPLES)]
    Flows(Flows),
    /// Show which sources have most: flows, new flows, packets that are dropped
    #[command(after_long_help = talkers::EXAMPLES)]
    TopTalkers(TopTalkers),
    /// Show what the backends of a service get: slots, shares, live flows
    Pool(Pool),
    /// Show the limits in force and what they have refused, or change one
    #[command(after_long_help = limits::LIMITS)]
    Limits(Limits),
    /// Keep clients out, and end their flows
    #[command(after_long_help = limits::DENY)]
    Deny(Deny),
    /// Say what becomes of a packet; nothing is sent and nothing changes
    #[command(after_long_help = explain::EXAMPLES)]
    Explain(Explain),
    /// Show packets as they come and leave, with their verdicts
    #[command(after_long_help = trace::TRACE)]
    Trace(Trace),
    /// Write packets as they come and leave into a file, with their verdicts as comments
    #[command(after_long_help = trace::CAPTURE)]
    Capture(Capture),
    /// Give a backend no new flows, and let those that it has end
    #[command(after_long_help = operate::EXAMPLES)]
    Drain(Drain),
    /// Give a drained backend new flows again
    Undrain(Undrain),
    /// List the drains
    Drains(Drains),
    /// Show the last of what has changed, and go on with what changes; or flows as they open and close
    #[command(after_long_help = events::EXAMPLES)]
    Events(Events),
    /// Show the breakers, or turn one
    Breaker(Breaker),
    /// Show what is believed of the health of backends, and why
    Health(Health),
    /// Check something once, here and now, with or without a running instance
    #[command(after_long_help = health::EXAMPLES)]
    Probe(Probe),
    /// Show the names that are looked up, look one up again, or look up any name
    #[command(after_long_help = dns::EXAMPLES)]
    Dns(Dns),
    /// Say what of this machine breaks a load balancer on it, and put right what is safe
    #[command(after_long_help = doctor::EXAMPLES)]
    Doctor(Doctor),
    /// Wait until so many backends of a service are healthy
    Wait(Wait),
    /// Have the running instance read its file again
    Reload(Reload),
    /// Let stay what `reload --confirm` has taken
    Confirm,
    /// Show who has changed the configuration, when and how
    History,
    /// Give a backend another weight
    #[command(after_long_help = change::EXAMPLES)]
    Weight(Weight),
    /// Add or remove a backend
    #[command(after_long_help = change::EXAMPLES)]
    Backend(Backend),
    /// Show the configuration that runs
    Config(Config),
    /// Run another binary in place of the one that runs; packets flow on, and no connection breaks
    Upgrade(Upgrade),
    /// Stop the running instance and remove everything of it
    Stop,
    /// On a backend: take packets out of ipip and GUE, without a tunnel device, until told to stop
    #[command(after_long_help = decap::EXAMPLES)]
    Decap(Decap),
    /// Print what a shell needs to complete commands and flags
    #[command(after_long_help = shell::COMPLETIONS)]
    Completions(Completions),
    /// Print a manual page, or write all of them
    #[command(after_long_help = shell::MAN)]
    Man(Man),
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Do not read the configuration file anew when it changes; SIGHUP and `reload` do
    #[arg(long)]
    pub no_watch: bool,
    /// Listen on these interfaces, without a configuration file
    #[arg(short, long, value_name = "IFACE", num_args = 1..)]
    pub interface: Vec<String>,
    /// Listen on this port
    #[arg(short, long)]
    pub port: Option<u16>,
    /// Balance over these backends
    #[arg(short, long, value_name = "ADDR:PORT", num_args = 1..)]
    pub target: Vec<String>,
    /// What becomes of packets when a signal ends this, where the configuration has no `on-exit`
    #[arg(long, value_name = "detach|keep", value_parser = on_exit)]
    pub on_exit: Option<OnExit>,
    /// Come after the process at the other end of standard input
    #[arg(long, hide = true)]
    pub take_over: bool,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Once or again and again
    #[command(flatten)]
    pub watch: Watch,
}

/// Whether something is shown once.
#[derive(Clone, Copy, Debug, Args)]
pub struct Watch {
    /// Show it again each second, until stopped
    #[arg(short, long)]
    pub watch: bool,
}

/// Arguments of `upgrade`.
#[derive(Debug, Args)]
pub struct Upgrade {
    /// The binary; to roll back, that of before
    pub binary: PathBuf,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct Plan {
    /// The file; without it, that of -c
    pub file: Option<PathBuf>,
    /// Show the whole desired state, not the difference
    #[arg(long)]
    pub dump: bool,
}

impl Arguments {
    /// Reads the words of a command line, the first of which is the program.
    ///
    /// # Errors
    ///
    /// What clap has to say, which is not always an error.
    pub fn read(words: impl Iterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(globals_first(words))
    }
}

/// With global flags right behind the program. Between a command and one below it, clap takes them for flags of the former, which many of
/// them exclude together with the latter.
fn globals_first(mut words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let known = Global::augment_args(clap::Command::new(""));
    let long = |name: &str| known.get_arguments().find(|arg| arg.get_long() == Some(name));
    let short = |flag: char| known.get_arguments().find(|arg| arg.get_short() == Some(flag));
    let has_value = |arg: &clap::Arg| arg.get_action().takes_values();
    let mut first: Vec<_> = words.next().into_iter().collect();
    let mut rest = Vec::new();
    while let Some(word) = words.next() {
        if word == "--" {
            rest.push(word);
            break;
        }
        let text = word.to_string_lossy();
        // Whether the next word is its value; none for what is no global flag.
        let takes_next = if let Some(flag) = text.strip_prefix("--") {
            let (name, value) = flag.split_once('=').map_or((flag, None), |(n, v)| (n, Some(v)));
            long(name).map(|arg| value.is_none() && has_value(arg))
        } else {
            // One with a value ends those that stand together.
            text.strip_prefix('-').filter(|flags| !flags.is_empty()).and_then(|flags| {
                let at = flags.find(|flag| short(flag).is_none_or(has_value));
                let Some(at) = at else { return Some(false) };
                let last = flags[at..].chars().next()?;
                short(last).map(|_| at + last.len_utf8() == flags.len())
            })
        };
        let Some(takes_next) = takes_next else {
            rest.push(word);
            continue;
        };
        first.push(word);
        if takes_next {
            first.extend(words.next());
        }
    }
    first.into_iter().chain(rest).chain(words).collect()
}

impl Run {
    /// Whether any flag is there that describes a service.
    pub fn has_flags(&self) -> bool {
        !self.interface.is_empty() || self.port.is_some() || !self.target.is_empty()
    }
}

impl Global {
    /// The socket of the instance.
    pub fn socket(&self) -> PathBuf {
        let default = || Path::new(RUN_DIRECTORY).join(format!("{}.sock", self.instance));
        self.socket.clone().unwrap_or_else(default)
    }

    /// The configuration file, for commands that take none of their own.
    pub fn config(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| DEFAULT_CONFIG.into())
    }
}

fn on_exit(text: &str) -> Result<OnExit, String> {
    match text {
        "detach" => Ok(OnExit::Detach),
        "keep" => Ok(OnExit::Keep),
        _ => Err("it is `detach` or `keep`".to_owned()),
    }
}

/// Names become parts of paths, below bpffs too, where a dot is refused.
fn instance(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if text.is_empty() || text.len() > 64 || !text.chars().all(allowed) {
        return Err("an instance's name is 1 to 64 letters, digits, '-' or '_'".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Arguments, ErrorKind> {
        Arguments::try_parse_from(line.split(' ')).map_err(|e| e.kind())
    }

    #[test]
    fn definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for line in [
            "equipoise --json --instance a -vv -c f.toml --socket /s status",
            "equipoise status --json --instance a -vv -c f.toml --socket /s",
            "equipoise --instance a -c f.toml status -vv --json --socket /s",
        ] {
            let global = parse(line).unwrap().global;
            assert!(global.json, "{line}");
            assert_eq!(global.instance, "a", "{line}");
            assert_eq!(global.verbose, 2, "{line}");
            assert_eq!(global.config(), Path::new("f.toml"), "{line}");
            assert_eq!(global.socket(), Path::new("/s"), "{line}");
        }
    }

    #[test]
    fn global_flags_stand_between_a_command_and_one_below_it() {
        for line in [
            "equipoise health --json -vv set web 10.0.0.1:80 up --instance a",
            "equipoise flows --instance=a -v delete --json --all -v",
            "equipoise limits -vvcf.toml --json --instance a clear web",
            "equipoise dns --json --instance a -vv lookup -- localhost",
        ] {
            let words = line.split(' ').map(OsString::from);
            let global = Arguments::read(words).unwrap_or_else(|e| panic!("{line}: {e}")).global;
            assert_eq!((global.json, &*global.instance, global.verbose), (true, "a", 2), "{line}");
        }
        let read = |line: &str| {
            Arguments::read(line.split(' ').map(OsString::from)).map_err(|error| error.kind())
        };
        assert_eq!(read("equipoise status -V").unwrap_err(), ErrorKind::DisplayVersion);
        assert_eq!(
            read("equipoise flows --service web delete --all").unwrap_err(),
            ErrorKind::ArgumentConflict
        );
        assert_eq!(read("equipoise status -").unwrap_err(), ErrorKind::UnknownArgument);
    }

    #[test]
    fn instance_names_socket_and_default_config_is_in_etc() {
        let global = parse("equipoise --instance web-2 status").unwrap().global;
        assert_eq!(global.socket(), Path::new("/run/equipoise/web-2.sock"));
        assert_eq!(global.config(), Path::new(DEFAULT_CONFIG));
        assert_eq!(parse("equipoise status").unwrap().global.instance, "default");
    }

    #[test]
    fn instance_names_that_leave_their_directory_are_refused() {
        for name in ["../x", "a/b", "a.b", "a\u{e9}"] {
            assert_eq!(
                parse(&format!("equipoise --instance {name} status")).unwrap_err(),
                ErrorKind::ValueValidation
            );
        }
    }

    #[test]
    fn run_takes_several_interfaces_and_targets() {
        let line = "equipoise run -i eth0 eth1 -i eth2 -p 80 -t 10.0.0.1:8080 [2001:db8::1]:8080";
        let Command::Run(run) = parse(line).unwrap().command else { panic!("not run") };
        assert_eq!(run.interface, ["eth0", "eth1", "eth2"]);
        assert_eq!(run.port, Some(80));
        assert_eq!(run.target.len(), 2);
        assert!(run.has_flags());
        assert_eq!(parse("equipoise run -i eth0 -p http").unwrap_err(), ErrorKind::ValueValidation);
    }

    #[test]
    fn commands_that_there_are_not_are_told_so() {
        assert_eq!(parse("equipoise forward").unwrap_err(), ErrorKind::InvalidSubcommand);
        assert_eq!(
            parse("equipoise").unwrap_err(),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        );
    }
}

//! `equipoise run`: checks everything that can be checked before anything is touched, then starts
//! and runs until the end.

use std::path::{Path, PathBuf};

use equipoise_core::config::{self, Config, Name};
use equipoise_core::resolve::Places;
use serde_json::json;

use super::args::{Global, RUN_DIRECTORY, Run};
use super::check::{Loaded, load};
use super::source::Text;
use super::{Exit, Failure, json, print, report};
use crate::admin::lock::InstanceLock;
use crate::config_file::{self, Base};
use crate::dataplane::DataPlane as _;
use crate::dataplane::kernel::{Clock, Eviction, Kernel, Options, TcWay};
use crate::driver::{
    Driver, Place, Signals, Source, Start, Supervisor, Watching, look_up_before, state_file,
    targets,
};
use crate::handover::{Predecessor, Word};
use crate::host::{Machine, Netlink, check, requirements};
use crate::stream::How;
use crate::{log, privileges, running_config};

/// The machine, and what is to run on it.
struct Known {
    machine: Netlink,
    config: Config,
    source: Source,
    base: Base,
    watching: Watching,
}

pub(super) async fn run(global: &Global, flags: &Run) -> Result<(), Failure> {
    if flags.take_over {
        return take_over(global, flags).await;
    }
    let known = known(global, flags).await?;
    let lock =
        InstanceLock::take(Path::new(RUN_DIRECTORY), &global.instance).map_err(Failure::failed)?;
    let plane = Kernel::load(&options(global, &known.config)).map_err(Failure::failed)?;
    let start = starting(global, known, (plane, lock, Place::Free))?;
    let driver = Driver::start(start).await.map_err(Failure::failed)?;
    settle_privileges();
    said(global)?;
    driver.run().await.map_err(Failure::failed)
}

/// What is not needed any more once packets flow.
fn settle_privileges() {
    if let Err(error) = privileges::settle() {
        tracing::warn!(%error, "this process may do more than it needs to");
    }
}

/// Checks everything that can be checked before anything is touched.
async fn known(global: &Global, flags: &Run) -> Result<Known, Failure> {
    usage(global, flags)?;
    requirements::check().map_err(|missing| Failure::new(Exit::Failed, missing))?;
    let (mut loaded, source) = configuration(global, flags)?;
    if let Some(on_exit) = flags.on_exit {
        config_file::set_on_exit(&mut loaded.config, on_exit);
    }
    log::follow(&loaded.config.settings.log);
    let base = match &source {
        Source::File(_) => Base::new(&*loaded.text.name, &*loaded.text.text),
        // Flags are no text that a backend could be changed in.
        Source::Flags => {
            let text = running_config::to_toml(running_config::to_json(&loaded.config));
            Base::new("command line.toml", text)
        }
    };
    let base = base.or_on_exit(flags.on_exit);
    let mut machine = Netlink::open().map_err(Failure::failed)?;
    check_host(&mut machine, &loaded).await?;
    let watching = if flags.no_watch { Watching::No } else { Watching::Yes };
    Ok(Known { machine, config: loaded.config, source, base, watching })
}

/// In place of a process that runs, which goes on if this one does not come to run.
async fn take_over(global: &Global, flags: &Run) -> Result<(), Failure> {
    let mut other = Predecessor::at_stdin().map_err(Failure::failed)?;
    let begun = match known(global, flags).await {
        Ok(known) => begin_after(global, known, &mut other).await,
        Err(failure) => Err(failure),
    };
    let word = match &begun {
        Ok(driver) => Word::Running {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            to_be_carried: driver.to_be_carried(),
        },
        Err(failure) => {
            let said = || "its configuration is refused; the log says why".to_owned();
            Word::Failed(failure.message.clone().unwrap_or_else(said))
        }
    };
    // Where nobody hears it any more the lock is ours, and so is everything else.
    let told = other.say(&word);
    let driver = begun?;
    if let Err(error) = told {
        tracing::warn!(%error, "the process before has not heard that this one runs");
    }
    settle_privileges();
    said(global)?;
    driver.run().await.map_err(Failure::failed)
}

async fn begin_after(
    global: &Global,
    known: Known,
    other: &mut Predecessor,
) -> Result<Driver<Netlink, Kernel>, Failure> {
    let mut plane =
        Kernel::load_beside(&options(global, &known.config)).map_err(Failure::failed)?;
    let ready = match make_ready(global, &known.config, &mut plane).await {
        Ok(looked_up) => take_lock(global, other).map(|lock| (lock, looked_up)),
        Err(failure) => Err(failure),
    };
    let (lock, looked_up) = match ready {
        Ok(ready) => ready,
        Err(failure) => {
            if let Err(error) = plane.abandon() {
                tracing::warn!(%error, "something of a start that has come to nothing stays");
            }
            return Err(failure);
        }
    };
    let start = starting(global, known, (plane, lock, Place::OfAnother))?;
    Driver::start(Start { looked_up, ..start }).await.map_err(Failure::failed)
}

/// What takes longest, while the other process still follows everything: programs are verified, and names looked up.
async fn make_ready(
    global: &Global,
    config: &Config,
    plane: &mut Kernel,
) -> Result<Vec<(Name, Places)>, Failure> {
    plane.load_as_before().map_err(Failure::failed)?;
    look_up_before(config, &state_file(&global.instance)).await.map_err(Failure::failed)
}

fn take_lock(global: &Global, other: &mut Predecessor) -> Result<InstanceLock, Failure> {
    let file = other.take().map_err(Failure::failed)?;
    InstanceLock::adopt(Path::new(RUN_DIRECTORY), &global.instance, file).map_err(Failure::failed)
}

fn options<'a>(global: &'a Global, config: &Config) -> Options<'a> {
    Options {
        instance: &global.instance,
        max_flows: config.settings.max_flows,
        tc: TcWay::default(),
        clock: Clock::default(),
        eviction: Eviction::default(),
    }
}

fn starting(
    global: &Global,
    Known { machine, config, source, base, watching }: Known,
    (plane, lock, place): (Kernel, InstanceLock, Place),
) -> Result<Start<Netlink, Kernel>, Failure> {
    Ok(Start {
        instance: global.instance.clone(),
        signals: Signals::hear().map_err(Failure::failed)?,
        lock,
        socket: global.socket(),
        state_file: state_file(&global.instance),
        source,
        base,
        watching,
        config,
        machine,
        plane,
        place,
        looked_up: Vec::new(),
        streams: How::Process(PathBuf::from("/proc/self/exe")),
        supervisor: Supervisor::of_process().map_err(Failure::failed)?,
    })
}

/// What clap cannot say of the flags.
fn usage(global: &Global, flags: &Run) -> Result<(), Failure> {
    if !flags.has_flags() {
        return Ok(());
    }
    if global.config.is_some() {
        let message = "a configuration file (-c) and -i, -p, -t exclude each other";
        return Err(Failure::new(Exit::Usage, message));
    }
    let there = [
        ("-i", !flags.interface.is_empty()),
        ("-p", flags.port.is_some()),
        ("-t", !flags.target.is_empty()),
    ];
    let missing: Vec<_> = there.iter().filter(|(_, there)| !there).map(|(flag, _)| *flag).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Usage,
        format!("-i, -p and -t belong together; missing: {}", missing.join(", ")),
    ))
}

fn configuration(global: &Global, flags: &Run) -> Result<(Loaded, Source), Failure> {
    let Some(port) = flags.port else {
        let path = global.config();
        // A reload reads the same file, wherever the process is by then.
        let path = std::path::absolute(&path).unwrap_or(path);
        return Ok((load(global, None)?, Source::File(path)));
    };
    let (interfaces, targets) = (&flags.interface, &flags.target);
    let text = Text::of_flags(config::flags_text(interfaces, port, targets));
    match config::from_flags(interfaces, port, targets) {
        Ok(config) => Ok((Loaded { config, text, notes: Vec::new() }, Source::Flags)),
        Err(problems) => {
            report::problems(&text, &problems);
            Err(Failure::said(Exit::Usage))
        }
    }
}

async fn check_host(machine: &mut Netlink, loaded: &Loaded) -> Result<(), Failure> {
    let reading = machine.read(&targets(&loaded.config)).await.map_err(Failure::failed)?;
    let found = check::check(&loaded.config, &reading);
    report::notes(&loaded.text, &[loaded.notes.clone(), found.notes].concat());
    if found.problems.is_empty() {
        return Ok(());
    }
    report::problems(&loaded.text, &found.problems);
    Err(Failure::said(Exit::Usage))
}

fn said(global: &Global) -> Result<(), Failure> {
    print(&started(global, std::process::id())?)
}

fn started(global: &Global, pid: u32) -> Result<String, Failure> {
    let (instance, socket) = (&global.instance, global.socket());
    if global.json {
        return json(
            &json!({ "state": "running", "instance": instance, "pid": pid, "socket": socket }),
        );
    }
    Ok(format!("running: instance {instance}, pid {pid}, socket {}\n", socket.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Arguments, Command};
    use clap::Parser;
    use expect_test::expect;

    fn refused(line: &str) -> Option<(Exit, String)> {
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        let Command::Run(flags) = &arguments.command else { panic!("not run") };
        let failure = usage(&arguments.global, flags).err()?;
        Some((failure.exit, failure.message.unwrap_or_default()))
    }

    #[test]
    fn what_is_said_once_it_runs_is_as_recorded() {
        let said = |line: &str| {
            let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
            started(&arguments.global, 4242).unwrap()
        };
        expect![[r#"
            running: instance web, pid 4242, socket /run/equipoise/web.sock
        "#]]
        .assert_eq(&said("equipoise run --instance web"));
        expect![[r#"
            {
              "instance": "default",
              "pid": 4242,
              "socket": "/x.sock",
              "state": "running"
            }
        "#]]
        .assert_eq(&said("equipoise --json --socket /x.sock run"));
    }

    #[test]
    fn file_and_flags_together_are_a_usage_error() {
        let (exit, message) =
            refused("equipoise run -c a.toml -i eth0 -p 80 -t 10.0.0.1:80").unwrap();
        assert_eq!(exit, Exit::Usage);
        assert!(message.contains("exclude each other"), "{message}");
        assert_eq!(refused("equipoise run -c a.toml"), None);
        assert_eq!(refused("equipoise run -i eth0 -p 80 -t 10.0.0.1:80"), None);
    }

    #[test]
    fn half_of_the_flags_is_a_usage_error_that_names_the_rest() {
        let (exit, message) = refused("equipoise run -i eth0").unwrap();
        assert_eq!(exit, Exit::Usage);
        assert!(message.ends_with("missing: -p, -t"), "{message}");
    }
}

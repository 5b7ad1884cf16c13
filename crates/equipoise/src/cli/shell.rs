//! `equipoise completions` and `man`: what a package installs beside the binary, made from the arguments themselves.

use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_mangen::Man as Page;

use super::args::{Arguments, Completions, Man};
use super::{Exit, Failure, print};

/// The section of programs for system administration.
const SECTION: &str = "8";

pub(super) fn completions(asked: &Completions) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(asked.shell, &mut Arguments::command(), "equipoise", &mut text);
    print(&String::from_utf8_lossy(&text))
}

pub(super) fn man(asked: &Man) -> Result<(), Failure> {
    let mut whole = Arguments::command();
    whole.build();
    if let Some(directory) = &asked.dir {
        fs::create_dir_all(directory).map_err(Failure::failed)?;
        return write_all(&whole, "equipoise", directory);
    }
    let mut found = &whole;
    for word in &asked.command {
        found = found.find_subcommand(word).ok_or_else(|| {
            let message = format!("`{}` has no command `{word}`", found.get_name());
            Failure::new(Exit::Usage, message)
        })?;
    }
    print(&page(found)?)
}

/// The pages of a command and of all below it.
fn write_all(command: &Command, name: &str, directory: &Path) -> Result<(), Failure> {
    let path = directory.join(format!("{name}.{SECTION}"));
    fs::write(&path, page(command)?)
        .map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", path.display())))?;
    let below = command.get_subcommands().filter(|below| below.get_name() != "help");
    below
        .filter(|below| !below.is_hide_set())
        .try_for_each(|below| write_all(below, &format!("{name}-{}", below.get_name()), directory))
}

fn page(command: &Command) -> Result<String, Failure> {
    let mut text = Vec::new();
    Page::new(command.clone()).section(SECTION).render(&mut text).map_err(Failure::failed)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

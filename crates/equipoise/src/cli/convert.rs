//! `equipoise convert`: a configuration from one format to another; `equipoise schema`: what any may hold.

use std::fs;
use std::io;
use std::path::Path;

use equipoise_core::config::{self, Converted, Format, Ignored};

use super::args::{Convert, Global};
use super::check::{Answer, read};
use super::{Exit, Failure, print, print_json, report};
use crate::config_file;

pub(super) fn convert(global: &Global, asked: &Convert) -> Result<(), Failure> {
    let to = format(asked)?;
    let text = read(&asked.from)?;
    let ignored = if asked.partial { Ignored::LeftOut } else { Ignored::Refused };
    let around = config_file::around();
    let converted = match config::convert((&text.name, &text.text), to, &around, ignored) {
        Ok(converted) => converted,
        Err(problems) if global.json => {
            print_json(&Answer::new(&text.name, &problems, &[]))?;
            return Err(Failure::said(Exit::Usage));
        }
        Err(problems) => {
            report::problems(&text, &problems);
            return Err(Failure::said(Exit::Usage));
        }
    };
    let Converted { text: written, notes } = converted;
    if !global.json {
        report::notes(&text, &notes);
    }
    if asked.to == Path::new("-") {
        return print(&written);
    }
    replace(&asked.to, &written).map_err(|error| {
        Failure::new(Exit::Failed, format!("{} cannot be written: {error}", asked.to.display()))
    })?;
    if global.json {
        return print_json(&Answer::new(&text.name, &[], &notes));
    }
    print(&format!("{}: written\n", asked.to.display()))
}

pub(super) fn schema() -> Result<(), Failure> {
    print_json(&config::schema())
}

fn format(asked: &Convert) -> Result<Format, Failure> {
    if asked.to == Path::new("-") {
        return Ok(asked.format);
    }
    let name = asked.to.display().to_string();
    Format::of(&name).ok_or_else(|| {
        let message = format!(
            "`{name}` is not of a kind of file that can be written: names end in {}",
            Format::ENDINGS
        );
        Failure::new(Exit::Usage, message)
    })
}

/// Whole or not at all: another process may be reading the file.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = Path::new(&name);
    let written = fs::write(new, text).and_then(|()| fs::rename(new, path));
    if written.is_err() {
        // What could not be written need not be there either.
        let _: io::Result<()> = fs::remove_file(new);
    }
    written
}

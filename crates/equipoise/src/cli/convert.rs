//! `equipoise convert`: a configuration from one format to another; `equipoise schema`: what any may hold.

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
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
    replace(&asked.to, &asked.from, &written).map_err(|error| {
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

/// Whole or not at all: another process may be reading the file. Whoever may read it is who may read what was there, or what it is made
/// of: there may be keys in it.
fn replace(path: &Path, from: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let like = fs::metadata(path).or_else(|_| fs::metadata(from)).ok();
    let mut made = tempfile::Builder::new();
    if like.is_none() {
        // Less what the umask takes away; else nobody but who writes it, until it is known who may.
        made.permissions(Permissions::from_mode(0o666));
    }
    let mut new = made.tempfile_in(directory.unwrap_or(Path::new(".")))?;
    if let Some(like) = like {
        fchown(new.as_file(), Some(like.uid()), Some(like.gid()))?;
        new.as_file().set_permissions(like.permissions())?;
    }
    new.write_all(text.as_bytes())?;
    new.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_written_is_for_those_who_could_read_it_before() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from.toml", "to.json"].map(|name| folder.path().join(name));
        fs::write(&from, "").unwrap();
        for (of_from, expected) in [(0o600, 0o600), (0o640, 0o640)] {
            fs::set_permissions(&from, Permissions::from_mode(of_from)).unwrap();
            replace(&to, &from, "{}").unwrap();
            assert_eq!((mode(&to), fs::read_to_string(&to).unwrap().as_str()), (expected, "{}"));
            fs::remove_file(&to).unwrap();
        }
        fs::write(&to, "").unwrap();
        fs::set_permissions(&to, Permissions::from_mode(0o400)).unwrap();
        replace(&to, &from, "[]").unwrap();
        assert_eq!((mode(&to), fs::read_to_string(&to).unwrap().as_str()), (0o400, "[]"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
        assert!(replace(&folder.path().join("no/such.json"), &from, "").is_err());
    }
}

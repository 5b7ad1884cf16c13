//! Kernel packages of Debian: fetched by apt, and unpacked without being installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::step::succeed;
use crate::target_directory;

/// A kernel that lies unpacked.
#[derive(Debug)]
pub(super) struct Kernel {
    /// What is booted.
    pub(super) image: PathBuf,
    /// Where its modules are, in directories of any depth.
    pub(super) modules: PathBuf,
    /// Where what is made of it goes.
    pub(super) directory: PathBuf,
}

/// Fetches and unpacks what the package `stand_in` depends on, unless that has been done.
pub(super) fn unpack(stand_in: &str) -> Result<Kernel> {
    let package = newest(stand_in)?;
    let directory = target_directory().join("kernels").join(&package);
    let contents = contents(&package, &directory)?;
    let image = only(&contents.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    let modules = only(&contents.join("lib/modules"), |_| true)?;
    println!("kernel:    {package}");
    Ok(Kernel { image, modules, directory })
}

/// What is in a package, fetched and unpacked below `directory` unless that has been done.
pub(crate) fn contents(package: &str, directory: &Path) -> Result<PathBuf> {
    let contents = directory.join("contents");
    if !contents.is_dir() {
        // Only a whole package gets the name that is looked for.
        let unfinished = directory.join("unfinished");
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(&unfinished)?;
        succeed(
            Command::new("apt-get").args(["--quiet", "download", package]).current_dir(directory),
        )?;
        let file = only(directory, |name| name.ends_with(".deb"))?;
        succeed(Command::new("dpkg-deb").arg("--extract").args([&file, &unfinished]))?;
        fs::rename(&unfinished, &contents)?;
        fs::remove_file(file)?;
    }
    Ok(contents)
}

/// The kernel package that a package without contents depends on.
fn newest(stand_in: &str) -> Result<String> {
    let mut question = Command::new("apt-cache");
    question.args(["depends", "--important", stand_in]).stdin(Stdio::null());
    let output = question
        .output()
        .context("`apt-cache` cannot be run: kernels come as Debian's packages")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let package = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let package = package.filter(|package| package.starts_with("linux-image-"));
    package.map(str::to_owned).with_context(|| {
        format!("apt knows no kernel by the name {stand_in}; its sources need Debian 12 with its security updates, and `apt-get update`")
    })
}

/// The one entry of a directory that is wanted.
fn only(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| wanted(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    ensure!(found.len() == 1, "{} files of a kind in {}", found.len(), directory.display());
    Ok(found.remove(0))
}

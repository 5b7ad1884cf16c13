//! The licences of everything that is linked into the binary, and into the kernel programs inside it.
//!
//! Each text once, with the crates that come under it: theirs are the files that they are published with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::said;
use crate::step::cargo;

/// How such files are called, in capitals.
const NAMES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE", "COPYRIGHT"];

/// The workspaces that the binary is made of, and what of them is in it.
const PARTS: [(&str, &[&str]); 2] = [
    ("Cargo.toml", &["--package", "equipoise"]),
    ("crates/equipoise-ebpf/Cargo.toml", &["--target", "all"]),
];

/// One text of all.
pub(super) fn gather() -> Result<String> {
    let mut crates: BTreeMap<String, Value> = BTreeMap::new();
    for (manifest, which) in PARTS {
        let of_manifest = ["--locked", "--manifest-path", manifest];
        let tree = ["tree", "--edges", "normal", "--prefix", "none", "--format", "{p}"];
        let tree = said(cargo(&tree).args(which).args(of_manifest))?;
        // `name v1.2.3`, and for those of a path or repeated, more.
        let linked: BTreeSet<String> = tree.lines().filter_map(name).collect();
        let about = said(cargo(&["metadata", "--format-version", "1"]).args(of_manifest))?;
        let about: Value = serde_json::from_str(&about).context("what `cargo metadata` says")?;
        for package in about["packages"].as_array().into_iter().flatten() {
            let text = |key: &str| package[key].as_str().unwrap_or_default();
            let name = format!("{} {}", text("name"), text("version"));
            // Without a source it is ours.
            if linked.contains(&name) && !package["source"].is_null() {
                crates.insert(name, package.clone());
            }
        }
    }
    ensure!(!crates.is_empty(), "nothing is linked");
    let mut by_text: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, package) in &crates {
        let licence = package["license"].as_str().unwrap_or("see its text");
        let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        let texts = texts(manifest.parent().unwrap_or(manifest))?;
        for text in texts {
            by_text.entry(text).or_default().push(format!("{name} ({licence})"));
        }
    }
    Ok(written(&by_text, &crates))
}

fn written(by_text: &BTreeMap<String, Vec<String>>, crates: &BTreeMap<String, Value>) -> String {
    let mut all = format!("Equipoise is linked with {} crates:\n\n", crates.len());
    for (name, package) in crates {
        let licence = package["license"].as_str().unwrap_or("see its text");
        let _ = writeln!(all, "  {name}: {licence}");
    }
    for (text, names) in by_text {
        let _ = write!(all, "\n{}\n{}\n\n{}\n", "=".repeat(80), names.join("\n"), text.trim_end());
    }
    all
}

/// Name and version of a line of `cargo tree`.
fn name(line: &str) -> Option<String> {
    let mut words = line.split(' ');
    Some(format!("{} {}", words.next()?, words.next()?.strip_prefix('v')?))
}

/// The texts of the licences that a crate is published with.
fn texts(directory: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let is_licence = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        path.is_file() && NAMES.iter().any(|known| name.starts_with(known))
    };
    let mut paths: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(is_licence).collect();
    paths.sort();
    let read = |path: &PathBuf| fs::read(path).map(|t| String::from_utf8_lossy(&t).into_owned());
    Ok(paths.iter().map(read).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_tree_are_names_and_versions() {
        assert_eq!(name("serde v1.0.2"), Some("serde 1.0.2".to_owned()));
        assert_eq!(name("syn v2.0.1 (proc-macro) (*)"), Some("syn 2.0.1".to_owned()));
        assert_eq!(name(""), None);
    }

    #[test]
    fn text_stands_once_with_all_who_come_under_it() {
        let names = vec!["a 1 (MIT)".to_owned(), "b 2 (MIT)".to_owned()];
        let all = written(&BTreeMap::from([("Permission\n".to_owned(), names)]), &BTreeMap::new());
        assert!(all.contains("a 1 (MIT)\nb 2 (MIT)\n\nPermission\n"), "{all}");
        assert_eq!(all.matches("Permission").count(), 1);
    }
}

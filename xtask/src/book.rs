//! The documents as a book: `docs/` and what stands at the top of the repository, gathered into one folder and built by mdBook.
//!
//! Links between documents are those of the repository; in the book they are made to lead to pages, or to copies of files that are no pages. Then
//! every link of every page that was built is followed, to its heading: a book with a dead one is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::step::succeed;
use crate::{root, target_directory};

/// Pages that are not of `docs/`: what they are called in the book. A page called README would be its index.
const AT_THE_TOP: [(&str, &str); 4] = [
    ("README.md", "about.md"),
    ("ARCHITECTURE.md", "architecture.md"),
    ("CONTRIBUTING.md", "contributing.md"),
    ("CHANGELOG.md", "changelog.md"),
];

/// Below this are files of the repository that pages link to and that are no pages.
const FILES: &str = "files";

/// Builds it, and gives the folder of its pages.
pub(crate) fn build() -> Result<PathBuf> {
    let folder = target_directory().join("book");
    let (source, pages) = (folder.join("source"), folder.join("html"));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    gather(&source)?;
    let mut mdbook = Command::new("mdbook");
    mdbook.arg("build").arg(&source).arg("--dest-dir").arg(&pages);
    succeed(&mut mdbook)?;
    follow_links(&pages)?;
    Ok(pages)
}

/// Copies everything that the book is made of, its links as they are in a book.
fn gather(source: &Path) -> Result<()> {
    fs::create_dir_all(source)?;
    let docs = root().join("docs");
    for entry in fs::read_dir(&docs)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        let of_repository = Path::new("docs").join(name);
        if path.extension().is_some_and(|extension| extension == "md") {
            let text = relink(&fs::read_to_string(&path)?, &of_repository, source)?;
            fs::write(source.join(name), text)?;
        } else {
            fs::copy(&path, source.join(name))?;
        }
    }
    for (from, to) in AT_THE_TOP {
        let text = relink(&fs::read_to_string(root().join(from))?, Path::new(from), source)?;
        fs::write(source.join(to), text)?;
    }
    Ok(())
}

/// The text of a document, its links as they are in the book.
fn relink(text: &str, document: &Path, source: &Path) -> Result<String> {
    let mut written = String::with_capacity(text.len());
    let mut in_block = false;
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        if in_block {
            written.push_str(line);
            continue;
        }
        let mut rest = line;
        while let Some(at) = rest.find("](") {
            let (before, after) = rest.split_at(at);
            let Some(end) = after.find(')') else { break };
            let target = &after[2..end];
            written.push_str(before);
            match in_book(target, document, source)? {
                Some(target) => written.push_str(&format!("]({target})")),
                // A folder is no page: what is said of it stays, in brackets.
                None => written.push(']'),
            }
            rest = &after[end + 1..];
        }
        written.push_str(rest);
    }
    Ok(written)
}

/// Where a link of a document leads in the book; a file that is no page is copied there.
fn in_book(target: &str, document: &Path, source: &Path) -> Result<Option<String>> {
    if target.starts_with('#') || target.contains("://") {
        return Ok(Some(target.to_owned()));
    }
    let (file, heading) = target
        .split_once('#')
        .map_or((target, String::new()), |(file, heading)| (file, format!("#{heading}")));
    let path = plain(&document.parent().unwrap_or(Path::new("")).join(file));
    let place = root().join(&path);
    ensure!(place.exists(), "{}: there is no {target}", document.display());
    let name = path.to_string_lossy();
    if let Some((_, page)) = AT_THE_TOP.iter().find(|(top, _)| **top == *name) {
        return Ok(Some(format!("{page}{heading}")));
    }
    // The contents are beside every page, and are no page themselves.
    if name == "docs/SUMMARY.md" {
        return Ok(Some("about.md".to_owned()));
    }
    if let Ok(page) = path.strip_prefix("docs") {
        return Ok(Some(format!("{}{heading}", page.display())));
    }
    if place.is_dir() {
        return Ok(None);
    }
    let copy = source.join(FILES).join(&path);
    fs::create_dir_all(copy.parent().context("a file is in a folder")?)?;
    fs::copy(&place, &copy)?;
    Ok(Some(format!("{FILES}/{name}")))
}

/// A path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// Every link of every page, to its heading.
fn follow_links(pages: &Path) -> Result<()> {
    let mut texts = BTreeMap::new();
    for entry in fs::read_dir(pages)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".html") {
            texts.insert(name, fs::read_to_string(&path)?);
        }
    }
    ensure!(texts.len() > 20, "no pages in {}", pages.display());
    let headings: BTreeMap<_, BTreeSet<_>> = texts
        .iter()
        .map(|(name, text)| (name.as_str(), values(text, " id=\"").collect()))
        .collect();
    let mut dead = Vec::new();
    for (name, text) in &texts {
        for link in values(text, "<a href=\"") {
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let file = if file.is_empty() { name } else { file };
            let is_there = match headings.get(file) {
                Some(headings) => heading.is_empty() || headings.contains(heading),
                None => pages.join(file).exists(),
            };
            if !is_there {
                dead.push(format!("{name}: {link}"));
            }
        }
    }
    if !dead.is_empty() {
        bail!("links that lead nowhere:\n  {}", dead.join("\n  "));
    }
    Ok(())
}

/// What stands between such a beginning and the next quotation mark.
fn values<'a>(text: &'a str, begin: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(begin).skip(1).filter_map(|after| Some(after.split_once('"')?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_pages_and_copies() {
        let source = std::env::temp_dir().join(format!("equipoise-book-{}", std::process::id()));
        let text = "[a](../README.md#modes) [b](config.md) [c](../examples/web.toml) [d](../examples)\n```text\n[a](../README.md)\n```\n";
        let written = relink(text, Path::new("docs/x.md"), &source).unwrap();
        let expected = "[a](about.md#modes) [b](config.md) [c](files/examples/web.toml) [d]\n```text\n[a](../README.md)\n```\n";
        assert_eq!(written, expected);
        assert!(source.join("files/examples/web.toml").is_file());
        fs::remove_dir_all(&source).unwrap();
        assert!(relink("[a](nosuch.md)", Path::new("README.md"), &source).is_err());
    }
}

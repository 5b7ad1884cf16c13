//! A configuration of several files: what a file includes, merged into one tree.
//!
//! Services and other lists come one after the other, the including file's first; tables are merged; a key that two files
//! give is a fault that names both places. Files are read by whoever asks. Each file is a part once, so that no circle is
//! followed.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::file::{self, Entry, Node, Reading, Value};
use super::path;
use super::problem::Problem;
use super::texts::Texts;
use super::{Around, variables};

/// Files that include each other, one below the other.
const DEEPEST: usize = 8;
/// Files in all.
const MOST: usize = 1_000;

/// A configuration as its files have it.
pub(super) struct Whole {
    pub(super) texts: Texts,
    /// The tree, unless a fault leaves its shape in doubt. Variables are still there.
    pub(super) root: Option<Node>,
    /// What is wrong with the files as texts and as parts of one.
    pub(super) faults: Vec<Problem>,
    /// What a file says and nobody listens to.
    pub(super) ignored: Vec<Problem>,
}

/// Reads a text and all that it includes.
pub(super) fn read(name: &str, text: &str, around: &Around<'_>) -> Whole {
    let Reading { root, faults, ignored } = file::read(name, text);
    let mut whole = Whole { texts: Texts::new(text), root, faults, ignored };
    let Some(mut root) = whole.root.take() else { return whole };
    let mut parts =
        Parts { around, whole, seen: BTreeSet::from([plain(Path::new(name))]), missing: false };
    let complete = parts.include(&mut root, Path::new(name), 1);
    whole = parts.whole;
    whole.root = complete.then_some(root);
    whole
}

struct Parts<'a> {
    around: &'a Around<'a>,
    whole: Whole,
    seen: BTreeSet<PathBuf>,
    /// Whether a part could not be read: nothing can be said of what is missing then.
    missing: bool,
}

impl Parts<'_> {
    /// Merges what a file includes into its tree; false when a part has no tree.
    fn include(&mut self, root: &mut Node, from: &Path, depth: usize) -> bool {
        let Value::Table(entries) = &mut root.value else { return true };
        let Some(at) = entries.iter().position(|entry| entry.name == INCLUDE) else { return true };
        let entry = entries.remove(at);
        let mut complete = true;
        for pattern in self.patterns(entry) {
            for path in self.files(&pattern, from) {
                complete &= self.add(root, (&pattern, path), depth);
            }
        }
        complete && !self.missing
    }

    /// The texts of an `include`.
    fn patterns(&mut self, entry: Entry) -> Vec<Pattern> {
        let mut node = entry.node;
        let faults = self.whole.faults.len();
        let is_list = matches!(node.value, Value::List(_));
        variables::expand(&mut node, INCLUDE, self.around.variables, &mut self.whole.faults);
        if self.whole.faults.len() > faults {
            return Vec::new();
        }
        let nodes = match node.value {
            Value::List(items) => items,
            _ => vec![node],
        };
        let mut patterns = Vec::new();
        for (index, Node { span, value }) in nodes.into_iter().enumerate() {
            let key = if is_list { path::item(INCLUDE, index) } else { INCLUDE.to_owned() };
            match value {
                Value::Text(text) | Value::Given(text) => {
                    patterns.push(Pattern { key, span, text });
                }
                Value::Null => self.fault(&key, span, "null where text belongs".to_owned()),
                Value::Table(_) => self.fault(&key, span, "a table where text belongs".to_owned()),
                other => {
                    let message = format!("{} where text belongs", other.kind());
                    self.fault(&key, span, message);
                }
            }
        }
        patterns
    }

    /// The files that a pattern means, in order.
    fn files(&mut self, pattern: &Pattern, from: &Path) -> Vec<PathBuf> {
        let path = from.parent().unwrap_or(Path::new("")).join(&pattern.text);
        let last = Path::new(&pattern.text).file_name();
        let Some(name) = last.and_then(|name| name.to_str()).map(str::to_owned) else {
            self.wrong(pattern, format!("`{}` names no file", pattern.text));
            return Vec::new();
        };
        if !has_wildcard(&name) {
            return vec![path];
        }
        let directory = path.parent().unwrap_or(Path::new(""));
        let here = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        match (self.around.names)(here) {
            Ok(mut names) => {
                names.retain(|other| matches(&name, other));
                names.sort_unstable();
                names.into_iter().map(|name| directory.join(name)).collect()
            }
            Err(reason) => {
                self.missing = true;
                let message = format!("directory {} cannot be read: {reason}", here.display());
                self.wrong(pattern, message);
                Vec::new()
            }
        }
    }

    /// Reads a file and merges it into a tree; false when it has none.
    fn add(&mut self, root: &mut Node, (pattern, path): (&Pattern, PathBuf), depth: usize) -> bool {
        let name = path.display().to_string();
        if !self.seen.insert(plain(&path)) {
            self.wrong(pattern, format!("{name} is a part of this configuration already"));
            return true;
        }
        if depth > DEEPEST || self.seen.len() > MOST {
            self.missing = true;
            let message = format!(
                "{name} is one file too many: at most {DEEPEST} one below the other, and {MOST} in all"
            );
            self.wrong(pattern, message);
            return true;
        }
        let text = match (self.around.files)(&path) {
            Ok(text) => text,
            Err(reason) => {
                self.missing = true;
                self.wrong(pattern, format!("file {name} cannot be read: {reason}"));
                return true;
            }
        };
        let Reading { root: part, mut faults, mut ignored } = file::read(&name, &text);
        let start = self.whole.texts.add(name, text);
        for problem in faults.iter_mut().chain(&mut ignored) {
            problem.shift(start);
        }
        let complete = faults.is_empty();
        self.whole.faults.append(&mut faults);
        self.whole.ignored.append(&mut ignored);
        let Some(mut part) = part else { return false };
        part.shift(start);
        if !matches!(part.value, Value::Table(_)) {
            let message = format!("{} where a table belongs", part.value.kind());
            self.fault("", part.span, message);
            return false;
        }
        let whole = self.include(&mut part, &path, depth + 1);
        self.merge(root, part, &mut String::new());
        complete && whole
    }

    /// Puts a table into another.
    fn merge(&mut self, into: &mut Node, part: Node, key: &mut String) {
        let (Value::Table(entries), Value::Table(more)) = (&mut into.value, part.value) else {
            return;
        };
        let length = key.len();
        for entry in more {
            path::push_field(key, &entry.name);
            match entries.iter_mut().find(|other| other.name == entry.name) {
                None => entries.push(entry),
                Some(there) => match (&mut there.node.value, entry.node.value) {
                    (Value::List(items), Value::List(more)) => items.extend(more),
                    (Value::Table(_), value @ Value::Table(_)) => {
                        self.merge(&mut there.node, Node { span: entry.node.span, value }, key);
                    }
                    _ => {
                        let line = self.whole.texts.line(there.name_span.start);
                        let message = format!("`{}` is given on line {line} already", entry.name);
                        let problem = Problem::new(key, Some(entry.name_span), message);
                        self.whole.faults.push(problem.allowing("each key in one file"));
                    }
                },
            }
            key.truncate(length);
        }
    }

    fn wrong(&mut self, pattern: &Pattern, message: String) {
        let problem = Problem::new(&pattern.key, Some(pattern.span.clone()), message);
        self.whole.faults.push(problem.allowing("files that are there, each once"));
    }

    fn fault(&mut self, key: &str, span: std::ops::Range<usize>, message: String) {
        let allowed = "a path, or a list of them, such as [\"conf.d/*.toml\"]";
        self.whole.faults.push(Problem::new(key, Some(span), message).allowing(allowed));
    }
}

const INCLUDE: &str = "include";

struct Pattern {
    key: String,
    span: std::ops::Range<usize>,
    text: String,
}

/// A path without what leads nowhere, so that one file has one.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if plain.file_name().is_some() => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

fn has_wildcard(name: &str) -> bool {
    name.contains(['*', '?'])
}

/// Whether a name is as a pattern says: `*` for any characters, `?` for one. A name that begins with a dot is hidden.
fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on after the last `*`, if what comes does not fit.
    let mut again: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                again = Some((p + 1, n + 1));
                p += 1;
            }
            Some(&sign) if sign == '?' || sign == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((star, next)) = again else { return false };
                again = Some((star, next + 1));
                (p, n) = (star, next);
            }
        }
    }
    pattern[p..].iter().all(|&sign| sign == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_patterns_and_hidden_ones_do_not() {
        for (pattern, name, right) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", false),
            (".*", ".toml", true),
            ("*.toml", "a.toml~", false),
            ("*", "x", true),
            ("a?c*e", "abcde", true),
            ("a?c*e", "abce", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("??", "é→", true),
            ("a", "ab", false),
        ] {
            assert_eq!(matches(pattern, name), right, "{pattern} {name}");
        }
    }

    #[test]
    fn one_file_has_one_path() {
        assert_eq!(plain(Path::new("/a/./b/../c.toml")), Path::new("/a/c.toml"));
        assert_eq!(plain(Path::new("../c.toml")), Path::new("../c.toml"));
        assert_eq!(plain(Path::new("../../a/../c")), Path::new("../../c"));
    }
}

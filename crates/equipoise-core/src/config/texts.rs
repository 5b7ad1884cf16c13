//! The texts that a configuration is read from: the file that was asked for, and those that it includes.
//!
//! They are laid one after the other, so that a place is one range whichever file it is in; [`Texts::file`] says which. Knows nothing
//! of what is in them.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// A file that another includes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Included {
    /// Its path, as it was made from the including file's.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Texts, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Texts {
    whole: String,
    /// Where the first one ends.
    first: usize,
    included: Vec<(usize, Arc<Included>)>,
    /// Where lines begin, once that was asked for.
    starts: OnceLock<Vec<usize>>,
}

impl Texts {
    /// A text, the first.
    pub(super) fn new(text: &str) -> Self {
        Self {
            whole: text.to_owned(),
            first: text.len(),
            included: Vec::new(),
            starts: OnceLock::new(),
        }
    }

    /// Adds a text; where it begins.
    pub(super) fn add(&mut self, name: String, text: String) -> usize {
        // A sign between, so that the end of one is not the start of the next.
        self.starts = OnceLock::new();
        self.whole.push('\n');
        let start = self.whole.len();
        self.whole.push_str(&text);
        self.included.push((start, Arc::new(Included { name, text })));
        start
    }

    /// Those that are included, in the order in which they were read.
    pub(super) fn included(&self) -> impl Iterator<Item = &Included> {
        self.included.iter().map(|(_, file)| &**file)
    }

    /// The line of an offset in words: `5`, or `5 of a.toml` where that is an included file.
    pub(super) fn line(&self, offset: usize) -> String {
        let (file, range) = self.file(offset);
        let starts = self.starts.get_or_init(|| {
            let breaks = self.whole.match_indices('\n').map(|(at, _)| at + 1);
            std::iter::once(0).chain(breaks).collect()
        });
        let of = |offset| starts.partition_point(|start| *start <= offset);
        let line = of(offset) - of(range.start) + 1;
        match file {
            Some(file) => format!("{line} of {}", file.name),
            None => line.to_string(),
        }
    }

    /// All of them.
    pub(super) fn whole(&self) -> &str {
        &self.whole
    }

    /// The file of an offset, and where its text lies; none for the first.
    pub(super) fn file(&self, offset: usize) -> (Option<&Arc<Included>>, Range<usize>) {
        let after = self.included.partition_point(|(start, _)| *start <= offset);
        match after.checked_sub(1).map(|last| &self.included[last]) {
            Some((start, file)) => (Some(file), *start..start + file.text.len()),
            None => (None, 0..self.first),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_offset_is_of_the_file_that_it_is_in() {
        let mut texts = Texts::new("ab");
        assert_eq!(texts.add("one".to_owned(), String::new()), 3);
        assert_eq!(texts.add("two".to_owned(), "cd".to_owned()), 4);
        let of = |at| {
            let (file, range) = texts.file(at);
            (file.map_or("", |file| file.name.as_str()), range)
        };
        assert_eq!(of(0), ("", 0..2));
        assert_eq!(of(2), ("", 0..2));
        assert_eq!(of(3), ("one", 3..3));
        assert_eq!(of(4), ("two", 4..6));
        assert_eq!(of(9), ("two", 4..6));
        assert_eq!(&texts.whole()[4..6], "cd");
    }
}

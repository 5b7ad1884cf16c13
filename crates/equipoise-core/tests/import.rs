//! Configurations of other load balancers: each file of `import` with what comes of it beside it, and what could not be carried over.
//!
//! `UPDATE_EXPECT=1 cargo test -p equipoise-core --test import` writes them anew.

use std::fmt::Write as _;
use std::path::Path;

use equipoise_core::config::import::{Imported, Source, import};
use equipoise_core::config::{Format, parse};
use expect_test::expect_file;
use proptest::prelude::*;

const SOURCES: [(&str, Source); 3] =
    [("ipvs", Source::Ipvs), ("keepalived", Source::Keepalived), ("haproxy", Source::Haproxy)];

/// The corpus: path, source and text.
fn corpus() -> Vec<(String, Source, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let extension = path.extension().unwrap().to_str().unwrap();
        if let Some((_, source)) = SOURCES.iter().find(|(name, _)| *name == extension) {
            files.push((
                path.display().to_string(),
                *source,
                std::fs::read_to_string(&path).unwrap(),
            ));
        }
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    files
}

fn carried(source: Source, text: &str, to: Format) -> Imported {
    import(source, text, &["eth0".to_owned()], to)
}

fn passes(name: &str, text: &str) {
    if let Err(problems) = parse(name, text) {
        let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
        panic!("{}\n{text}", told.join("\n"));
    }
}

#[test]
fn files_of_other_balancers_give_what_is_recorded_and_it_passes_the_check() {
    let files = corpus();
    assert!(files.len() >= 5);
    for (path, source, text) in files {
        let Imported { text: written, left_out } = carried(source, &text, Format::Toml);
        let written = written.unwrap();
        passes("x.toml", &written);
        expect_file![format!("{path}.toml")].assert_eq(&written);
        let list = left_out.iter().fold(String::new(), |mut list, left| {
            writeln!(list, "{}: {}\n    {}", left.line, left.text, left.reason).unwrap();
            list
        });
        expect_file![format!("{path}.left")].assert_eq(&list);
        for (format, name) in [(Format::Json, "x.json"), (Format::Yaml, "x.yaml")] {
            let other = carried(source, &text, format).text.unwrap();
            assert_eq!(
                parse(name, &other).unwrap().config.services,
                parse("x.toml", &written).unwrap().config.services
            );
        }
    }
}

#[test]
fn where_nothing_can_be_carried_over_there_is_no_configuration() {
    let empty = carried(Source::Ipvs, "", Format::Toml);
    assert_eq!((empty.text, empty.left_out.len()), (None, 0));
    let none = carried(Source::Haproxy, "frontend a\n mode http\n bind :80\n", Format::Toml);
    assert_eq!((none.text, none.left_out.len()), (None, 1));
}

/// A file of the corpus with some of its text cut out, doubled or replaced.
fn damaged() -> impl Strategy<Value = (Source, String)> {
    let edits = prop::collection::vec(
        (any::<prop::sample::Index>(), 0..40usize, "[{}\"' \n0-9a-z.:/-]{0,6}"),
        1..5,
    );
    (prop::sample::select(corpus()), edits).prop_map(|((_, source, mut text), edits)| {
        for (at, length, piece) in edits {
            let start = text.floor_char_boundary(at.index(text.len() + 1));
            let end = text.floor_char_boundary((start + length).min(text.len())).max(start);
            text.replace_range(start..end, &piece);
        }
        (source, text)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_file_says_what_comes_of_it_passes_the_check((source, text) in damaged()) {
        let Imported { text: written, left_out } = carried(source, &text, Format::Toml);
        if let Some(written) = written {
            passes("x.toml", &written);
        }
        for left in left_out {
            prop_assert!(left.line >= 1 && left.line <= text.lines().count().max(1), "{left:?}");
        }
    }
}

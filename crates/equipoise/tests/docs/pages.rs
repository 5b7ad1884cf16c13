//! What stands in the documents is true of the program: configurations pass the check, commands pass the parser, links lead somewhere, and the
//! page of commands is made of the arguments themselves.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, Command, CommandFactory as _, Parser as _};
use equipoise::cli::Exit;
use equipoise::cli::args::Arguments;
use equipoise_common::flow::set::{Set, sets_for};
use equipoise_core::config::{self, Around, schema};
use expect_test::expect_file;
use serde_json::Value;

use crate::blocks::{Block, Document, Step, commands, ours, root};

/// Languages of blocks, and of configurations those whose keys are ours.
const LANGUAGES: [&str; 10] = [
    "console",
    "sh",
    "toml",
    "yaml",
    "json",
    "edn",
    "ini",
    "text",
    "keepalived",
    "yaml,prometheus",
];

/// What a part of a configuration is a part of: a service, whose backends are left to it where it has its own.
const LISTEN: &str = "[[service]]\nname = \"web\"\nlisten = { interfaces = [\"eth0\"], address = \"203.0.113.10\", port = 80 }\n";
const BACKENDS: &str = "backends = [{ address = \"10.0.0.11:8080\" }]\n";

/// A block of TOML as a whole file: as it is, or around it what it is a part of.
fn whole(text: &str) -> String {
    let lines =
        || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let has = |begin: &str| lines().any(|line| line.starts_with(begin));
    if has("[[service]]") || has("include") {
        return text.to_owned();
    }
    let first = lines().next().unwrap_or_default();
    let is_of_service = !first.starts_with("[settings") && !first.starts_with("[[settings");
    let begins_with_key = !first.starts_with('[');
    match (is_of_service, begins_with_key && has("backends")) {
        (true, true) => format!("{LISTEN}{text}"),
        (true, false) => format!("{LISTEN}{BACKENDS}{text}"),
        (false, _) => format!("{text}\n{LISTEN}{BACKENDS}"),
    }
}

/// The name that has a configuration be read as what it is, and the whole of it; none for other blocks.
fn configuration(block: &Block) -> Option<(&'static str, String)> {
    match &*block.language {
        "toml" => Some(("a.toml", whole(&block.text))),
        "yaml" => Some(("a.yaml", block.text.clone())),
        "edn" => Some(("a.edn", block.text.clone())),
        "json" if block.text.contains("\"service\"") => Some(("a.json", block.text.clone())),
        _ => None,
    }
}

#[test]
fn blocks_say_what_they_are_and_configurations_pass_the_check() {
    let (mut checked, mut wrong) = (0, Vec::new());
    for document in Document::all() {
        for block in document.blocks() {
            let place = format!("{}:{}", document.path, block.line);
            if !LANGUAGES.contains(&&*block.language) {
                wrong.push(format!("{place}: a block of `{}`", block.language));
            }
            if block.language == "json" {
                let value: Result<Value, _> = serde_json::from_str(&block.text);
                wrong.extend(value.err().map(|error| format!("{place}: {error}")));
            }
            let Some((name, text)) = configuration(&block) else { continue };
            // Lists of prefixes that it names are some.
            let files = |_: &Path| Ok("198.51.100.0/24\n".to_owned());
            if let Err(problems) = config::parse_with(name, &text, &Around::files(&files)) {
                let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
                wrong.push(format!("{place}: {}\n{text}", told.join("\n")));
            }
            checked += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 20, "{checked}");
}

/// Lines that are commands: of shells, and those by which units start processes.
fn lines(document: &Document) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    for block in document.blocks() {
        for step in block.steps() {
            if let Step::Type { line, command, .. } = step {
                lines.push((line, command));
            }
        }
        if block.language == "ini" {
            for (line, text) in (block.line..).zip(block.text.lines()) {
                let value = text.strip_prefix("Exec").and_then(|rest| rest.split_once('='));
                lines.extend(value.map(|(_, command)| {
                    (line, command.trim_start_matches(['+', '-', '!']).to_owned())
                }));
            }
        }
    }
    lines
}

#[test]
fn commands_in_blocks_pass_the_parser() {
    let (mut parsed, mut wrong) = (0, Vec::new());
    for document in Document::all() {
        for (line, text) in lines(&document) {
            for words in ours(&text) {
                // What the shell would put there.
                let words: Vec<_> = words
                    .iter()
                    .map(|word| word.replace("$i", "1").replace("$MAINPID", "1"))
                    .collect();
                // Help and versions are no errors.
                let error = Arguments::try_parse_from(&words).err().filter(clap::Error::use_stderr);
                wrong.extend(
                    error.map(|error| format!("{}:{line}: {text}\n{error}", document.path)),
                );
                parsed += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(parsed > 80, "{parsed}");
}

#[test]
fn examples_of_the_help_pass_the_parser() {
    let mut parsed = 0;
    each_command(&Arguments::command(), "equipoise", &mut |name, command| {
        let Some(help) = command.get_after_long_help() else { return };
        for line in help.to_string().lines() {
            // Words about an example stand apart from it.
            let line = line.trim();
            let line =
                line.split_once("  ").map_or(line, |(example, _)| example).replace("...", "");
            for words in ours(&line) {
                Arguments::try_parse_from(&words)
                    .unwrap_or_else(|error| panic!("{name}: {line}\n{error}"));
                parsed += 1;
            }
        }
    });
    assert!(parsed > 30, "{parsed}");
}

/// In running text a command has words that stand for others, so its name and flags alone are looked at.
#[test]
fn commands_in_running_text_have_their_names_and_flags() {
    let mut whole = Arguments::command();
    whole.build();
    let (mut looked_at, mut wrong) = (0, Vec::new());
    for document in Document::all() {
        for (line, quoted) in document.quoted() {
            // Not how crates hang together.
            if !quoted.starts_with("equipoise ") || quoted.contains("->") {
                continue;
            }
            let place = format!("{}:{line}: `{quoted}`", document.path);
            let mut command = &whole;
            let mut is_value = false;
            for word in quoted.split_whitespace().skip(1) {
                if std::mem::take(&mut is_value) {
                    continue;
                }
                if let Some(flag) = word.strip_prefix('-') {
                    let flag = flag.trim_start_matches('-').trim_end_matches([',', ']']);
                    let flag = flag.split('=').next().unwrap_or_default();
                    let is_one = |arg: &Arg| {
                        arg.get_long() == Some(flag)
                            || arg.get_short().is_some_and(|short| flag.chars().all(|c| c == short))
                    };
                    let found = command.get_arguments().find(|arg| is_one(arg));
                    is_value = found.is_some_and(|arg| arg.get_action().takes_values());
                    if !flag.is_empty() && found.is_none() {
                        wrong.push(format!("{place}: no flag -{flag}"));
                    }
                } else if let Some(below) = command.find_subcommand(word) {
                    command = below;
                } else if command.get_name() == "equipoise" && !word.starts_with('-') {
                    let is_name = word.chars().all(|c| c.is_ascii_lowercase());
                    if is_name {
                        wrong.push(format!("{place}: no command {word}"));
                    }
                }
            }
            looked_at += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(looked_at > 40, "{looked_at}");
}

/// All names of keys, from the schema.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    if let Some(properties) = value["properties"].as_object() {
        found.extend(properties.keys().cloned());
    }
    match value {
        Value::Object(map) => map.values().for_each(|value| keys(value, found)),
        Value::Array(list) => list.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn keys_in_running_text_are_there() {
    let mut known = BTreeSet::new();
    keys(&schema(), &mut known);
    assert!(known.contains("on-unknown"));
    let (mut looked_at, mut wrong) = (0, Vec::new());
    // What is for those who change the program has attributes of Rust.
    for document in
        Document::all().into_iter().filter(|document| document.path != "CONTRIBUTING.md")
    {
        for (line, quoted) in document.quoted() {
            let Some((key, value)) = quoted.split_once(" = ") else { continue };
            let is_key = key.contains('-') || value.starts_with(['"', '{']);
            let last = key.rsplit(['.', ' ']).next().unwrap_or_default();
            if !is_key || !last.chars().all(|c| c.is_ascii_lowercase() || c == '-') {
                continue;
            }
            if !known.contains(last) {
                wrong.push(format!("{}:{line}: no key `{last}`", document.path));
            }
            looked_at += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(looked_at > 40, "{looked_at}");
}

#[test]
fn metrics_in_running_text_are_there() {
    let families = equipoise::metrics::catalogue();
    let mut looked_at = 0;
    for document in Document::all() {
        for (line, quoted) in
            document.quoted().into_iter().filter(|(_, quoted)| quoted.starts_with("lb_"))
        {
            let is_there = families.iter().any(|family| family.name == quoted);
            assert!(is_there, "{}:{line}: no metric {quoted}", document.path);
            looked_at += 1;
        }
    }
    assert!(looked_at > 60, "{looked_at}");
}

/// Tests that are named in commands of cargo are there.
#[test]
fn tests_and_benches_that_commands_name_are_there() {
    for document in Document::all() {
        let quoted =
            document.quoted().into_iter().filter(|(_, quoted)| quoted.starts_with("cargo "));
        for (line, text) in lines(&document).into_iter().chain(quoted) {
            for words in commands(&text).into_iter().filter(|words| words[0] == "cargo") {
                let mut pairs = words.windows(2);
                while let Some([flag, name]) = pairs.next() {
                    let folder = match &**flag {
                        "--test" => "tests",
                        "--bench" => "benches",
                        _ => continue,
                    };
                    let is_there =
                        ["equipoise", "equipoise-core", "equipoise-common"].iter().any(|name_of| {
                            root().join(format!("crates/{name_of}/{folder}/{name}.rs")).is_file()
                        });
                    assert!(
                        is_there || name == "NAME",
                        "{}:{line}: no {folder}/{name}.rs",
                        document.path
                    );
                }
            }
        }
    }
}

#[test]
fn links_lead_to_files_that_are_there_and_the_book_has_every_page() {
    let summary = Document::read("docs/SUMMARY.md");
    let mut wrong = Vec::new();
    for document in Document::all() {
        let folder = root().join(&document.path).parent().unwrap().to_path_buf();
        for target in targets(&document.text) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !folder.join(file).exists() {
                wrong.push(format!("{}: no {target}", document.path));
            }
        }
        let page = document.path.strip_prefix("docs/").filter(|name| *name != "SUMMARY.md");
        let missing = page.filter(|name| !summary.text.contains(&format!("({name})")));
        wrong.extend(missing.map(|name| format!("{name} is not in docs/SUMMARY.md")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Where the links of a text lead within the repository.
fn targets(text: &str) -> Vec<&str> {
    let after = text.split("](").skip(1);
    let targets = after.filter_map(|after| Some(after.split_once(')')?.0));
    targets.filter(|target| !target.contains("://") && !target.contains(' ')).collect()
}

const CLI_HEAD: &str = "\
# Commands

Every command with its arguments, made of what the program itself reads: `UPDATE_EXPECT=1 cargo test -p equipoise --test docs` writes this page anew. `equipoise man`
prints the same as manual pages, `equipoise completions` what a shell needs to complete it, and `equipoise help COMMAND` says it in a terminal.

BACKEND is the address and port of a backend as the configuration writes them: `10.0.0.11:8080`. Where a backend is in several pools of a service, `--route` names one.

Answers go to standard output, all else to standard error. With `--json` an answer is one JSON value, or with `--watch` and `--follow` one after the other. What is waited for (`drain --wait`,
`upgrade`) shows meanwhile how far it has come: a bar on a terminal, elsewhere a line when that has changed, one a second at most; nothing with `--json`. Colours are for terminals, and for none
where `NO_COLOR` is set. An error is followed by what to do next (`help:`), where that is known; in the admin API that is `help` of the problem.

An instance that hangs is not waited for: questions have 10 s to be answered, what is to be done and `flows` 60 s. What takes its time by its nature (`drain --wait`, `wait`, `upgrade`, `events`, `trace`,
`capture`, `top-talkers`, `health check`) has all the time in the world, or that which it is given; `top` says for how long there has been no answer.

";

/// The exit codes as a table.
fn exit_codes() -> String {
    let mut text = "| exit code | meaning |\n| --- | --- |\n| 0 | done |\n".to_owned();
    for exit in Exit::ALL {
        writeln!(text, "| {} | {} |", exit as u8, exit.meaning()).unwrap();
    }
    text
}

#[test]
fn the_page_on_the_end_of_the_process_has_every_exit_code() {
    let text = include_str!("../../../../docs/lifecycle.md");
    assert!(text.contains(&format!("\n\n{}\n", exit_codes())), "{}", exit_codes());
}

#[test]
fn cli_md_is_every_command() {
    let mut whole = Arguments::command();
    whole.build();
    let mut text = CLI_HEAD.to_owned();
    writeln!(text, "{}", exit_codes()).unwrap();
    text.push_str("## Flags of all commands\n\nThey stand before or after the command.\n\n");
    let is_global = |arg: &&Arg| arg.is_global_set();
    table(&mut text, whole.get_arguments().filter(is_global).filter(|arg| arg.get_id() != "help"));
    each_command(&whole, "equipoise", &mut |name, command| {
        if name == "equipoise" {
            return;
        }
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(text, "\n## `{name}`\n\n{about}.\n").unwrap();
        let mut usage = command.clone().render_usage().to_string();
        usage = usage.replace("Usage: ", "").replace("\n       ", "\n");
        writeln!(text, "```text\n{usage}\n```").unwrap();
        let own: Vec<_> = command
            .get_arguments()
            .filter(|arg| !arg.is_global_set() && !arg.is_hide_set() && arg.get_id() != "help")
            .collect();
        if !own.is_empty() {
            text.push('\n');
            table(&mut text, own);
        }
        if let Some(help) = command.get_after_long_help() {
            writeln!(text, "\n```text\n{}\n```", help.to_string().trim_end()).unwrap();
        }
    });
    expect_file!["../../../../docs/cli.md"].assert_eq(&text);
}

/// A command and all below it, by their whole names, but for those that are hidden and `help`.
fn each_command(command: &Command, name: &str, then: &mut impl FnMut(&str, &Command)) {
    then(name, command);
    for below in
        command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help")
    {
        each_command(below, &format!("{name} {}", below.get_name()), then);
    }
}

/// Arguments as rows.
fn table<'a>(text: &mut String, arguments: impl IntoIterator<Item = &'a Arg>) {
    text.push_str("| argument | |\n| --- | --- |\n");
    for arg in arguments {
        let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let defaults: Vec<_> =
            arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let takes_values = arg.get_num_args().is_some_and(|range| range.takes_values());
        if takes_values && !defaults.is_empty() {
            write!(help, " [default: {}]", defaults.join(" ")).unwrap();
        }
        let possible: Vec<_> =
            arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        if takes_values && !possible.is_empty() {
            write!(help, " [{}]", possible.join(", ")).unwrap();
        }
        let shown = arg.to_string();
        let shown = match (arg.get_short(), arg.is_positional()) {
            (Some(short), false) => format!("-{short}, {shown}"),
            _ => shown,
        };
        let escaped = |text: &str| text.replace('|', "\\|").replace('<', "\\<");
        writeln!(text, "| `{}` | {} |", shown.replace('|', "\\|"), escaped(&help)).unwrap();
    }
}

/// The table of memory is what tables of so many flows take.
#[test]
fn capacity_md_has_what_flow_tables_take() {
    let text = Document::read("docs/capacity.md").text;
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| ") && line.matches('|').count() == 5)
        .skip(1);
    let mut looked_at = 0;
    for row in rows.filter(|row| !row.contains("---")) {
        let number = |cell: &str| -> u64 {
            let digits = cell.split('(').next().unwrap_or_default().replace(' ', "");
            digits.parse().unwrap_or_else(|_| panic!("{row}"))
        };
        let cells: Vec<_> = row.trim_matches('|').split('|').map(number).collect();
        let [flows, v4, v6, both] = cells[..] else { panic!("{row}") };
        let sets = u64::from(sets_for(u32::try_from(flows).unwrap()));
        let bytes = [size_of::<Set<u64, 8>>(), size_of::<Set<u64, 16>>()]
            .map(|of_set| sets * of_set as u64);
        let megabytes =
            [bytes[0], bytes[1], bytes[0] + bytes[1]].map(|bytes| bytes.div_ceil(1_000_000));
        assert_eq!([v4, v6, both], megabytes, "{row}");
        looked_at += 1;
    }
    assert_eq!(looked_at, 6);
}

/// Figures that are quoted are those that were measured.
#[test]
fn figures_in_capacity_md_are_those_of_benchmarks_md() {
    let capacity = Document::read("docs/capacity.md").text;
    let section = capacity.split("## CPU").nth(1).unwrap().split("On your machine").next().unwrap();
    let figures = Document::read("docs/benchmarks.md").text;
    let row = |packet: &str, flows: &str| {
        let begin = format!("| {packet} | {flows} | ");
        let row = figures.lines().find_map(|line| line.strip_prefix(&begin));
        row.unwrap_or_else(|| panic!("{begin}")).split(' ').next().unwrap().to_owned()
    };
    for packet in ["IPv4 XDP established", "IPv4 XDP reply", "IPv4 XDP new", "IPv4 XDP not ours"] {
        for flows in ["1000", "1000000"] {
            let figure = row(packet, flows);
            let is_told =
                section.split(|c: char| !c.is_ascii_digit()).any(|number| number == figure);
            assert!(is_told, "{packet} at {flows} flows is {figure} ns");
        }
    }
}

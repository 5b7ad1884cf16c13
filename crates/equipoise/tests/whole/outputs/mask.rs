//! What is otherwise from run to run, and nothing else, taken out of what commands say.
//!
//! Times of day, how long something took or goes on, numbers of processes and users, and the version. A figure that is not one of these stays,
//! so that a record shows it when it becomes another.

/// Keys of JSON whose numbers are measured, or are of this process.
const NUMBERS: [&str; 8] = [
    "elapsed_ms",
    "last_check_seconds",
    "latency_ms",
    "next_lookup_seconds",
    "pid",
    "remaining_seconds",
    "uid",
    "uptime_seconds",
];

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a command has said, without what is otherwise from run to run.
pub(super) fn masked(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", line_without(line))).collect()
}

fn line_without(line: &str) -> String {
    if let Some(line) = of_json(line) {
        return line;
    }
    let line = without_times(line);
    if let Some((begin, _)) = line.split_once(&format!(", version {VERSION}, pid ")) {
        // Up how long stands at the end of it.
        return format!("{begin}, version VERSION, pid N, up N");
    }
    let line = after(&line, "applied by user ", |c| c.is_ascii_digit());
    let line = after(&line, "rejected by user ", |c| c.is_ascii_digit());
    words_without(&line)
}

/// A line of JSON whose key is one of those.
fn of_json(line: &str) -> Option<String> {
    let (key, value) = line.trim_start().strip_prefix('"')?.split_once("\": ")?;
    let indent = &line[..line.len() - line.trim_start().len()];
    let (value, comma) = value.strip_suffix(',').map_or((value, ""), |value| (value, ","));
    if key == "version" && value == format!("\"{VERSION}\"") {
        return Some(format!("{indent}\"version\": \"VERSION\"{comma}"));
    }
    let is_masked = NUMBERS.contains(&key) && value.parse::<f64>().is_ok();
    is_masked.then(|| format!("{indent}\"{key}\": N{comma}"))
}

/// `2026-11-29T09:49:42.118Z`, with or without milliseconds.
fn without_times(line: &str) -> String {
    const FORM: &[u8] = b"0000-00-00T00:00:00";
    let is_time = |text: &str| {
        let bytes = text.as_bytes();
        let fits = |(form, byte): (&u8, &u8)| {
            if *form == b'0' { byte.is_ascii_digit() } else { form == byte }
        };
        let begins = bytes.len() > FORM.len() && FORM.iter().zip(bytes).all(fits);
        let rest = begins.then(|| &text[FORM.len()..])?;
        let fraction = rest.strip_prefix('.').unwrap_or(rest);
        let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
        zone.starts_with('Z').then(|| text.len() - zone.len() + 1)
    };
    let (mut left, mut at) = (String::new(), 0);
    while let Some(c) = line[at..].chars().next() {
        if let Some(length) = is_time(&line[at..]) {
            left.push_str("TIME");
            at += length;
        } else {
            left.push(c);
            at += c.len_utf8();
        }
    }
    left
}

/// Takes what is made of these characters out behind some words.
fn after(line: &str, words: &str, is_of: impl Fn(char) -> bool) -> String {
    let Some((begin, rest)) = line.split_once(words) else { return line.to_owned() };
    format!("{begin}{words}N{}", rest.trim_start_matches(is_of))
}

/// Words that are measured times: milliseconds with their fraction; in a row of a drain, or behind a time of day, whatever lasts.
fn words_without(line: &str) -> String {
    let is_drain = ["  draining  ", "  completed  "].iter().any(|status| line.contains(status));
    let (mut words, mut lasts) = (Vec::new(), is_drain);
    let mut rest = line.split(' ').peekable();
    while let Some(word) = rest.next() {
        let is_decimal = word.contains('.') && word.parse::<f64>().is_ok();
        if is_decimal && rest.peek() == Some(&"ms") {
            words.push("N");
        } else if lasts && is_duration(word) && !(is_drain && word == "1h") {
            // Hours and minutes of one duration are words of their own.
            if words.last() != Some(&"N") {
                words.push("N");
            }
        } else {
            lasts |= word == "TIME";
            words.push(word);
        }
    }
    words.join(" ")
}

/// `1h`, `59m`, `3412.6s`.
fn is_duration(word: &str) -> bool {
    let number = word.strip_suffix(['h', 'm', 's']);
    number.is_some_and(|number| number.parse::<f64>().is_ok())
}

/// Tables whose cells have become shorter or longer: one space or two between words, whatever the width of a column was.
pub(super) fn without_widths(text: &str) -> String {
    let narrow = |line: &str| {
        let rest = line.trim_start();
        let indent = &line[..line.len() - rest.len()];
        let cells: Vec<_> =
            rest.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        format!("{indent}{}\n", cells.join("  "))
    };
    text.lines().map(narrow).collect()
}

#[test]
fn what_is_otherwise_is_masked_and_nothing_else_is() {
    for (line, left) in [
        ("  \"pid\": 4242,", "  \"pid\": N,"),
        ("  \"latency_ms\": 0.25", "  \"latency_ms\": N"),
        ("  \"latency_ms\": null", "  \"latency_ms\": null"),
        ("  \"generation\": 4,", "  \"generation\": 4,"),
        ("  \"since\": \"2026-11-29T09:49:42.118Z\",", "  \"since\": \"TIME\","),
        (
            "2026-11-29T09:49:42Z  applied by user 1000: reload (generation 2)",
            "TIME  applied by user N: reload (generation 2)",
        ),
        ("a  TIME  59m 58s  x", "a  TIME  N  x"),
        ("api  2026-11-29T09:49:42.118Z  3412.6s  0", "api  TIME  N  0"),
        ("web  draining  2  2  12s  1h", "web  draining  2  2  N  1h"),
        ("tcp x: good in 0.5 ms", "tcp x: good in N ms"),
        ("closing 30s, one-way 30s", "closing 30s, one-way 30s"),
        ("2026-11-29", "2026-11-29"),
    ] {
        assert_eq!(masked(line), format!("{left}\n"), "{line}");
    }
    assert_eq!(without_widths(" A   B \n a  b c   \n"), " A  B\n a  b c\n");
}

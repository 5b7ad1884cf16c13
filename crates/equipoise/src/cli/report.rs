//! What is wrong with a configuration, shown to people: each problem with its part of the text.
//!
//! Everything goes to standard error at once, in the order of the text. Colours are for terminals,
//! unless `NO_COLOR` is set; what does not go to a terminal is not wrapped either, so that it can
//! be searched.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::ops::Range;

use equipoise_core::config::{Included, Problem};
use miette::{
    Diagnostic, LabeledSpan, MietteError, MietteHandler, MietteHandlerOpts, MietteSpanContents,
    ReportHandler, Severity, SourceCode, SourceSpan, SpanContents,
};

use super::hidden::hidden;
use super::source::Text;
use crate::terminal::is_coloured;

/// Shows what is wrong.
pub(super) fn problems(text: &Text, problems: &[Problem]) {
    say(text, problems, Severity::Error);
}

/// Shows what is worth a warning.
pub(super) fn notes(text: &Text, notes: &[Problem]) {
    say(text, notes, Severity::Warning);
}

fn say(text: &Text, problems: &[Problem], severity: Severity) {
    let stream = io::stderr();
    let look = MietteHandlerOpts::new().color(is_coloured(&stream));
    let look = look.wrap_lines(stream.is_terminal());
    let shown = render(text, problems, severity, look);
    // When standard error is gone there is nobody left to tell.
    let _: io::Result<()> = io::stderr().write_all(shown.as_bytes());
}

fn render(
    text: &Text,
    problems: &[Problem],
    severity: Severity,
    look: MietteHandlerOpts,
) -> String {
    let handler =
        look.unicode(true).terminal_links(false).force_graphical(true).context_lines(1).build();
    let main = Lines::new(&text.name, &text.text);
    // Problems of a file are together.
    let mut other: Option<(&Included, Lines<'_>)> = None;
    let mut all = String::new();
    for problem in problems {
        let source = match problem.file.as_deref() {
            None => &main,
            Some(file) => {
                if other.as_ref().is_none_or(|(there, _)| !std::ptr::eq(*there, file)) {
                    other = Some((file, Lines::new(&file.name, &file.text)));
                }
                other.as_ref().map_or(&main, |(_, lines)| lines)
            }
        };
        let shown = Shown { problem, severity, source, handler: &handler };
        // A problem that cannot be drawn is still told.
        let before = all.len();
        if writeln!(all, "{shown}").is_err() {
            all.truncate(before);
            all.push_str(&format!("{}:{problem}\n", problem.file_or(&text.name)));
        }
    }
    if let (Severity::Error, count @ 2..) = (severity, problems.len()) {
        all.push_str(&format!("{count} problems in {}\n", text.name));
    }
    all
}

/// A problem with all that is shown of it.
struct Shown<'a> {
    problem: &'a Problem,
    severity: Severity,
    source: &'a Lines<'a>,
    handler: &'a MietteHandler,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Self { problem, severity, source, handler } = self;
        handler.debug(&Told { problem, severity, source }, f)
    }
}

/// A problem as miette asks about it: the message, the key at its place, what is allowed.
#[derive(Debug)]
struct Told<'a> {
    problem: &'a Problem,
    severity: Severity,
    source: &'a Lines<'a>,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message)
    }
}

impl std::error::Error for Told<'_> {}

impl Diagnostic for Told<'_> {
    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let allowed = self.problem.allowed.as_ref()?;
        Some(Box::new(format!("allowed: {allowed}")))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.problem.span.clone()?;
        let end = span.end.min(self.source.line_around(span.start).end).max(span.start);
        let key = Some(self.problem.key.clone()).filter(|key| !key.is_empty());
        let label = LabeledSpan::new_primary_with_span(key, (span.start, end - span.start));
        Some(Box::new(std::iter::once(label)))
    }
}

/// A text that gives out its parts without being read from the start each time, which with
/// thousands of problems would be their number times its length.
#[derive(Debug)]
struct Lines<'a> {
    name: &'a str,
    /// Without secrets.
    text: Cow<'a, str>,
    starts: Vec<usize>,
}

/// Longer lines, as those of JSON that a program wrote, are shown in part.
const LONG_LINE: usize = 240;
/// How much of a long line is shown before and after what is wrong.
const AROUND: usize = 60;

impl<'a> Lines<'a> {
    fn new(name: &'a str, text: &'a str) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { name, text: hidden(text), starts: std::iter::once(0).chain(breaks).collect() }
    }

    /// The number of the line of an offset, from 0.
    fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset).saturating_sub(1)
    }

    /// The line of an offset without its end.
    fn line_around(&self, offset: usize) -> Range<usize> {
        let line = self.line(offset);
        let start = self.starts[line];
        let end = self.starts.get(line + 1).map_or(self.text.len(), |next| next - 1);
        start..end
    }

    /// A part of the text whose start is on a line, with its place for miette.
    fn part(&self, line: usize, part: Range<usize>) -> Option<MietteSpanContents<'_>> {
        let data = self.text.get(part.clone())?;
        let column = self.text.get(self.starts[line]..part.start)?.chars().count();
        let span = (part.start, part.len()).into();
        let (name, count) = (self.name, data.lines().count());
        Some(MietteSpanContents::new_named(
            name.to_owned(),
            data.as_bytes(),
            span,
            line,
            column,
            count,
        ))
    }
}

impl SourceCode for Lines<'_> {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let text = &*self.text;
        let (start, end) = (span.offset(), span.offset() + span.len());
        let (first, last) = (self.line(start), self.line(end));
        let part = if before == 0 && after == 0 {
            self.part(first, start..end)
        } else if self.line_around(start).len() > LONG_LINE {
            let line = self.line_around(start);
            let from = text.floor_char_boundary(start.saturating_sub(AROUND)).max(line.start);
            let to = text.ceil_char_boundary(end + AROUND).min(line.end).max(end);
            self.part(first, from..to)
        } else {
            let first = first.saturating_sub(before);
            let to = self.starts.get(last + after + 1).copied().unwrap_or(text.len());
            self.part(first, self.starts[first]..to)
        };
        part.map(|part| Box::new(part) as Box<dyn SpanContents<'a> + 'a>)
            .ok_or(MietteError::OutOfBounds)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use equipoise_core::config::{flags_text, from_flags, parse};
    use expect_test::{Expect, expect};

    use super::*;

    fn plain() -> MietteHandlerOpts {
        MietteHandlerOpts::new().color(false).width(100).wrap_lines(false)
    }

    fn text(name: &str, text: &str) -> Text {
        Text { name: name.to_owned(), text: text.to_owned() }
    }

    /// What is shown, below a line that starts at the margin: `expect` takes away the margin that
    /// all lines share.
    fn drawn(text: &Text, problems: &[Problem], severity: Severity) -> String {
        format!("{}:\n{}", text.name, render(text, problems, severity, plain()))
    }

    fn shows(name: &str, file: &str, expected: &Expect) {
        let problems = parse(name, file).unwrap_err();
        expected.assert_eq(&drawn(&text(name, file), &problems, Severity::Error));
    }

    #[test]
    fn all_problems_are_shown_at_once_each_with_its_place_and_what_is_allowed() {
        let file = "# grüße\n[[service]]\nname = \"wéb\"\nlisten = { interfaces = [\"éth0\"], \
                    port = 0 }\nbakcends = []\n";
        shows(
            "/etc/a.toml",
            file,
            &expect![[r#"
                /etc/a.toml:
                  × `backends` is missing
                   ╭─[/etc/a.toml:2:1]
                 1 │ # grüße
                 2 │ [[service]]
                   · ─────┬─────
                   ·      ╰── service[0].backends
                 3 │ name = "wéb"
                   ╰────
                  help: allowed: at least one backend

                  × `0` is out of range
                   ╭─[/etc/a.toml:4:42]
                 3 │ name = "wéb"
                 4 │ listen = { interfaces = ["éth0"], port = 0 }
                   ·                                          ┬
                   ·                                          ╰── service[0].listen.port
                 5 │ bakcends = []
                   ╰────
                  help: allowed: 1 to 65535

                  × unknown key `bakcends`
                   ╭─[/etc/a.toml:5:1]
                 4 │ listen = { interfaces = ["éth0"], port = 0 }
                 5 │ bakcends = []
                   · ────┬───
                   ·     ╰── service[0].bakcends
                   ╰────
                  help: allowed: `backends` is the nearest; the keys here are `affinity`, `affinity-prefix`, `algorithm`, `backends`, `breaker`, `fragments`, `health-check`, `limits`, `listen`, `manage-address`, `max-flows`, `mode`, `mss-clamp`, `name`, `name-route`, `on-backend-down`, `on-backend-removed`, `on-empty`, `on-full`, `on-unknown`, `panic`, `recovery`, `snat-addresses`, `source-route`, `timeouts`

                3 problems in /etc/a.toml
            "#]],
        );
    }

    #[test]
    fn a_problem_of_the_whole_text_has_no_key() {
        shows(
            "a.json",
            "{ \"service\": [], }\n",
            &expect![[r#"
                a.json:
                  × this is not JSON: trailing commas are not allowed
                   ╭─[a.json:1:16]
                 1 │ { "service": [], }
                   ·                ─
                   ╰────

            "#]],
        );
    }

    #[test]
    fn an_empty_text_and_the_end_of_one_can_be_pointed_at() {
        shows(
            "a.toml",
            "",
            &expect![[r#"
                a.toml:
                  × `service` is missing
                   ╭─[a.toml:1:1]
                   ╰────
                  help: allowed: at least one service

            "#]],
        );
        shows(
            "a.toml",
            "[[service]\n\n",
            &expect![[r#"
                a.toml:
                  × this is not TOML: unclosed array table
                   ╭─[a.toml:1:11]
                 1 │ [[service]
                   ·           ▲
                 2 │ 
                   ╰────
                  help: allowed: `]`

            "#]],
        );
        shows(
            "a.json",
            "{\n",
            &expect![[r#"
                a.json:
                  × this is not JSON: unterminated object
                   ╭─[a.json:1:1]
                 1 │ {
                   · ─
                   ╰────

            "#]],
        );
    }

    #[test]
    fn a_problem_without_a_place_is_shown_without_a_part_of_the_text() {
        shows(
            "a.conf",
            "x",
            &expect![[r#"
                a.conf:
                  × `a.conf` is not of a kind of file that can be read
                  help: allowed: a name that ends in `.toml`, `.yaml`, `.yml`, `.json` or `.edn`

            "#]],
        );
    }

    #[test]
    fn of_a_long_line_only_the_part_around_the_problem_is_shown() {
        let backends = vec![r#"{"address":"10.0.0.1:80"}"#; 20].join(",");
        let file = format!(
            r#"{{"service":[{{"name":"w","listen":{{"interfaces":["eth0"],"port":0}},"backends":[{{"address":"10.0.0.x"}},{backends}]}}]}}"#
        );
        let problems = parse("a.json", &file).unwrap_err();
        let shown = drawn(&text("a.json", &file), &problems[..2], Severity::Error);
        expect![[r#"
            a.json:
              × `0` is out of range
               ╭─[a.json:1:64]
             1 │ ervice":[{"name":"w","listen":{"interfaces":["eth0"],"port":0},"backends":[{"address":"10.0.0.x"},{"address":"10.0.0.1:80
               ·                                                             ┬
               ·                                                             ╰── service[0].listen.port
               ╰────
              help: allowed: 1 to 65535

              × `10.0.0.x` is not an address and a port
               ╭─[a.json:1:90]
             1 │ en":{"interfaces":["eth0"],"port":0},"backends":[{"address":"10.0.0.x"},{"address":"10.0.0.1:80"},{"address":"10.0.0.1:80"},{"addr
               ·                                                             ─────┬────
               ·                                                                  ╰── service[0].backends[0].address
               ╰────
              help: allowed: an address and a port, such as 10.0.0.1:8080 or [2001:db8::1]:8080, or an address alone to keep the client's port

            2 problems in a.json
        "#]].assert_eq(&shown);
    }

    #[test]
    fn notes_are_warnings_and_are_not_counted() {
        let file = "[[service]]\nname = \"web\"\nlisten = { interfaces = [\"eth0\"], port = 80 }\r\n\
                    backends = [{ address = \"10.0.0.1:80\" }]\r\n";
        let notes = parse("a.toml", file).unwrap().notes;
        expect![[r#"
            a.toml:
              ⚠ service `web` is reachable by IPv6 where its interfaces have such addresses, and has no IPv6 backend
               ╭─[a.toml:3:1]
             2 │ name = "web"
             3 │ listen = { interfaces = ["eth0"], port = 80 }
               · ───┬──
               ·    ╰── service[0].listen
             4 │ backends = [{ address = "10.0.0.1:80" }]
               ╰────
              help: allowed: a backend with an IPv6 address, or `address` to listen on one alone

        "#]].assert_eq(&drawn(&text("a.toml", file), &notes, Severity::Warning));
    }

    #[test]
    fn flags_are_shown_as_a_command_line() {
        let (interfaces, targets) = (["eth0".to_owned()], ["10.0.0.x".to_owned()]);
        let problems = from_flags(&interfaces, 80, &targets).unwrap_err();
        let text = Text::of_flags(flags_text(&interfaces, 80, &targets));
        expect![[r#"
            command line:
              × `10.0.0.x` is not an address and a port
               ╭─[command line:1:18]
             1 │ -i eth0 -p 80 -t 10.0.0.x
               ·                  ────┬───
               ·                      ╰── -t
               ╰────
              help: allowed: an address and a port, such as 10.0.0.1:8080 or [2001:db8::1]:8080, or an address alone to keep the client's port

        "#]]
        .assert_eq(&drawn(&text, &problems, Severity::Error));
    }

    #[test]
    fn colours_are_there_when_asked_for_and_only_then() {
        let problems = parse("a.toml", "").unwrap_err();
        let coloured = |color| {
            let look = MietteHandlerOpts::new().color(color);
            render(&text("a.toml", ""), &problems, Severity::Error, look).contains('\u{1b}')
        };
        assert!(coloured(true));
        assert!(!coloured(false));
    }

    #[test]
    fn thousands_of_problems_are_shown_in_time() {
        let lines: String =
            (0..4096).map(|n| format!("  {{ address = \"host-{n}\" }},\n")).collect();
        let file = format!("[[service]]\nname = \"w\"\nlisten = {{}}\nbackends = [\n{lines}]\n");
        let problems = parse("a.toml", &file).unwrap_err();
        let start = Instant::now();
        let shown = render(&text("a.toml", &file), &problems, Severity::Error, plain());
        assert!(shown.ends_with("4098 problems in a.toml\n"));
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
}

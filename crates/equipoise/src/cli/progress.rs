//! How far something has come that is waited for: a bar on a terminal, drawn again in place; elsewhere a line now and then.
//!
//! All of it goes to standard error, so that the answer is alone on standard output; with `--json`, nothing is said at all. Knows
//! nothing of what is waited for.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use ratatui::crossterm::terminal;

use super::args::Global;
use crate::terminal::{is_coloured, is_redrawn};

/// Between two lines of the same stage.
const BETWEEN_LINES: Duration = Duration::from_secs(1);
/// Where nobody says how wide the terminal is.
const WIDTH: usize = 80;
/// The longest bar.
const LONGEST: usize = 30;

/// How far something has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stage {
    /// What is being done: that something else is, is always worth a line.
    pub(super) what: &'static str,
    /// So, with how much of it.
    pub(super) words: String,
    /// How much of it is done.
    pub(super) done: u64,
    /// How much there is to do.
    pub(super) all: u64,
    /// How long it may go on.
    pub(super) left: Option<Duration>,
}

/// Where it is shown how far something has come.
#[derive(Debug)]
pub(super) struct Progress {
    look: Look,
    /// What was last shown, and when.
    last: Option<(Stage, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Nothing,
    Lines,
    Bar { is_coloured: bool },
}

impl Progress {
    pub(super) fn new(global: &Global) -> Self {
        let stream = io::stderr();
        let look = if global.json {
            Look::Nothing
        } else if is_redrawn(&stream) {
            Look::Bar { is_coloured: is_coloured(&stream) }
        } else {
            Look::Lines
        };
        Self { look, last: None }
    }

    /// Shows how far it has come, where that is something new.
    pub(super) fn show(&mut self, stage: Stage) {
        let now = Instant::now();
        let text = match self.look {
            Look::Nothing => return,
            Look::Bar { is_coloured } => {
                let width = terminal::size().map_or(0, |(width, _)| usize::from(width));
                let width = if width == 0 { WIDTH } else { width };
                format!("\r{}\x1b[K", bar(&stage, width, is_coloured))
            }
            Look::Lines if !is_worth_a_line(self.last.as_ref(), &stage, now) => return,
            Look::Lines => format!("{}\n", in_words(&stage)),
        };
        say(&text);
        self.last = Some((stage, now));
    }
}

/// What comes next stands where the bar was.
impl Drop for Progress {
    fn drop(&mut self) {
        if matches!(self.look, Look::Bar { .. }) && self.last.is_some() {
            say("\r\x1b[K");
        }
    }
}

/// When standard error is gone there is nobody left to tell.
fn say(text: &str) {
    let mut stream = io::stderr().lock();
    let _: io::Result<()> = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
}

/// That time goes by is no news, and of what changes all the time now and then is enough.
fn is_worth_a_line(last: Option<&(Stage, Instant)>, stage: &Stage, now: Instant) -> bool {
    let Some((last, at)) = last else { return true };
    let is_other = (last.done, last.all) != (stage.done, stage.all);
    let is_time = now.saturating_duration_since(*at) >= BETWEEN_LINES;
    last.what != stage.what || is_other && is_time
}

fn in_words(stage: &Stage) -> String {
    let left = stage.left.map(|left| format!(", {} left", seconds(left)));
    format!("{}{}", stage.words, left.unwrap_or_default())
}

/// In whole seconds, so that it does not flicker.
fn seconds(time: Duration) -> String {
    let time = Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0));
    humantime::format_duration(time).to_string()
}

/// A line that is shorter than the terminal is wide, or it could not be drawn over.
fn bar(stage: &Stage, width: usize, is_coloured: bool) -> String {
    let room = width.saturating_sub(1);
    let words = in_words(stage);
    let length = LONGEST.min(room.saturating_sub(words.chars().count() + 3));
    if length < 3 {
        return words.chars().take(room).collect();
    }
    let part = stage.done.min(stage.all) as f64 / stage.all.max(1) as f64;
    let full = (part * length as f64) as usize;
    let (done, open) = ("#".repeat(full), "-".repeat(length - full));
    if is_coloured {
        format!("[\x1b[32m{done}\x1b[0m{open}] {words}")
    } else {
        format!("[{done}{open}] {words}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(done: u64, left: u64) -> Stage {
        let left = Some(Duration::from_millis(left));
        let words = format!("{} of 8 flows are left", 8 - done);
        Stage { what: "flows", words, done, all: 8, left }
    }

    #[test]
    fn bar_is_as_full_as_much_is_done_and_never_wider_than_the_terminal() {
        let words = "2 of 8 flows are left, 10s left";
        let half = format!("[{}{}] {words}", "#".repeat(22), "-".repeat(8));
        assert_eq!(bar(&stage(6, 9_100), 80, false), half);
        let coloured = bar(&stage(6, 9_100), 80, true);
        assert_eq!(coloured.replace("\x1b[32m", "").replace("\x1b[0m", ""), half);
        for width in 0..80 {
            let drawn = bar(&stage(6, 9_100), width, false);
            assert!(drawn.len() < width.max(1), "{width}: {drawn}");
        }
        assert_eq!(bar(&stage(6, 9_100), 35, false), words);
        let nothing = Stage { what: "x", words: "x".to_owned(), done: 0, all: 0, left: None };
        assert_eq!(bar(&nothing, 80, false), format!("[{}] x", "-".repeat(30)));
    }

    #[test]
    fn line_is_written_when_something_has_changed_and_not_more_than_one_a_second() {
        let at = Instant::now();
        let later = |ms| at + Duration::from_millis(ms);
        let last = (stage(1, 9_000), at);
        assert!(is_worth_a_line(None, &stage(1, 9_000), at));
        assert!(!is_worth_a_line(Some(&last), &stage(1, 7_000), later(2_000)), "time alone");
        assert!(!is_worth_a_line(Some(&last), &stage(2, 8_500), later(500)), "too soon");
        assert!(is_worth_a_line(Some(&last), &stage(2, 8_000), later(1_000)));
        let other = Stage { what: "other", ..stage(1, 9_000) };
        assert!(is_worth_a_line(Some(&last), &other, at), "what is done next is news at once");
    }
}

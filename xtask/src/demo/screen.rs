//! The demo's table: drawn over itself on a terminal, a line a second elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// What is to be shown at a moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Frame {
    pub(super) elapsed: Duration,
    pub(super) answered: u64,
    pub(super) failed: u64,
    pub(super) rows: Vec<Row>,
    /// Packets by verdict, the most frequent first.
    pub(super) verdicts: Vec<(String, u64)>,
}

/// A backend of a service.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) service: &'static str,
    pub(super) backend: String,
    /// The share that its weight promises, from 0 to 1.
    pub(super) promised: f64,
    pub(super) connections: u64,
    /// Connections of the whole service.
    pub(super) of: u64,
}

impl Row {
    fn share(&self) -> f64 {
        if self.of == 0 { 0.0 } else { self.connections as f64 / self.of as f64 }
    }
}

/// Where frames go.
#[derive(Debug)]
pub(super) struct Screen {
    style: Style,
    before: Moment,
}

#[derive(Debug)]
enum Style {
    /// A terminal, with so many lines of the last frame on it.
    Terminal {
        lines: usize,
    },
    Plain,
}

/// The last frame, for the rate since.
#[derive(Debug, Default)]
struct Moment {
    elapsed: Duration,
    answered: u64,
}

impl Screen {
    pub(super) fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        let style = if terminal { Style::Terminal { lines: 0 } } else { Style::Plain };
        Self { style, before: Moment::default() }
    }

    pub(super) fn show(&mut self, frame: &Frame) {
        let rate = self.rate(frame);
        self.before = Moment { elapsed: frame.elapsed, answered: frame.answered };
        let text = match &mut self.style {
            Style::Plain => line(frame, rate),
            Style::Terminal { lines } => {
                let table = table(frame, rate);
                let back = *lines;
                *lines = table.lines().count();
                // Up to where the last frame began, and everything from there cleared.
                if back > 0 { format!("\r\x1b[{back}A\x1b[J{table}") } else { table }
            }
        };
        let mut stdout = io::stdout().lock();
        // Nobody is there to be told when the terminal is gone.
        drop(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
    }

    /// Requests a second since the last frame.
    fn rate(&self, frame: &Frame) -> f64 {
        let seconds = frame.elapsed.saturating_sub(self.before.elapsed).as_secs_f64();
        if seconds <= 0.0 {
            0.0
        } else {
            frame.answered.saturating_sub(self.before.answered) as f64 / seconds
        }
    }
}

fn line(frame: &Frame, rate: f64) -> String {
    let mut text = format!(
        "{:>3.0} s  {rate:.0} requests/s  {} answered  {} failed ",
        frame.elapsed.as_secs_f64(),
        frame.answered,
        frame.failed,
    );
    let mut service = "";
    for row in &frame.rows {
        if row.service != service {
            text += &format!(" | {}", row.service);
            service = row.service;
        }
        text += &format!(" {:.1}/{:.0} %", 100.0 * row.share(), 100.0 * row.promised);
    }
    for (place, (name, count)) in frame.verdicts.iter().enumerate() {
        text += if place == 0 { " | packets: " } else { ", " };
        text += &format!("{name} {count}");
    }
    text + "\n"
}

fn table(frame: &Frame, rate: f64) -> String {
    let mut text = format!(
        "{:>4.0} s   {rate:>7.0} requests/s   {:>9} answered   {} failed\n\n",
        frame.elapsed.as_secs_f64(),
        frame.answered,
        frame.failed,
    );
    text += &format!(
        "  {:<8} {:<26} {:>7} {:>8} {:>12}\n",
        "SERVICE", "BACKEND", "WEIGHT", "SHARE", "CONNECTIONS"
    );
    for row in &frame.rows {
        text += &format!(
            "  {:<8} {:<26} {:>5.0} % {:>6.1} % {:>12}\n",
            row.service,
            row.backend,
            100.0 * row.promised,
            100.0 * row.share(),
            row.connections,
        );
    }
    text += &format!("\n  {:<35} {:>12}\n", "VERDICT", "PACKETS");
    for (name, count) in &frame.verdicts {
        text += &format!("  {name:<35} {count:>12}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        let row = |backend: &str, promised, connections| Row {
            service: "web",
            backend: backend.to_owned(),
            promised,
            connections,
            of: 400,
        };
        Frame {
            elapsed: Duration::from_secs(2),
            answered: 400,
            failed: 1,
            rows: vec![row("b1 10.0.0.11:8080", 0.7, 300), row("b2 10.0.0.12:8080", 0.3, 100)],
            verdicts: vec![("forwarded".to_owned(), 1600)],
        }
    }

    #[test]
    fn a_line_shows_shares_beside_weights() {
        assert_eq!(
            line(&frame(), 200.0),
            "  2 s  200 requests/s  400 answered  1 failed  | web 75.0/70 % 25.0/30 % | packets: forwarded 1600\n"
        );
    }

    #[test]
    fn a_table_has_a_row_for_each_backend_and_verdict() {
        let table = table(&frame(), 200.0);
        assert!(
            table.contains("b1 10.0.0.11:8080             70 %   75.0 %          300\n"),
            "{table}"
        );
        assert!(table.lines().last().unwrap().ends_with("1600"), "{table}");
    }

    #[test]
    fn the_rate_is_of_the_time_since_the_last_frame() {
        let mut screen = Screen { style: Style::Plain, before: Moment::default() };
        assert_eq!(screen.rate(&frame()), 200.0);
        screen.before = Moment { elapsed: Duration::from_secs(1), answered: 100 };
        assert_eq!(screen.rate(&frame()), 300.0);
    }
}

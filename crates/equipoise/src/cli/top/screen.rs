//! What is on the screen, and what keys do to it.
//!
//! Takes answers and keys; gives what is to be done beyond the screen. Nothing is drained without a second key that says so. Knows
//! neither the terminal nor the instance.

use std::cmp::Ordering;
use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::rates::{Name, Rates, Row};
use crate::status::Status;
use crate::status::operate::Selection;

/// What is to be done beyond the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Quit,
    Drain(Selection),
    Undrain(Selection),
}

/// By what rows are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// As the configuration has them.
    #[default]
    Configured,
    Flows,
    Packets,
    Bytes,
    Live,
    Handshake,
}

impl Sort {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Configured => "configuration",
            Self::Flows => "new flows",
            Self::Packets => "packets",
            Self::Bytes => "bytes",
            Self::Live => "live flows",
            Self::Handshake => "handshake",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Configured => Self::Flows,
            Self::Flows => Self::Packets,
            Self::Packets => Self::Bytes,
            Self::Bytes => Self::Live,
            Self::Live => Self::Handshake,
            Self::Handshake => Self::Configured,
        }
    }

    /// The most first.
    fn compare(self, a: &Row, b: &Row) -> Ordering {
        let handshake = |row: &Row| row.handshake_ms.unwrap_or(-1.0);
        match self {
            Self::Configured => Ordering::Equal,
            Self::Flows => b.flows.total_cmp(&a.flows),
            Self::Packets => b.packets.total_cmp(&a.packets),
            Self::Bytes => b.bytes.total_cmp(&a.bytes),
            Self::Live => b.live.cmp(&a.live),
            Self::Handshake => handshake(b).total_cmp(&handshake(a)),
        }
    }
}

/// What keys mean at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    List,
    /// The filter is typed.
    Filter,
    /// One backend is open.
    Open,
    /// Whether to do this is asked.
    Ask(Act),
}

/// What is on the screen.
#[derive(Debug, Default)]
pub(super) struct Screen {
    pub(super) status: Option<Status>,
    pub(super) sort: Sort,
    pub(super) filter: String,
    pub(super) mode: Mode,
    /// How long a question has had no answer.
    pub(super) silent: Duration,
    /// What was last said.
    pub(super) said: String,
    rates: Rates,
    all: Vec<Row>,
    selected: Option<Name>,
}

impl Screen {
    /// Takes up an answer of the instance.
    pub(super) fn take(&mut self, status: Status, at: Duration) {
        self.all = self.rates.take(&status, at);
        self.status = Some(status);
    }

    /// Says something in the last line, until the next key.
    pub(super) fn say(&mut self, text: String) {
        self.said = text;
    }

    /// The rows that the filter lets through, sorted.
    pub(super) fn rows(&self) -> Vec<&Row> {
        let wanted = self.filter.to_lowercase();
        let has = |row: &&Row| {
            let texts = [&row.service, &row.route, &row.address, &row.health];
            texts.iter().any(|text| text.to_lowercase().contains(&wanted))
        };
        let mut rows: Vec<&Row> = self.all.iter().filter(has).collect();
        rows.sort_by(|a, b| self.sort.compare(a, b));
        rows
    }

    /// The place of the selected row among those that are shown; the first where it is not there.
    pub(super) fn position(&self, rows: &[&Row]) -> usize {
        let selected = |row: &&Row| Some(name(row)) == self.selected;
        rows.iter().position(selected).unwrap_or(0)
    }

    /// The selected row.
    pub(super) fn row(&self) -> Option<&Row> {
        let rows = self.rows();
        rows.get(self.position(&rows)).copied()
    }

    /// New flows of all that is shown, a sample each.
    pub(super) fn history(&self) -> Vec<u64> {
        let rows = self.rows();
        let longest = rows.iter().map(|row| row.history.len()).max().unwrap_or(0);
        let mut sums = vec![0; longest];
        for row in rows {
            let begin = longest - row.history.len();
            for (sum, flows) in sums[begin..].iter_mut().zip(&row.history) {
                *sum += flows;
            }
        }
        sums
    }

    /// What a key does.
    pub(super) fn key(&mut self, key: KeyEvent) -> Option<Act> {
        self.said.clear();
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Some(Act::Quit);
        }
        match std::mem::take(&mut self.mode) {
            Mode::List => self.key_in_list(key.code),
            Mode::Open => match key.code {
                KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q') => None,
                code => {
                    self.mode = Mode::Open;
                    self.key_of_backend(code);
                    None
                }
            },
            Mode::Filter => {
                self.key_in_filter(key.code);
                None
            }
            Mode::Ask(act) => match key.code {
                KeyCode::Char('y' | 'Y') => Some(act),
                _ => {
                    self.say("left as it is".to_owned());
                    None
                }
            },
        }
    }

    fn key_in_list(&mut self, code: KeyCode) -> Option<Act> {
        match code {
            KeyCode::Char('q') => return Some(Act::Quit),
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Enter if self.row().is_some() => self.mode = Mode::Open,
            code => self.key_of_backend(code),
        }
        None
    }

    /// Keys that are about the selected backend, or select another one.
    fn key_of_backend(&mut self, code: KeyCode) {
        match code {
            KeyCode::Up | KeyCode::Char('k') => self.select(|at, _| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(|at, last| last.min(at + 1)),
            KeyCode::Home => self.select(|_, _| 0),
            KeyCode::End => self.select(|_, last| last),
            KeyCode::Char('d') => self.ask(Act::Drain),
            KeyCode::Char('u') => self.ask(Act::Undrain),
            _ => {}
        }
    }

    fn key_in_filter(&mut self, code: KeyCode) {
        self.mode = Mode::Filter;
        match code {
            KeyCode::Enter => self.mode = Mode::List,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::List;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
    }

    fn select(&mut self, to: impl Fn(usize, usize) -> usize) {
        let rows = self.rows();
        let at = to(self.position(&rows), rows.len().saturating_sub(1));
        self.selected = rows.get(at).map(|row| name(row));
    }

    fn ask(&mut self, act: fn(Selection) -> Act) {
        let Some(row) = self.row() else { return };
        let selection = Selection {
            service: Some(row.service.clone()),
            backend: Some(row.address.clone()),
            route: Some(row.route.clone()),
            ..Selection::default()
        };
        // What is asked about stays selected, whatever the next answer sorts where.
        self.selected = Some(name(row));
        self.mode = Mode::Ask(act(selection));
    }
}

fn name(row: &Row) -> Name {
    (row.service.clone(), row.route.clone(), row.address.clone())
}

#[cfg(test)]
pub(super) mod sample;

#[cfg(test)]
mod tests {
    use super::sample::{press, screen, status};
    use super::*;

    fn addresses(screen: &Screen) -> Vec<&str> {
        screen.rows().iter().map(|row| row.address.as_str()).collect()
    }

    fn selected(screen: &Screen) -> String {
        screen.row().map(|row| row.address.clone()).unwrap_or_default()
    }

    #[test]
    fn rows_are_sorted_by_what_is_asked_for_and_the_selected_one_stays() {
        let mut screen = screen();
        assert_eq!(addresses(&screen), ["10.0.0.1:80", "10.0.0.2:80"]);
        assert_eq!(press(&mut screen, "j"), None);
        assert_eq!(selected(&screen), "10.0.0.2:80");
        press(&mut screen, "s");
        assert_eq!(screen.sort, Sort::Flows);
        assert_eq!(addresses(&screen), ["10.0.0.2:80", "10.0.0.1:80"]);
        assert_eq!(selected(&screen), "10.0.0.2:80", "it is the same one elsewhere");
        for _ in 0..5 {
            press(&mut screen, "s");
        }
        assert_eq!(screen.sort, Sort::Configured);
    }

    #[test]
    fn selection_stays_within_the_rows() {
        let mut screen = screen();
        press(&mut screen, "k");
        assert_eq!(selected(&screen), "10.0.0.1:80");
        press(&mut screen, "jjjj");
        assert_eq!(selected(&screen), "10.0.0.2:80");
    }

    #[test]
    fn filter_is_typed_kept_and_cleared() {
        let mut screen = screen();
        press(&mut screen, "/0.2");
        assert_eq!((addresses(&screen), &screen.mode), (vec!["10.0.0.2:80"], &Mode::Filter));
        press(&mut screen, "q");
        assert_eq!(screen.filter, "0.2q", "it is typed, and quits nothing");
        screen.key(KeyCode::Backspace.into());
        screen.key(KeyCode::Enter.into());
        assert_eq!((addresses(&screen), &screen.mode), (vec!["10.0.0.2:80"], &Mode::List));
        screen.key(KeyCode::Esc.into());
        assert_eq!(addresses(&screen).len(), 2);
        press(&mut screen, "/nothing");
        screen.key(KeyCode::Enter.into());
        assert_eq!(press(&mut screen, "d"), None);
        assert_eq!(screen.mode, Mode::List, "there is nothing to drain");
    }

    #[test]
    fn draining_is_asked_about_and_done_at_yes_alone() {
        let mut screen = screen();
        press(&mut screen, "jd");
        let Mode::Ask(Act::Drain(selection)) = &screen.mode else { panic!("{:?}", screen.mode) };
        let wanted = Selection {
            service: Some("web".to_owned()),
            backend: Some("10.0.0.2:80".to_owned()),
            route: Some("default".to_owned()),
            ..Selection::default()
        };
        assert_eq!(*selection, wanted);
        assert_eq!(press(&mut screen, "n"), None);
        assert_eq!((&screen.mode, &*screen.said), (&Mode::List, "left as it is"));
        assert_eq!(press(&mut screen, "dy"), Some(Act::Drain(wanted.clone())));
        assert_eq!(press(&mut screen, "uy"), Some(Act::Undrain(wanted)));
    }

    #[test]
    fn backend_is_opened_and_closed_and_q_ends_the_list_alone() {
        let mut screen = screen();
        screen.key(KeyCode::Enter.into());
        assert_eq!(screen.mode, Mode::Open);
        assert_eq!(press(&mut screen, "j"), None);
        assert_eq!((selected(&screen).as_str(), &screen.mode), ("10.0.0.2:80", &Mode::Open));
        assert_eq!(press(&mut screen, "q"), None);
        assert_eq!(screen.mode, Mode::List);
        assert_eq!(press(&mut screen, "q"), Some(Act::Quit));
    }

    #[test]
    fn control_c_ends_it_everywhere() {
        let mut screen = screen();
        press(&mut screen, "/");
        let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(screen.key(key), Some(Act::Quit));
    }

    #[test]
    fn history_sums_what_is_shown() {
        let mut screen = screen();
        assert_eq!(screen.history(), [0, 40]);
        press(&mut screen, "/0.1:");
        assert_eq!(screen.history(), [0, 10]);
        screen.take(status(1, &[]), Duration::from_secs(2));
        assert_eq!(screen.history(), [0_u64; 0]);
    }
}

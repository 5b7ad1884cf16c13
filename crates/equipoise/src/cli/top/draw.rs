//! How the screen looks: a head with what is wrong, new flows of a minute, the backends, and a line of keys.
//!
//! Draws a [`Screen`] as it is and changes nothing. Colours say again what words say, so that a terminal without them shows all.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Sparkline, Table, TableState};

use super::rates::{MINUTE, Row};
use super::screen::{Act, Mode, Screen};
use crate::cli::status::wrong;
use crate::status::{Health, Status};

const HEADER: [&str; 13] = [
    "SERVICE",
    "BACKEND",
    "WEIGHT",
    "SHARE",
    "GETS",
    "FLOWS/S",
    "PACKETS/S",
    "BYTES/S",
    "LIVE",
    "ANSWERS IN",
    "HEALTH",
    "STATE",
    "LAST MINUTE",
];
const WIDTHS: [Constraint; 13] = [
    Constraint::Min(8),
    Constraint::Min(18),
    Constraint::Length(9),
    Constraint::Length(6),
    Constraint::Length(6),
    Constraint::Length(8),
    Constraint::Length(9),
    Constraint::Length(9),
    Constraint::Length(7),
    Constraint::Length(10),
    Constraint::Length(9),
    Constraint::Length(9),
    Constraint::Length(20),
];

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let Some(status) = &screen.status else { return };
    let head = head(screen, status);
    let parts = Layout::vertical([
        Constraint::Length(head.len() as u16),
        Constraint::Length(3),
        Constraint::Min(3),
        Constraint::Length(1),
    ]);
    let [top, flows, backends, keys] = parts.areas(frame.area());
    frame.render_widget(Paragraph::new(head), top);
    draw_flows(frame, flows, screen);
    draw_backends(frame, backends, screen);
    frame.render_widget(Paragraph::new(last_line(screen)), keys);
    if screen.mode == Mode::Open
        && let Some(row) = screen.row()
    {
        draw_open(frame, row);
    }
}

fn head(screen: &Screen, status: &Status) -> Vec<Line<'static>> {
    let wrong = wrong(status);
    let state = match (status.state, screen.silent.as_secs()) {
        (_, seconds @ 1..) => format!("NO ANSWER for {seconds}s").red().bold(),
        (Health::Degraded, _) => "DEGRADED".red().bold(),
        (Health::Ok, _) if !wrong.is_empty() => "WARNING".yellow().bold(),
        (Health::Ok, _) => "ok".green().bold(),
    };
    let rows = screen.rows();
    let sum = |of: fn(&Row) -> f64| short(rows.iter().map(|row| of(row)).sum());
    let (instance, generation) = (&status.instance, status.config.generation);
    let uptime = humantime::format_duration(std::time::Duration::from_secs(status.uptime_seconds));
    let mut lines = vec![
        Line::from(vec![
            state,
            format!("  instance {instance}, up {uptime}, configuration {generation}").into(),
        ]),
        Line::from(format!(
            "{} live flows; {} new flows/s, {} packets/s, {} bytes/s",
            status.flow_table.live,
            sum(|row| row.flows),
            sum(|row| row.packets),
            sum(|row| row.bytes),
        )),
    ];
    lines.extend(wrong.iter().map(|wrong| Line::from(format!("! {wrong}").red())));
    lines
}

fn draw_flows(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let history = screen.history();
    let most = history.iter().max().copied().unwrap_or(0);
    let block = Block::new().title(format!("new flows, last minute; at most {most} in a second"));
    let width = usize::from(block.inner(area).width);
    let shown = &history[history.len().saturating_sub(width)..];
    frame.render_widget(Sparkline::default().block(block).data(shown).style(Color::Cyan), area);
}

fn draw_backends(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let rows = screen.rows();
    let mut state = TableState::default();
    state.select((!rows.is_empty()).then(|| screen.position(&rows)));
    let cells = rows.iter().map(|row| ratatui::widgets::Row::new(cells(row)));
    let table = Table::new(cells, WIDTHS)
        .header(ratatui::widgets::Row::new(HEADER).bold())
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut state);
}

fn cells(row: &Row) -> Vec<Cell<'static>> {
    let service = match &*row.route {
        "default" => row.service.clone(),
        route => format!("{} {route}", row.service),
    };
    let weight = if row.effective == row.configured {
        decimal(row.effective)
    } else {
        format!("{}/{}", decimal(row.effective), decimal(row.configured))
    };
    let health = match &*row.health {
        "unhealthy" => row.health.clone().red(),
        "healthy" => row.health.clone().green(),
        _ => Span::from(row.health.clone()),
    };
    vec![
        service.into(),
        row.address.clone().into(),
        weight.into(),
        percent(row.share).into(),
        row.actual.map_or_else(|| "-".to_owned(), percent).into(),
        short(row.flows).into(),
        short(row.packets).into(),
        short(row.bytes).into(),
        row.live.to_string().into(),
        shake(row).into(),
        health.into(),
        state(row).into(),
        bars(&row.history).into(),
    ]
}

fn shake(row: &Row) -> String {
    row.handshake_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}ms"))
}

fn state(row: &Row) -> Span<'static> {
    match (row.draining, &*row.breaker) {
        (true, _) => "draining".yellow(),
        (false, "open") => "open".red(),
        (false, "half-open" | "half_open") => "half-open".yellow(),
        (false, _) => "".into(),
    }
}

/// One backend over the list.
fn draw_open(frame: &mut Frame<'_>, row: &Row) {
    let counters = &row.counters;
    let lines = [
        format!("service {}, route {}", row.service, row.route),
        format!(
            "weight {} of {}, health {}, breaker {}",
            decimal(row.effective),
            decimal(row.configured),
            row.health,
            row.breaker
        ),
        format!(
            "share {} of new flows; gets {}",
            percent(row.share),
            row.actual.map_or_else(|| "-".to_owned(), percent)
        ),
        format!(
            "{} live flows, {} opened so far; handshake {}",
            row.live,
            counters.new_flows,
            shake(row)
        ),
        format!("from clients {} packets, {} bytes", counters.packets_in, counters.bytes_in),
        format!("to clients   {} packets, {} bytes", counters.packets_out, counters.bytes_out),
        format!("last minute  {}", bars(&row.history)),
    ];
    let whole = frame.area();
    let (width, height) = (74.min(whole.width), 9.min(whole.height));
    let area = Rect { x: (whole.width - width) / 2, y: (whole.height - height) / 2, width, height };
    let text: Vec<Line<'_>> = lines.into_iter().map(Line::from).collect();
    let block = Block::bordered().title(format!(" {} ", row.address));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(text).block(block), area);
}

fn last_line(screen: &Screen) -> Line<'static> {
    if !screen.said.is_empty() {
        return Line::from(screen.said.clone().bold());
    }
    let what = |act: &Act| match act {
        Act::Quit => "quit".to_owned(),
        Act::Drain(selection) => format!("drain {}", selection.backend.as_deref().unwrap_or("")),
        Act::Undrain(selection) => {
            format!("undrain {}", selection.backend.as_deref().unwrap_or(""))
        }
    };
    match &screen.mode {
        Mode::Filter => Line::from(format!("filter: {}_  (Enter: keep, Esc: none)", screen.filter)),
        Mode::Ask(act) => Line::from(format!("{}? y/n", what(act)).bold()),
        Mode::Open => Line::from("Esc close  up/down other backend  d drain  u undrain"),
        Mode::List => {
            let filter = match &*screen.filter {
                "" => String::new(),
                filter => format!("  [only {filter:?}: Esc]"),
            };
            let sort = screen.sort.name();
            Line::from(format!(
                "q quit  s sort ({sort})  / filter  Enter open  d drain  u undrain{filter}"
            ))
        }
    }
}

/// The last of a minute as bars, the highest for the most.
fn bars(history: &[u64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const WIDTH: usize = MINUTE / 3;
    let last = &history[history.len().saturating_sub(WIDTH)..];
    let most = last.iter().max().copied().unwrap_or(0).max(1);
    last.iter()
        .map(|flows| if *flows == 0 { ' ' } else { BARS[(flows * 7 / most) as usize] })
        .collect()
}

fn percent(part: f64) -> String {
    format!("{:.0}%", part * 100.0)
}

fn decimal(number: f64) -> String {
    if number.fract() == 0.0 { format!("{number:.0}") } else { format!("{number:.2}") }
}

/// A number in at most five characters or so.
fn short(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.1}G", n / 1e9),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n if n >= 1e4 => format!("{:.1}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::screen::sample::{press, screen};
    use std::time::Duration;

    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyCode;

    fn drawn(screen: &Screen, (width, height): (u16, u16)) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, screen)).unwrap();
        let buffer = terminal.backend().buffer();
        let cells: Vec<&str> = buffer.content().iter().map(ratatui::buffer::Cell::symbol).collect();
        cells.chunks(usize::from(width)).map(|line| line.concat().trim_end().to_owned()).collect()
    }

    #[test]
    fn list_has_what_is_wrong_first_then_rates_and_backends() {
        let lines = drawn(&screen(), (150, 12));
        assert_eq!(lines[0], "DEGRADED  instance default, up 1m, configuration 3");
        assert_eq!(lines[1], "14 live flows; 40 new flows/s, 40 packets/s, 4000 bytes/s");
        assert_eq!(lines[2], "! eth9 is not attached");
        assert_eq!(lines[3], "new flows, last minute; at most 40 in a second");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            words(&lines[7]),
            [
                "web",
                "10.0.0.1:80",
                "1.50/2",
                "50%",
                "25%",
                "10",
                "10",
                "1000",
                "7",
                "0.2ms",
                "healthy",
                "█"
            ]
        );
        assert_eq!(
            words(&lines[8]),
            [
                "web",
                "10.0.0.2:80",
                "1.50/2",
                "50%",
                "75%",
                "30",
                "30",
                "3000",
                "7",
                "0.2ms",
                "unhealthy",
                "draining",
                "█"
            ]
        );
        assert_eq!(
            lines[11],
            "q quit  s sort (configuration)  / filter  Enter open  d drain  u undrain"
        );
    }

    #[test]
    fn head_tells_of_what_is_wrong_and_of_an_instance_that_does_not_answer() {
        let mut screen = screen();
        let mut status = screen.status.clone().unwrap();
        (status.state, status.reasons) = (Health::Ok, Vec::new());
        let first = |screen: &Screen| drawn(screen, (150, 12)).swap_remove(0);
        let rest = "  instance default, up 1m, configuration 3";
        screen.status = Some(status.clone());
        assert_eq!(first(&screen), format!("ok{rest}"));
        status.services[0].pools[0].panic = true;
        screen.status = Some(status);
        assert_eq!(first(&screen), format!("WARNING{rest}"));
        assert!(drawn(&screen, (150, 12))[2].starts_with("! panic 1/2: pool default of web"));
        screen.silent = Duration::from_millis(3_400);
        assert_eq!(first(&screen), format!("NO ANSWER for 3s{rest}"));
    }

    #[test]
    fn filter_question_and_what_was_said_are_in_the_last_line() {
        let mut screen = screen();
        let last = |screen: &Screen| drawn(screen, (150, 12)).pop().unwrap();
        press(&mut screen, "/0.2");
        assert_eq!(last(&screen), "filter: 0.2_  (Enter: keep, Esc: none)");
        assert!(drawn(&screen, (150, 12)).iter().all(|line| !line.contains("10.0.0.1:80")));
        screen.key(KeyCode::Enter.into());
        assert!(last(&screen).ends_with("[only \"0.2\": Esc]"));
        press(&mut screen, "d");
        assert_eq!(last(&screen), "drain 10.0.0.2:80? y/n");
        press(&mut screen, "n");
        assert_eq!(last(&screen), "left as it is");
    }

    #[test]
    fn open_backend_lies_over_the_list() {
        let mut screen = screen();
        screen.key(KeyCode::Enter.into());
        let text = drawn(&screen, (100, 20)).join("\n");
        assert!(
            text.contains(" 10.0.0.1:80 ")
                && text.contains("7 live flows, 110 opened so far; handshake 0.2ms"),
            "{text}"
        );
    }

    #[test]
    fn small_terminals_and_nothing_to_show_do_no_harm() {
        for size in [(1, 1), (10, 3), (40, 6)] {
            let mut screen = screen();
            drawn(&screen, size);
            screen.key(KeyCode::Enter.into());
            drawn(&screen, size);
        }
        assert_eq!(drawn(&Screen::default(), (20, 1)), [""]);
    }

    #[test]
    fn numbers_are_short() {
        let all = [0.4, 9999.0, 12_345.0, 3.4e6, 5.6e9].map(short);
        assert_eq!(all, ["0", "9999", "12.3k", "3.4M", "5.6G"]);
        assert_eq!(bars(&[0, 1, 8]), " ▁█");
    }
}

//! The board as a screen, and as a table for who has none.

use super::board::{BackendLine, Board, PoolLine};
use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style},
    text::{Line, Text},
    widgets::{Cell, Paragraph, Row, Table, TableState},
};
use std::fmt::Write as _;

const HEADS: [&str; 8] =
    ["BACKEND", "STATE", "HEALTH", "SHARE", "REQ/S", "IN FLIGHT", "ERRORS", "AVERAGE"];
const WIDTHS: [u16; 8] = [28, 10, 10, 6, 9, 10, 9, 10];

const HELP: &str = "\
  up, down, k, j   choose a backend
  d                drain it: no new requests, those that stay with it go on
  e                enable it
  x                disable it: no requests at all
  s                order by the next column
  r                turn the order round
  /                show what contains a text; Enter keeps it, Esc clears it
  q, Esc, Ctrl-C   quit

  SHARE and REQ/S, p50 and p99 are about the last second.
  Any key goes back.";

fn milliseconds(value: f64) -> String {
    if value >= 1000.0 { format!("{:.1} s", value / 1000.0) } else { format!("{value:.1} ms") }
}

fn cells(backend: &BackendLine) -> [String; 8] {
    [
        format!("  {}", backend.name),
        backend.state.clone(),
        backend.health.clone(),
        format!("{:.0}%", backend.share * 100.0),
        format!("{:.1}", backend.rate),
        backend.in_flight.to_string(),
        backend.errors.to_string(),
        milliseconds(backend.average_ms),
    ]
}

fn summary(pool: &PoolLine) -> String {
    let time = |at: usize| pool.percentiles[at].map_or_else(|| "-".to_owned(), milliseconds);
    format!(
        "{} ({})  {} usable  {:.1} req/s  {} in flight  {} queued  p50 {}  p99 {}",
        pool.name,
        pool.policy,
        pool.usable,
        pool.rate,
        pool.in_flight,
        pool.queued,
        time(0),
        time(1)
    )
}

/// All of it as lines.
pub(super) fn text(board: &Board) -> String {
    let mut text = format!("{}\n", board.title);
    let mut line = |cells: [&str; 8]| {
        let pairs = cells.iter().zip(WIDTHS);
        let line = pairs.fold(String::new(), |line, (cell, width)| {
            format!("{line}{cell:<width$} ", width = usize::from(width))
        });
        writeln!(text, "{}", line.trim_end()).expect("writing to a String cannot fail");
    };
    line(HEADS);
    for pool in board.visible() {
        line([&summary(&pool), "", "", "", "", "", "", ""]);
        for backend in &pool.backends {
            line(cells(backend).each_ref().map(String::as_str));
        }
    }
    text
}

fn color(word: &str) -> Style {
    match word {
        "healthy" => Style::new().fg(Color::Green),
        "unhealthy" | "ejected" => Style::new().fg(Color::Red),
        "draining" | "disabled" | "leaving" => Style::new().fg(Color::Yellow),
        _ => Style::new(),
    }
}

/// Draws it.
pub(super) fn draw(frame: &mut Frame<'_>, board: &Board) {
    let parts =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)]);
    let [top, middle, bottom] = parts.areas(frame.area());
    frame.render_widget(Line::from(board.title.as_str()).style(Modifier::BOLD), top);
    if board.shows_help {
        frame.render_widget(Paragraph::new(Text::from(HELP)), middle);
    } else {
        draw_table(frame, board, middle);
    }
    frame.render_widget(last_line(board), bottom);
}

fn last_line(board: &Board) -> Line<'static> {
    if !board.complaint.is_empty() {
        return Line::from(board.complaint.clone()).style(Color::Red);
    }
    let filter = match (board.is_typing, board.filter.as_str()) {
        (true, filter) => format!("/{filter}_"),
        (false, "") => String::new(),
        (false, filter) => format!("/{filter}"),
    };
    let keys = "q quit  ? help  d drain  e enable  x disable  s sort  / filter";
    Line::from(format!("{keys}   by {}   {filter}", board.column.name())).style(Modifier::DIM)
}

fn draw_table(frame: &mut Frame<'_>, board: &Board, area: ratatui::layout::Rect) {
    let selection = board.selection();
    let (mut rows, mut selected, mut titles) = (Vec::new(), None, Vec::new());
    for pool in board.visible() {
        titles.push((rows.len(), summary(&pool)));
        // Its line is drawn over it; by default a row has no height.
        rows.push(Row::default().height(1));
        for backend in &pool.backends {
            if selection.as_ref().is_some_and(|it| (&it.0, &it.1) == (&pool.name, &backend.name)) {
                selected = Some(rows.len());
            }
            let cells = cells(backend).map(|cell| {
                let style = color(&cell);
                Cell::from(cell).style(style)
            });
            rows.push(Row::new(cells));
        }
    }
    let mut state = TableState::new().with_selected(selected);
    let table = Table::new(rows, WIDTHS.map(Constraint::Length))
        .header(Row::new(HEADS).style(Modifier::DIM))
        .row_highlight_style(Modifier::REVERSED);
    frame.render_stateful_widget(table, area, &mut state);
    // What is said of a pool is longer than a column.
    let height = usize::from(area.height.saturating_sub(1));
    for (row, title) in titles {
        let Some(line) = row.checked_sub(state.offset()).filter(|line| *line < height) else {
            continue;
        };
        let place = ratatui::layout::Rect { y: area.y + 1 + line as u16, height: 1, ..area };
        frame.render_widget(Line::from(title).style(Modifier::BOLD), place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::board::Look;
    use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyCode};
    use serde_json::json;
    use std::time::Instant;

    fn board() -> Board {
        let backend = |number: usize| {
            json!({ "name": format!("app-{number}"), "address": number.to_string(),
                "state": "active", "health": "healthy", "in_flight": 3, "ewma_ms": 1500.0 })
        };
        let backends: Vec<_> = (1..=20).map(backend).collect();
        let pool = json!({ "name": "app", "balance": "p2c", "usable": 20, "backends": backends });
        let status = json!({ "version": "1.2.3", "ready": true, "draining": false });
        let mut board = Board::default();
        board.take(&Look { status, pools: json!({ "pools": [pool] }) }, Instant::now());
        board
    }

    fn lines(board: &Board, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(100, height)).unwrap();
        terminal.draw(|frame| draw(frame, board)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |row: &[ratatui::buffer::Cell]| {
            row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().trim_end().to_owned()
        };
        buffer.content().chunks(100).map(line).collect()
    }

    #[test]
    fn pools_and_backends_are_drawn_and_the_selected_one_is_in_sight() {
        let mut board = board();
        let drawn = lines(&board, 10);
        assert!(drawn[0].starts_with("pingora-lb 1.2.3  ready"), "{drawn:#?}");
        assert!(drawn[1].starts_with("BACKEND") && drawn[1].ends_with("AVERAGE"));
        assert!(drawn[2].starts_with("app (p2c)  20 usable  0.0 req/s"), "{drawn:#?}");
        assert!(drawn[3].starts_with("  app-1 ") && drawn[3].ends_with("1.5 s"), "{drawn:#?}");
        assert!(drawn[9].starts_with("q quit  ? help"));
        (0..19).for_each(|_| drop(board.press(KeyCode::Down.into())));
        let drawn = lines(&board, 10);
        assert!(drawn[8].starts_with("  app-20 "), "{drawn:#?}");
        board.complain("nobody answers".to_owned());
        assert_eq!(lines(&board, 10)[9], "nobody answers");
        board.press(KeyCode::Char('?').into());
        assert!(lines(&board, 14)[2].contains("drain it"));
        // A window may be of any size.
        for height in 1..5 {
            lines(&board, height);
        }
    }

    #[test]
    fn a_table_has_them_all() {
        let text = text(&board());
        assert_eq!(text.lines().count(), 23);
        assert!(text.lines().nth(22).unwrap().starts_with("  app-20 "), "{text}");
    }
}

//! What is shown, and what keys do to it.

use crate::model::BackendState;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::Value;
use std::{cmp::Ordering, collections::HashMap, time::Instant};

/// What the instance told at one moment.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) status: Value,
    pub(super) pools: Value,
}

/// What is to be done to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) pool: String,
    pub(super) backend: String,
    pub(super) state: BackendState,
}

/// A backend, as it is shown.
#[derive(Clone, Debug)]
pub(super) struct BackendLine {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) health: String,
    pub(super) in_flight: u64,
    pub(super) errors: u64,
    pub(super) average_ms: f64,
    /// Requests in a second, between the last two looks.
    pub(super) rate: f64,
    /// Its part of the pool's requests between the last two looks, from 0 to 1.
    pub(super) share: f64,
}

/// A pool, as it is shown.
#[derive(Clone, Debug)]
pub(super) struct PoolLine {
    pub(super) name: String,
    pub(super) policy: String,
    pub(super) usable: u64,
    pub(super) in_flight: u64,
    pub(super) queued: u64,
    pub(super) rate: f64,
    /// Milliseconds to the first byte that half, and 99 of 100, took at most; `None` without requests.
    pub(super) percentiles: [Option<f64>; 2],
    pub(super) backends: Vec<BackendLine>,
}

/// What backends of a pool are ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Column {
    /// The order in the configuration.
    #[default]
    File,
    Name,
    Health,
    Share,
    InFlight,
    Errors,
    Average,
}

impl Column {
    const ALL: [Self; 7] = [
        Self::File,
        Self::Name,
        Self::Health,
        Self::Share,
        Self::InFlight,
        Self::Errors,
        Self::Average,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::File => "the file's order",
            Self::Name => "name",
            Self::Health => "health",
            Self::Share => "requests",
            Self::InFlight => "in flight",
            Self::Errors => "errors",
            Self::Average => "average",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|column| *column == self);
        Self::ALL[(at.expect("it lists all of them") + 1) % Self::ALL.len()]
    }

    /// What there is most of comes first; names and health go by the alphabet.
    fn compare(self, a: &BackendLine, b: &BackendLine) -> Ordering {
        match self {
            Self::File => Ordering::Equal,
            Self::Name => a.name.cmp(&b.name),
            Self::Health => a.health.cmp(&b.health),
            Self::Share => b.rate.total_cmp(&a.rate),
            Self::InFlight => b.in_flight.cmp(&a.in_flight),
            Self::Errors => b.errors.cmp(&a.errors),
            Self::Average => b.average_ms.total_cmp(&a.average_ms),
        }
    }
}

/// All that is shown.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a state of its own")]
pub(super) struct Board {
    pools: Vec<PoolLine>,
    /// The instance in a line.
    pub(super) title: String,
    /// What went wrong last; empty if nothing did.
    pub(super) complaint: String,
    before: Option<(Look, Instant)>,
    pub(super) column: Column,
    reversed: bool,
    /// What names of pools or backends have to contain.
    pub(super) filter: String,
    /// Whether keys go to the filter.
    pub(super) is_typing: bool,
    pub(super) shows_help: bool,
    /// The pool and the backend that keys are about.
    selected: Option<(String, String)>,
    is_over: bool,
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn count(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

impl Board {
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn complain(&mut self, problem: String) {
        self.complaint = problem;
    }

    /// Takes in what the instance told.
    pub(super) fn take(&mut self, look: &Look, at: Instant) {
        let before = self.before.replace((look.clone(), at));
        let seconds = before.as_ref().map_or(0.0, |(_, then)| (at - *then).as_secs_f64());
        let known = before.as_ref().map_or(&[][..], |(look, _)| list(&look.pools["pools"]));
        let known: HashMap<_, _> = known.iter().map(|pool| (pool["name"].as_str(), pool)).collect();
        let line =
            |pool: &Value| pool_line(pool, known.get(&pool["name"].as_str()).copied(), seconds);
        self.pools = list(&look.pools["pools"]).iter().map(line).collect();
        self.complaint.clear();
        self.title = title(&look.status);
        if self.selection().is_none() {
            self.move_by(0);
        }
    }

    /// The pools with the backends that are to be seen, in order.
    pub(super) fn visible(&self) -> Vec<PoolLine> {
        let fits = |name: &str| name.contains(&self.filter);
        let mut pools = self.pools.clone();
        for pool in &mut pools {
            if !fits(&pool.name) {
                pool.backends.retain(|backend| fits(&backend.name));
            }
            pool.backends.sort_by(|a, b| self.column.compare(a, b));
            if self.reversed {
                pool.backends.reverse();
            }
        }
        pools.retain(|pool| fits(&pool.name) || !pool.backends.is_empty());
        pools
    }

    /// The pool and the backend that keys are about, if they are to be seen.
    pub(super) fn selection(&self) -> Option<(String, String)> {
        self.keys().into_iter().find(|key| Some(key) == self.selected.as_ref())
    }

    fn keys(&self) -> Vec<(String, String)> {
        let of = |pool: PoolLine| {
            let name = pool.name;
            pool.backends.into_iter().map(move |backend| (name.clone(), backend.name))
        };
        self.visible().into_iter().flat_map(of).collect()
    }

    fn move_by(&mut self, step: isize) {
        let keys = self.keys();
        let at = keys.iter().position(|key| Some(key) == self.selected.as_ref());
        let to =
            at.map_or(0, |at| at.saturating_add_signed(step)).min(keys.len().saturating_sub(1));
        self.selected = keys.into_iter().nth(to);
    }

    /// Does what a key stands for; some are an order to the instance.
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Order> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            self.is_over |= key.code == KeyCode::Char('c');
            return None;
        }
        if self.is_typing {
            self.type_filter(key.code);
            return None;
        }
        if std::mem::take(&mut self.shows_help) {
            return None;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => self.is_over = true,
            KeyCode::Char('?' | 'h') => self.shows_help = true,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char('s') => self.column = self.column.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Down | KeyCode::Char('j') => self.move_by(1),
            KeyCode::Up | KeyCode::Char('k') => self.move_by(-1),
            KeyCode::Char('d') => return self.order(BackendState::Draining),
            KeyCode::Char('e') => return self.order(BackendState::Active),
            KeyCode::Char('x') => return self.order(BackendState::Disabled),
            _ => {}
        }
        None
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
        if self.selection().is_none() {
            self.move_by(0);
        }
    }

    fn order(&self, state: BackendState) -> Option<Order> {
        let (pool, backend) = self.selection()?;
        Some(Order { pool, backend, state })
    }
}

fn title(status: &Value) -> String {
    let condition = match (&status["draining"], &status["ready"]) {
        (Value::Bool(true), _) => "draining",
        (_, Value::Bool(true)) => "ready",
        _ => "not ready",
    };
    let connections: u64 =
        list(&status["listeners"]).iter().map(|listener| count(listener, "connections")).sum();
    let (version, seconds) = (text(status, "version"), count(status, "uptime_seconds"));
    let hash = text(status, "config_hash");
    format!(
        "pingora-lb {version}  {condition}  up {seconds} s  {connections} connections  configuration {hash}"
    )
}

fn pool_line(pool: &Value, before: Option<&Value>, seconds: f64) -> PoolLine {
    let known = before.map_or(&[][..], |pool| list(&pool["backends"]));
    let known: HashMap<_, _> =
        known.iter().map(|it| (it["address"].as_str(), count(it, "requests"))).collect();
    let grown = |backend: &Value| {
        let now = count(backend, "requests");
        now.saturating_sub(known.get(&backend["address"].as_str()).copied().unwrap_or(now)) as f64
    };
    let backends = list(&pool["backends"]);
    let total: f64 = backends.iter().map(grown).sum();
    let per_second = |requests: f64| if seconds > 0.0 { requests / seconds } else { 0.0 };
    let line = |backend: &Value| BackendLine {
        name: text(backend, "name"),
        state: if backend["leaving"] == true { "leaving".into() } else { text(backend, "state") },
        health: text(backend, "health"),
        in_flight: count(backend, "in_flight"),
        errors: count(backend, "errors"),
        average_ms: backend["ewma_ms"].as_f64().unwrap_or_default(),
        rate: per_second(grown(backend)),
        share: if total > 0.0 { grown(backend) / total } else { 0.0 },
    };
    let spread = &pool["first_byte"];
    PoolLine {
        name: text(pool, "name"),
        policy: text(pool, "balance"),
        usable: count(pool, "usable"),
        in_flight: count(pool, "in_flight"),
        queued: count(pool, "queued"),
        rate: per_second(total),
        percentiles: [0.5, 0.99].map(|part| percentile(part, spread, &before?["first_byte"])),
        backends: backends.iter().map(line).collect(),
    }
}

/// The milliseconds that this part of what came between two looks took at most. Within a bucket it is
/// taken to be evenly spread, and what is beyond the last bound to be there.
fn percentile(part: f64, now: &Value, then: &Value) -> Option<f64> {
    let total = count(now, "count").checked_sub(count(then, "count")).filter(|it| *it > 0)?;
    let wanted = part * total as f64;
    let (mut low, mut below) = (0.0, 0.0);
    for (now, then) in list(&now["buckets"]).iter().zip(list(&then["buckets"])) {
        let bound = now["le"].as_f64()?;
        let reached = count(now, "count").saturating_sub(count(then, "count")) as f64;
        if reached >= wanted && reached > below {
            return Some(1000.0 * (low + (bound - low) * (wanted - below) / (reached - below)));
        }
        (low, below) = (bound, reached);
    }
    Some(1000.0 * low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn look(requests: [u64; 3]) -> Look {
        let backend = |name: &str, requests: u64| {
            json!({ "name": name, "address": name, "state": "active", "health": "healthy",
                "in_flight": 1, "errors": requests / 10, "ewma_ms": 2.5, "requests": requests })
        };
        let [a, b, c] = requests;
        let spread = |count: u64| {
            json!({ "count": count, "buckets": [
                { "le": 1.0, "count": count / 2 }, { "le": 2.0, "count": count } ] })
        };
        let pool = |name: &str, count: u64, backends: Value| {
            json!({ "name": name, "balance": "random", "usable": 1, "first_byte": spread(count),
                "backends": backends })
        };
        let status = json!({ "version": "1", "ready": true, "draining": false, "listeners": [] });
        let app = pool("app", a + b, json!([backend("one", a), backend("two", b)]));
        let api = pool("api", c, json!([backend("three", c)]));
        Look { status, pools: json!({ "pools": [app, api] }) }
    }

    fn board() -> Board {
        let (mut board, start) = (Board::default(), Instant::now());
        board.take(&look([0, 100, 5]), start);
        board.take(&look([30, 110, 5]), start + Duration::from_secs(2));
        board
    }

    fn press(board: &mut Board, keys: &str) -> Option<Order> {
        keys.chars().fold(None, |_, c| board.press(KeyCode::Char(c).into()))
    }

    fn names(board: &Board) -> Vec<String> {
        board.keys().into_iter().map(|(_, backend)| backend).collect()
    }

    #[test]
    fn rates_shares_and_percentiles_are_between_two_looks() {
        let pools = board().visible();
        let one = &pools[0].backends[0];
        assert_eq!((one.rate, one.share, pools[0].rate), (15.0, 0.75, 20.0));
        assert_eq!(pools[0].percentiles, [Some(1000.0), Some(1980.0)]);
        assert_eq!((pools[1].rate, pools[1].percentiles), (0.0, [None; 2]));
    }

    #[test]
    fn keys_sort_filter_select_and_order() {
        let mut board = board();
        assert_eq!(names(&board), ["one", "two", "three"]);
        let order = |pool: &str, backend: &str, state| {
            Some(Order { pool: pool.into(), backend: backend.into(), state })
        };
        assert_eq!(press(&mut board, "d"), order("app", "one", BackendState::Draining));
        assert_eq!(press(&mut board, "jje"), order("api", "three", BackendState::Active));
        assert_eq!(press(&mut board, "jkx"), order("app", "two", BackendState::Disabled));
        // By name, by health, by requests, in flight, errors.
        assert_eq!(press(&mut board, "sssss"), None);
        assert_eq!(
            (board.column, names(&board)),
            (Column::Errors, vec!["two".into(), "one".into(), "three".into()])
        );
        press(&mut board, "r");
        assert_eq!(names(&board), ["one", "two", "three"]);
        press(&mut board, "/thq");
        assert_eq!(names(&board), Vec::<String>::new());
        board.press(KeyCode::Backspace.into());
        board.press(KeyCode::Enter.into());
        assert_eq!((names(&board), board.is_over()), (vec!["three".to_owned()], false));
        assert_eq!(press(&mut board, "d"), order("api", "three", BackendState::Draining));
        // Any key leaves the help.
        press(&mut board, "?q");
        assert!(!board.is_over() && !board.shows_help);
        press(&mut board, "q");
        assert!(board.is_over());
    }
}

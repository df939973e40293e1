//! An explanation as people read it.

use super::{Answered, Backend, Explanation, Pool, Retry, SameAddress, State, Way};
use crate::model::scalar;
use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

/// A duration as it stands in a configuration, such as `250ms`.
pub(super) fn duration(duration: Duration) -> String {
    scalar::duration_text(duration)
}

/// A line with its title in the first column.
fn line(f: &mut Formatter<'_>, title: &str, text: impl Display) -> fmt::Result {
    writeln!(f, "{title:<10}{text}")
}

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.request.method, self.request.url)?;
        self.write_request(f)?;
        self.write_route(f)?;
        self.write_filters(f)?;
        for share in &self.split {
            let chosen = if share.chosen { "  <- chance came to this one" } else { "" };
            line(f, "split", format_args!("{} {:.1}%{chosen}", share.pool, share.share * 100.0))?;
        }
        if let Some(pool) = &self.pool {
            pool.write(f, self.pick.as_deref())?;
        }
        match (&self.answer, &self.pick) {
            (Some(answer), _) => line(f, "answer", answer)?,
            (None, Some(pick)) => line(f, "pick", format_args!("{pick}{}", self.how()))?,
            (None, None) => line(f, "pick", "waits in the queue until a backend has room")?,
        }
        if let Some(retry) = &self.retry {
            retry.write(f, self.request.scheme == "tcp")?;
        }
        for note in &self.notes {
            line(f, "note", note)?;
        }
        self.write_state(f)
    }
}

impl Explanation {
    fn write_request(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let listener = &self.listener;
        let (name, protocol, address) = (&listener.name, &listener.protocol, &listener.address);
        line(f, "listener", format_args!("{name} ({protocol}, {address})"))?;
        let client = self.request.client.map_or("none".to_owned(), |client| client.to_string());
        line(f, "client", format_args!("{client}, {}", self.request.scheme))?;
        if self.request.scheme != "tcp" {
            line(
                f,
                "request",
                format_args!("{} of host {:?}", self.request.target, self.request.host),
            )?;
        }
        Ok(())
    }

    fn write_route(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for skipped in &self.skipped {
            let (route, failed, expected) = (&skipped.route, &skipped.failed, &skipped.expected);
            line(f, "not", format_args!("{route}: {failed} must be {expected}"))?;
        }
        match (&self.route, &self.timeout) {
            (Some(route), Some(timeout)) => {
                line(f, "route", format_args!("{route}, timeout {timeout}"))
            }
            (Some(route), None) => line(f, "route", route),
            (None, _) if self.request.scheme == "tcp" => Ok(()),
            (None, _) => line(f, "route", "none"),
        }
    }

    fn write_filters(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (number, filter) in self.filters.iter().enumerate() {
            let effect = match filter.effect.as_str() {
                "passes" => "lets it go on",
                "answers" => "answers",
                "fails" => "fails",
                "not_run" => "not run",
                "no_request_hook" => "sees no requests before they go to a backend",
                _ => "not reached",
            };
            let colon = if filter.detail.is_empty() { "" } else { ": " };
            let space = if filter.settings.is_empty() { "" } else { " " };
            let (name, settings, detail) = (&filter.name, &filter.settings, &filter.detail);
            let number = number + 1;
            let text = format_args!("{number}. {name}{space}{settings} - {effect}{colon}{detail}");
            line(f, "filter", text)?;
        }
        Ok(())
    }

    fn how(&self) -> &'static str {
        match self.way {
            Some(Way::Kept) => ", where the client stays",
            Some(Way::Queue) => ", after a wait in the queue",
            Some(Way::Policy) | None => ", by the policy",
        }
    }

    fn write_state(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (self.state, &self.pool) {
            (State::Live, Some(_)) => line(f, "state", "of the running instance"),
            (State::Fresh, Some(_)) => line(
                f,
                "state",
                "of a fresh start: no backend was asked, each counts as it would after a first \
                 health check that succeeds",
            ),
            (_, None) => Ok(()),
        }
    }
}

impl Display for Answered {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "{status} ({}), by the {}", self.reason, self.giver())?,
            None => write!(f, "closed ({}), by the {}", self.reason, self.giver())?,
        }
        if let Some(location) = &self.location {
            write!(f, ", to {location}")?;
        }
        if let Some(why) = &self.why {
            write!(f, ": {why}")?;
        }
        Ok(())
    }
}

impl Answered {
    fn giver(&self) -> String {
        match self.by.as_str() {
            "listener" | "route" | "routes" | "pool" => self.by.clone(),
            filter => format!("filter {filter}"),
        }
    }
}

impl Pool {
    fn write(&self, f: &mut Formatter<'_>, pick: Option<&str>) -> fmt::Result {
        line(f, "pool", format_args!("{}, {}", self.name, self.policy))?;
        match (&self.hash_on, &self.hash_key) {
            (Some(on), Some(key)) => line(f, "hash", format_args!("{key} of {on}"))?,
            (Some(on), None) => line(f, "hash", format_args!("none: the request has no {on}"))?,
            (None, _) => {}
        }
        if let Some(sticky) = &self.sticky {
            let backend =
                sticky.backend.as_deref().map_or(String::new(), |it| format!(", of {it}"));
            let colon = if sticky.detail.is_empty() { "" } else { ": " };
            let (cookie, status, detail) = (&sticky.cookie, &sticky.status, &sticky.detail);
            line(f, "sticky", format_args!("cookie {cookie} is {status}{backend}{colon}{detail}"))?;
        }
        line(f, "score", &self.scoring)?;
        let width = self.backends.iter().map(|backend| backend.name.len()).max().unwrap_or(0);
        for backend in &self.backends {
            let picked = if pick == Some(&backend.name) { "  <- pick" } else { "" };
            line(f, "backend", format_args!("{:<width$}  {backend}{picked}", backend.name))?;
        }
        for name in &self.unresolved {
            line(f, "backend", format_args!("{name:<width$}  its name has no address"))?;
        }
        for SameAddress { name, of } in &self.same_address {
            line(f, "backend", format_args!("{name:<width$}  same address as {of}, left out"))?;
        }
        if self.panic {
            line(f, "panic", "so few backends are usable that all active ones are used")?;
        }
        if self.queued > 0 {
            line(f, "queue", format_args!("{} wait", self.queued))?;
        }
        Ok(())
    }
}

impl Display for Backend {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.name != self.address {
            write!(f, "{}  ", self.address)?;
        }
        let Self { weight, state, health, in_flight, .. } = self;
        let backup = if self.backup { ", backup" } else { "" };
        let full = if self.full { ", full" } else { "" };
        write!(f, "weight {weight}{backup}, {state}, {health}, {in_flight} in flight{full}")?;
        match self.score {
            Some(score) => write!(f, ", score {}", (score * 1000.0).round() / 1000.0),
            None => f.write_str(", not considered"),
        }
    }
}

impl Retry {
    fn write(&self, f: &mut Formatter<'_>, of_stream: bool) -> fmt::Result {
        if self.attempts == 0 {
            return line(f, "retry", "never");
        }
        let then = self.order.get(1..).unwrap_or_default();
        let then = if then.is_empty() { "no other backend".to_owned() } else { then.join(", ") };
        line(f, "retry", format_args!("up to {} more tries: {then}", self.attempts))?;
        let names = |retried: bool| {
            let some = self.on.iter().filter(|it| it.retried == retried);
            some.map(|it| it.failure.as_str()).collect::<Vec<_>>().join(", ")
        };
        let (on, not_on) = (names(true), names(false));
        if !on.is_empty() {
            line(f, "  on", on)?;
        }
        if !not_on.is_empty() {
            let why = if of_stream { "a stream has none" } else { "the method is not idempotent" };
            line(f, "  not on", format_args!("{not_on}: {why}"))?;
        }
        let [base, most] = &self.backoff;
        line(f, "  pause", format_args!("up to {base}, doubled with each try up to {most}"))?;
        if let Some(timeout) = &self.per_try_timeout {
            line(f, "  each", format_args!("at most {timeout}"))?;
        }
        let spent = if self.budget_left { "" } else { "; it is spent" };
        line(f, "  budget", format_args!("{}{spent}", self.budget))
    }
}

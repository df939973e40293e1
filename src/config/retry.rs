//! `pools.*.retry:`, when a request is tried again.

use super::{
    diagnostic::Fault,
    reader::{Field, Keys, Once},
    unused,
};
use crate::model::{Backoff, Budget, Retry, RetryOn};
use std::time::Duration;

pub(super) const KEYS: Keys = Keys {
    section: "pools.*.retry",
    names: &["attempts", "on", "backoff", "budget", "per_try_timeout"],
};
pub(super) const BACKOFF: Keys = Keys { section: "pools.*.retry.backoff", names: &["base", "max"] };
pub(super) const BUDGET: Keys =
    Keys { section: "pools.*.retry.budget", names: &["percent", "min_per_second"] };

/// The most tries after the first: one more multiplies the load of an outage.
pub(super) const MAX_ATTEMPTS: u32 = 10;
/// The highest floor of a budget.
const MAX_PER_SECOND: u64 = 100_000;
const ON: &str = "a list of at least one condition, or attempts: 0 for no retries";

/// Reads `retry:`.
pub(super) fn read(field: &Field<'_>) -> Option<Retry> {
    let section = field.section(&KEYS)?;
    let defaults = Retry::default();
    let retry = Retry {
        attempts: section.or("attempts", defaults.attempts, attempts),
        on: section.or("on", defaults.on, on),
        backoff: section.or("backoff", defaults.backoff, |field| backoff(field, defaults.backoff)),
        budget: section.or("budget", defaults.budget, |field| budget(field, defaults.budget)),
        per_try_timeout: section.optional("per_try_timeout", Field::positive_duration),
    };
    if let Some(field) = section.get("budget").filter(|_| is_never_allowed(&retry)) {
        let found = "a budget of 0, which allows no retry";
        field.warning(&Fault::new(found, "a budget above 0, or attempts: 0 for no retries"));
    }
    unused::retry(&section, &retry);
    Some(retry)
}

fn is_never_allowed(retry: &Retry) -> bool {
    let Budget { percent, min_per_second } = retry.budget;
    retry.attempts > 0 && percent.fraction() == 0.0 && min_per_second == 0
}

fn attempts(field: &Field<'_>) -> Option<u32> {
    u32::try_from(field.integer(0..=u64::from(MAX_ATTEMPTS))?).ok()
}

fn on(field: &Field<'_>) -> Option<Vec<RetryOn>> {
    let words = RetryOn::NAMES.map(|(word, condition)| (word, (word, condition)));
    let mut once = Once::default();
    let mut read = |item: &Field<'_>| {
        let (word, condition) = item.word("condition", &words)?;
        once.check(word, "condition", item);
        Some(condition)
    };
    // All items are read, and so reported, before one that failed takes the list with it.
    let conditions: Vec<_> = field.some_items(ON)?.iter().map(&mut read).collect();
    conditions.into_iter().collect()
}

fn backoff(field: &Field<'_>, defaults: Backoff) -> Option<Backoff> {
    let section = field.section(&BACKOFF)?;
    let base = section.try_or("base", defaults.base, Field::duration);
    let least = base.unwrap_or(Duration::ZERO);
    let max =
        section.or("max", defaults.max.max(least), |field| field.duration_from(least, "base"));
    Some(Backoff { base: base?, max })
}

fn budget(field: &Field<'_>, defaults: Budget) -> Option<Budget> {
    let section = field.section(&BUDGET)?;
    let per_second = |field: &Field<'_>| u32::try_from(field.integer(0..=MAX_PER_SECOND)?).ok();
    Some(Budget {
        percent: section.or("percent", defaults.percent, Field::percent),
        min_per_second: section.or("min_per_second", defaults.min_per_second, per_second),
    })
}

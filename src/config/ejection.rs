//! `pools.*.ejection:`, when real traffic takes a backend out.

use super::{
    diagnostic::Fault,
    health_check::in_a_row,
    reader::{Field, Keys},
};
use crate::model::{Ejection, Percent};
use std::time::Duration;

pub(super) const KEYS: Keys = Keys {
    section: "pools.*.ejection",
    names: &["consecutive_failures", "base_time", "max_time", "max_percent"],
};

/// Reads `ejection:`. The inner `None` is off.
#[allow(clippy::option_option, reason = "off, and unreadable, are two things")]
pub(super) fn read(field: &Field<'_>) -> Option<Option<Ejection>> {
    if field.is_off() {
        return Some(None);
    }
    let section = field.section_if_on(&KEYS)?;
    let defaults = Ejection::default();
    let base_time = section.try_or("base_time", defaults.base_time, Field::positive_duration);
    let least = base_time.unwrap_or(Duration::ZERO);
    let max_time = section.or("max_time", defaults.max_time.max(least), |field| {
        field.duration_from(least, "base_time")
    });
    Some(Some(Ejection {
        consecutive_failures: section.or(
            "consecutive_failures",
            defaults.consecutive_failures,
            in_a_row,
        ),
        base_time: base_time?,
        max_time,
        max_percent: section.or("max_percent", defaults.max_percent, max_percent),
    }))
}

/// No share at all reads like no ejection, but one of two or more may always go.
fn max_percent(field: &Field<'_>) -> Option<Percent> {
    let percent = field.percent()?;
    if percent.fraction() == 0.0 {
        let found = "0%, which still lets one backend of two or more be ejected";
        field.warning(&Fault::new(found, "ejection: off for none, or a percentage above 0%"));
    }
    Some(percent)
}

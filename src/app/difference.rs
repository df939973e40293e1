//! What a reload would change, and what only a hand-over can.

use super::App;
use crate::config::{Checked, Fixed, Outline};

/// What one configuration says otherwise than another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// What a reload logs, one change or group of changes a line.
    pub changes: Vec<String>,
    /// The keys that cannot change while a process runs, so that a reload is refused.
    pub fixed: Vec<String>,
}

impl App {
    /// What `after` says otherwise than `before`.
    pub fn difference(&self, before: &Checked, after: &Checked) -> Difference {
        let fixed = fixed_keys(before, after);
        Difference { changes: after.outline.changes_from(&before.outline), fixed }
    }

    /// What `after` says otherwise than the file of a running instance, which tells of that by its admin
    /// API, without the secrets in it.
    pub fn difference_from_running(
        &self,
        before: &serde_json::Value,
        after: &Checked,
    ) -> Difference {
        let fixed = Fixed::from_json(before)
            .map(|before| Fixed::of(after).masked(&after.outline).changed_from(&before));
        let changes = after.outline.masked().changes_from(&Outline::from_json(before));
        Difference { changes, fixed: fixed.unwrap_or_default() }
    }
}

/// The keys that have another value and cannot change while the process runs.
pub(super) fn fixed_keys(before: &Checked, after: &Checked) -> Vec<String> {
    Fixed::of(after).changed_from(&Fixed::of(before))
}

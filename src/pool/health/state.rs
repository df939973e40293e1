//! The health of one backend, from what its probes find.
//!
//! ```text
//!            success                    `fall` failures in a row
//! Unknown ------------> Healthy  ---------------------------------> Unhealthy
//!    |                     ^                                           | ^
//!    |                     +-------------------------------------------+ |
//!    |                            `rise` successes in a row              |
//!    +-------------------------------------------------------------------+
//!                                   failure
//! ```

use crate::pool::Health;
use std::num::NonZeroU32;

/// A change of health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The first probe succeeded.
    FirstUp,
    /// It is back.
    Up,
    /// It is out.
    Down,
}

/// The state machine of rise and fall.
#[derive(Debug)]
pub(in crate::pool) struct HealthState {
    health: Health,
    /// Probes in a row that contradict `health`.
    streak: u32,
}

impl Default for HealthState {
    fn default() -> Self {
        Self { health: Health::Unknown, streak: 0 }
    }
}

impl HealthState {
    pub(in crate::pool) fn health(&self) -> Health {
        self.health
    }

    /// Takes in one probe. The first decides alone.
    pub(in crate::pool) fn observe(
        &mut self,
        success: bool,
        rise: NonZeroU32,
        fall: NonZeroU32,
    ) -> Option<Change> {
        let (needed, change) = match (self.health, success) {
            (Health::Unknown, true) => (1, Change::FirstUp),
            (Health::Unknown, false) => (1, Change::Down),
            (Health::Healthy, false) => (fall.get(), Change::Down),
            (Health::Unhealthy, true) => (rise.get(), Change::Up),
            (Health::Healthy, true) | (Health::Unhealthy, false) => {
                self.streak = 0;
                return None;
            }
        };
        self.streak += 1;
        if self.streak < needed {
            return None;
        }
        self.streak = 0;
        self.health = if success { Health::Healthy } else { Health::Unhealthy };
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(probes: &[bool]) -> Vec<Option<Change>> {
        let (rise, fall) = (NonZeroU32::new(2).unwrap(), NonZeroU32::new(3).unwrap());
        let mut state = HealthState::default();
        probes.iter().map(|success| state.observe(*success, rise, fall)).collect()
    }

    #[test]
    fn the_first_probe_decides_alone() {
        assert_eq!(run(&[true]), [Some(Change::FirstUp)]);
        assert_eq!(run(&[false]), [Some(Change::Down)]);
    }

    #[test]
    fn falls_after_three_and_rises_after_two() {
        use Change::{Down, FirstUp, Up};
        let changes = run(&[true, false, false, false, true, true]);
        assert_eq!(changes, [Some(FirstUp), None, None, Some(Down), None, Some(Up)]);
    }

    #[test]
    fn only_probes_in_a_row_count() {
        let changes = run(&[true, false, false, true, false, false, true]);
        assert!(changes[1..].iter().all(Option::is_none), "{changes:?}");
    }
}

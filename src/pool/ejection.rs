//! Passive removal: what real traffic says about one backend.
//!
//! ```text
//!                 N failures in a row                   the time is over
//! trusted -----------------------------> ejected ---------------------------> on probation
//!    ^                                       ^                                   |    |
//!    |                                       +-----------------------------------+    |
//!    |                                          one failure, for longer than before   |
//!    +--------------------------------------------------------------------------------+
//!                                          one success
//! ```
//!
//! This is the state of a single backend. Whether a pool can spare it is the pool's to say, so
//! [`Standing::failure`] only asks and [`Standing::eject`] does it.

use super::Time;
use crate::model::Ejection;
use std::time::Duration;

/// What real traffic has shown of one backend.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    /// Failures in a row.
    failures: u32,
    /// Ejections without a success in between.
    streak: u32,
}

impl Standing {
    /// Takes in a success.
    pub(super) fn success(&mut self) {
        *self = Self::default();
    }

    /// Failures in a row.
    pub(super) fn failures(self) -> u32 {
        self.failures
    }

    /// Takes in a failure, and says whether the backend should go.
    pub(super) fn failure(&mut self, policy: &Ejection) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.streak > 0 || self.failures >= policy.consecutive_failures.get()
    }

    /// Ejects it: `base_time` times the number of ejections in a row, at most `max_time`.
    pub(super) fn eject(&mut self, policy: &Ejection, now: Time) -> Time {
        self.streak = self.streak.saturating_add(1);
        self.failures = 0;
        let time: Duration = policy.base_time.saturating_mul(self.streak).min(policy.max_time);
        now.after(time)
    }

    /// Whether it was ejected and has had no success since.
    pub(super) fn is_on_probation(self) -> bool {
        self.streak > 0
    }

    /// Whether there is nothing to forget.
    pub(super) fn is_clean(self) -> bool {
        self.failures == 0 && self.streak == 0
    }
}

/// How many of `members` may be ejected at a time: the share rounded down, but one where there are
/// two or more, whatever the share, and never the only one.
pub(super) fn most_ejected(members: usize, policy: &Ejection) -> usize {
    if members < 2 {
        return 0;
    }
    // The small addition keeps 30% of 10 at 3 in binary fractions.
    ((members as f64 * policy.max_percent.fraction() + 1e-9) as usize).clamp(1, members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Percent;

    #[test]
    fn ejects_after_five_failures_in_a_row() {
        let policy = Ejection::default();
        let mut standing = Standing::default();
        for _ in 0..4 {
            assert!(!standing.failure(&policy));
        }
        standing.success();
        for _ in 0..4 {
            assert!(!standing.failure(&policy));
        }
        assert!(standing.failure(&policy));
    }

    #[test]
    fn each_ejection_in_a_row_is_longer_and_one_failure_suffices() {
        let policy = Ejection::default();
        let mut standing = Standing::default();
        let seconds = |time: Time| time.as_nanos() / 1_000_000_000;
        assert_eq!(seconds(standing.eject(&policy, Time::ZERO)), 30);
        assert!(standing.failure(&policy));
        assert_eq!(seconds(standing.eject(&policy, Time::ZERO)), 60);
        for _ in 0..20 {
            standing.eject(&policy, Time::ZERO);
        }
        assert_eq!(seconds(standing.eject(&policy, Time::ZERO)), 300);
        standing.success();
        assert_eq!(seconds(standing.eject(&policy, Time::ZERO)), 30);
    }

    #[test]
    fn the_share_rounds_down_but_allows_one_of_two() {
        let most = |members, percent| {
            let max_percent = Percent::try_new(percent).unwrap();
            most_ejected(members, &Ejection { max_percent, ..Ejection::default() })
        };
        assert_eq!(
            [
                most(1, 50.0),
                most(2, 10.0),
                most(3, 50.0),
                most(10, 30.0),
                most(10, 39.0),
                most(4, 100.0)
            ],
            [0, 1, 1, 3, 3, 4]
        );
        assert_eq!(most(10, 0.0), 1);
    }
}

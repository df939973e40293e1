//! The retry budget: retries may be a share of the requests, not of the failures.
//!
//! A count of retries per request multiplies the load on a pool just when it cannot bear it: with
//! every backend failing, three attempts are four times the traffic. A budget over the whole pool
//! bounds that at the share, whatever fails (Finagle's `RetryBudget`, tower's after it). The floor
//! lets pools with little traffic retry at all.

use super::Time;
use crate::model::Budget;

/// The window's length in seconds, a slot each.
const WINDOW: u64 = 10;

/// The requests and retries of one second.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    second: u64,
    requests: u64,
    retries: u64,
}

/// The retry budget of one pool.
#[derive(Debug)]
pub(super) struct RetryBudget {
    policy: Budget,
    slots: [Slot; WINDOW as usize],
}

impl RetryBudget {
    /// A budget that nothing was spent of.
    pub(super) fn new(policy: Budget) -> Self {
        Self { policy, slots: [Slot::default(); WINDOW as usize] }
    }

    /// Goes by another policy from now on; what was spent stays spent.
    pub(super) fn set_policy(&mut self, policy: Budget) {
        self.policy = policy;
    }

    /// Counts a request: it adds to what may be spent.
    pub(super) fn request(&mut self, now: Time) {
        self.slot(now).requests += 1;
    }

    /// Spends a retry; `false` if nothing is left.
    pub(super) fn try_retry(&mut self, now: Time) -> bool {
        let left = self.has_left(now);
        if left {
            self.slot(now).retries += 1;
        }
        left
    }

    /// Whether a retry could be spent.
    pub(super) fn has_left(&self, now: Time) -> bool {
        let (requests, retries) = self.window(now);
        let floor = u64::from(self.policy.min_per_second) * WINDOW;
        let allowed = (requests as f64 * self.policy.percent.fraction()) as u64 + floor;
        retries < allowed
    }

    fn slot(&mut self, now: Time) -> &mut Slot {
        let second = second(now);
        let slot = &mut self.slots[(second % WINDOW) as usize];
        if slot.second != second {
            *slot = Slot { second, ..Slot::default() };
        }
        slot
    }

    /// The requests and retries of the last ten seconds, this one included.
    fn window(&self, now: Time) -> (u64, u64) {
        let now = second(now);
        let recent = |slot: &&Slot| slot.second <= now && now - slot.second < WINDOW;
        let sum = |(requests, retries): (u64, u64), slot: &Slot| {
            (requests + slot.requests, retries + slot.retries)
        };
        self.slots.iter().filter(recent).fold((0, 0), sum)
    }
}

fn second(now: Time) -> u64 {
    now.as_nanos() / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Percent;
    use std::time::Duration;

    fn budget(percent: f64, min_per_second: u32) -> RetryBudget {
        RetryBudget::new(Budget { percent: Percent::try_new(percent).unwrap(), min_per_second })
    }

    #[test]
    fn retries_are_a_share_of_requests_plus_the_floor() {
        let mut budget = budget(20.0, 3);
        (0..1000).for_each(|_| budget.request(Time::ZERO));
        let allowed = (0..1000).filter(|_| budget.try_retry(Time::ZERO)).count();
        assert_eq!(allowed, 200 + 30);
    }

    #[test]
    fn what_was_spent_comes_back_after_ten_seconds() {
        let mut budget = budget(0.0, 1);
        let at = |seconds| Time::ZERO.after(Duration::from_secs(seconds));
        assert_eq!((0..99).filter(|_| budget.try_retry(at(5))).count(), 10);
        assert!(!budget.try_retry(at(14)));
        assert!(budget.try_retry(at(15)));
    }
}

//! What comes between a pick and the next: a wait in line, and whether there is another try.
//!
//! The decisions are the core's; here they get the pool's clock, a timer and chance. Whatever is
//! proxied, a request or a connection, waits and is tried again by these rules.

use super::{Lease, Picked, Place, Pool, Tried, Wanted, traffic::Forgone};
use crate::model::{Retry, RetryOn};
use rand::Rng;
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

/// How a wait in line ended.
#[derive(Debug)]
pub enum Waited {
    /// A backend has room.
    Lease(Lease),
    /// No usable backend is left.
    Nothing,
    /// The pool's `queue_timeout` is over.
    TooLong,
    /// Who waited has left.
    Gone,
    /// Another configuration of the pool has come into force. The wait goes on there, at the same place.
    Moved(Place, Arc<Pool>),
}

/// Why there is no other try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRetry {
    /// The failure is none of `retry.on`, the attempts are used up, or every backend was tried.
    #[error("there is no other try")]
    NotAllowed,
    /// The pool has made as many retries as it may.
    #[error("the retry budget is spent")]
    BudgetSpent,
    /// Each backend that was not tried has as much as it may.
    #[error("no other backend has room")]
    NoRoom,
}

impl Pool {
    /// Waits at `place` until a backend has room, at most for the pool's `queue_timeout` after the wait
    /// `began`. It ends early when `gone` resolves, as whoever waits has left, and when a reload puts
    /// another configuration of the pool in force: this one's backends may be gone, and its limits.
    pub async fn wait_in_line(
        &self,
        place: Place,
        began: Instant,
        wanted: &Wanted<'_>,
        gone: impl Future<Output = ()>,
    ) -> Waited {
        let deadline = (began + self.spec().limits.queue_timeout).into();
        let mut gone = pin!(gone);
        loop {
            let looks = place.is_first() || place.is_called();
            if looks {
                // Before both looks, so that what changes after them is a call of its own.
                place.wait_again();
            }
            if let Some(successor) = self.successor() {
                return Waited::Moved(place, successor);
            }
            if looks {
                match self.pick(&Wanted { place: Some(&place), ..*wanted }, self.now()) {
                    Picked::Lease(lease) => return Waited::Lease(lease),
                    Picked::Nothing => return Waited::Nothing,
                    Picked::Busy => {}
                }
            }
            tokio::select! {
                biased;
                () = poll_fn(|cx| place.poll_called(cx)) => {}
                () = &mut gone => return Waited::Gone,
                () = tokio::time::sleep_until(deadline) => return Waited::TooLong,
            }
        }
    }

    /// Picks a backend that was not tried yet after a failure of this kind, the last of `made` tries, if
    /// the policy, the attempts and the budget allow it. Retries do not wait in line.
    ///
    /// # Errors
    /// Why there is no other try.
    pub fn pick_again(
        &self,
        kind: RetryOn,
        made: u32,
        key: Option<u64>,
        tried: &Tried,
    ) -> Result<Lease, NoRetry> {
        let retry = &self.spec().retry;
        let allowed = retry.on.contains(&kind) && made <= retry.attempts;
        let now = self.now();
        if !allowed || !self.core().has_untried(tried, now) {
            return Err(NoRetry::NotAllowed);
        }
        let spent = || {
            self.core().traffic().count_forgone(Forgone::BudgetExhausted);
            Err(NoRetry::BudgetSpent)
        };
        if !self.core().can_retry(now) {
            // A pick would count on a backend that does not get the request.
            return spent();
        }
        // Picked before it is paid for: there may be nobody with room.
        let wanted = Wanted { key, kept: None, tried, place: None };
        match self.pick(&wanted, now) {
            Picked::Lease(lease) if self.core().spend_retry(now) => Ok(lease),
            // Others have spent it meanwhile.
            Picked::Lease(_) => spent(),
            Picked::Busy | Picked::Nothing => {
                self.core().traffic().count_forgone(Forgone::NoRoom);
                Err(NoRetry::NoRoom)
            }
        }
    }

    /// The pause before the try that follows `tries` tries.
    pub fn pause(&self, tries: u32) -> Duration {
        pause(&self.spec().retry, tries, rand::rng().random_range(0.0..=1.0))
    }
}

/// Full jitter (Brooker, "Exponential Backoff And Jitter", 2015): the share `chance`, from 0 to 1, of
/// the longest pause after `tries` tries.
fn pause(retry: &Retry, tries: u32, chance: f64) -> Duration {
    let doublings = tries.saturating_sub(1).min(20);
    let longest = retry.backoff.base.saturating_mul(1 << doublings).min(retry.backoff.max);
    longest.mul_f64(chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pause_doubles_up_to_the_most() {
        let retry = Retry::default();
        let millis = |tries| pause(&retry, tries, 1.0).as_millis();
        assert_eq!([1, 2, 3, 4, 5, 100].map(millis), [25, 50, 100, 200, 250, 250]);
        assert_eq!(pause(&retry, 5, 0.0), Duration::ZERO);
    }
}

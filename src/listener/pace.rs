//! How slow a client may be while we wait for it.
//!
//! A time without progress alone would let a client hold a connection for ever with one byte now and
//! then. So the time that a client keeps us waiting is also measured in stretches as long as that
//! time, and in each it must come up to a rate. What a backend takes to send or to read is not counted.
//! A client that was fast at first gains nothing by it: each stretch is measured for itself.

use crate::model::Listener;
use std::{
    num::NonZeroU64,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};

/// The least that a client must do while it is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The longest time without progress, and the length of a stretch.
    patience: Duration,
    /// Bytes a second in a stretch; `None` is any.
    rate: Option<NonZeroU64>,
}

/// The paces of a listener's clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paces {
    /// Of sending a body.
    pub(super) body: Pace,
    /// Of taking a response.
    pub(super) response: Pace,
}

impl Paces {
    pub(super) fn of(listener: &Listener) -> Self {
        let (timeouts, rate) = (&listener.timeouts, listener.limits.min_rate);
        let pace = |patience| Pace { patience, rate };
        Self { body: pace(timeouts.body_idle), response: pace(timeouts.write) }
    }
}

#[cfg(test)]
impl Paces {
    /// Of a client that may be silent for this long, and otherwise as slow as it likes.
    pub(super) fn patient(patience: Duration) -> Self {
        let pace = Pace { patience, rate: None };
        Self { body: pace, response: pace }
    }
}

impl Pace {
    /// The same where only progress counts, not how much.
    pub(super) fn any(self) -> Self {
        Self { rate: None, ..self }
    }

    /// The bytes that a stretch must bring; they do not overflow, as no timeout is over a year.
    fn least(self) -> u64 {
        let rate = self.rate.map_or(0, NonZeroU64::get);
        u64::try_from(u128::from(rate) * self.patience.as_millis() / 1000).unwrap_or(u64::MAX)
    }
}

/// The waits for a client in one direction.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// The present wait; most reads and writes never wait.
    wait: Option<Wait>,
    /// How long the present stretch has been waited for before that.
    waited: Duration,
    /// The bytes that there were when it began.
    from: u64,
}

#[derive(Debug)]
struct Wait {
    since: Instant,
    /// From when on it counts for the present stretch.
    counts: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Waiting {
    /// Nobody has waited yet, and this many bytes have passed.
    pub(super) fn new(moved: u64) -> Self {
        Self { from: moved, ..Self::default() }
    }

    /// Something has moved, so the wait is over; whether there was one.
    pub(super) fn end(&mut self) -> bool {
        let Some(wait) = self.wait.take() else { return false };
        self.waited += wait.counts.elapsed();
        true
    }

    /// Waits on, with this many bytes `moved` so far, the `last` of them then if that was in this wait.
    /// Ready when the client is too slow.
    pub(super) fn poll(
        &mut self,
        pace: Pace,
        moved: u64,
        last: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let wait = self.wait.get_or_insert_with(|| Wait::begin(pace.patience));
        loop {
            wait.since = last.map_or(wait.since, |last| last.max(wait.since));
            let idle_end = wait.since + pace.patience;
            let stretch_end = wait.counts + pace.patience.saturating_sub(self.waited);
            let end = if pace.rate.is_some() { idle_end.min(stretch_end) } else { idle_end };
            if wait.timer.deadline() != end {
                wait.timer.as_mut().reset(end);
            }
            ready!(wait.timer.as_mut().poll(cx));
            if end == idle_end || moved.saturating_sub(self.from) < pace.least() {
                return Poll::Ready(());
            }
            (self.waited, self.from, wait.counts) = (Duration::ZERO, moved, end);
        }
    }
}

impl Wait {
    fn begin(patience: Duration) -> Self {
        let now = Instant::now();
        Self { since: now, counts: now, timer: Box::pin(sleep_until(now + patience)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    const PACE: Pace = Pace { patience: Duration::from_secs(10), rate: NonZeroU64::new(100) };

    /// Waits for pieces that come one after another: after how long, how many bytes. How long it took
    /// until the client was too slow, if it was.
    async fn run(pace: Pace, pieces: impl IntoIterator<Item = (u64, u64)>) -> Option<u64> {
        let (began, mut moved) = (Instant::now(), 0);
        let mut waiting = Waiting::new(0);
        for (after, bytes) in pieces {
            let slow = poll_fn(|cx| waiting.poll(pace, moved, None, cx));
            if tokio::time::timeout(Duration::from_secs(after), slow).await.is_ok() {
                return Some(began.elapsed().as_secs());
            }
            waiting.end();
            moved += bytes;
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn each_stretch_of_waiting_must_bring_its_bytes() {
        let steady = |after, bytes| std::iter::repeat_n((after, bytes), 100);
        // Nothing at all, then one byte now and then.
        assert_eq!(run(PACE, [(100, 0)]).await, Some(10));
        assert_eq!(run(PACE, steady(9, 1)).await, Some(10));
        assert_eq!(run(PACE, steady(1, 99)).await, Some(10));
        assert_eq!(run(PACE, steady(1, 112)).await, None);
        // A good beginning lasts for one stretch.
        assert_eq!(run(PACE, [(1, 1 << 30)].into_iter().chain(steady(3, 1))).await, Some(20));
        // Much at a time, with long pauses.
        assert_eq!(run(PACE, steady(9, 2_000)).await, None);
        // Without a rate, only silence is too slow.
        assert_eq!(run(PACE.any(), steady(9, 1)).await, None);
        assert_eq!(run(PACE.any(), steady(11, 1 << 20)).await, Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_waits_is_not_counted() {
        let mut waiting = Waiting::new(0);
        for _ in 0..3 {
            let slow = poll_fn(|cx| waiting.poll(PACE, 0, None, cx));
            assert!(tokio::time::timeout(Duration::from_secs(3), slow).await.is_err());
            waiting.end();
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        let began = Instant::now();
        poll_fn(|cx| waiting.poll(PACE, 0, None, cx)).await;
        assert_eq!(began.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn progress_within_a_wait_puts_its_end_off() {
        let (began, mut waiting) = (Instant::now(), Waiting::new(0));
        let last = Some(began + Duration::from_secs(7));
        poll_fn(|cx| waiting.poll(PACE.any(), 0, last, cx)).await;
        assert_eq!(began.elapsed().as_secs(), 17);
    }
}

//! The token bucket: how a bucket fills, and what a request finds in it.
//!
//! A bucket holds `burst` requests. A request that is admitted takes one out, and they come back one
//! by one, evenly, `requests` of them in `per`. That is the token bucket in the form of the generic
//! cell rate algorithm (ITU-T I.371, Annex A): all that is kept of a bucket is the moment at which it
//! is full again, so one number, and no bucket has to be refilled. The number is on a clock that outlives
//! reloads, so a bucket can go on under another rate. Time is an argument, in nanoseconds on that clock.

use std::time::Duration;

/// The shortest time in which a request comes back. What a nanosecond, in which times are counted,
/// rounds away of it is then less than a thousandth.
const SHORTEST: u64 = 1000;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// The time in which one request comes back, in nanoseconds.
    interval: u64,
    /// The time in which an empty bucket fills, in nanoseconds.
    depth: u64,
}

/// What a request found in its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level {
    /// Whether there was one for it.
    pub(super) admitted: bool,
    /// How many are left.
    pub(super) remaining: u64,
    /// The time until there is one more.
    pub(super) next: Duration,
}

impl Rate {
    /// So many requests in `per`, and up to `burst` at once; `None` if that is more than one in a
    /// microsecond.
    pub(super) fn new(requests: u32, per: Duration, burst: u32) -> Option<Self> {
        let nanos = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        let requests = u64::from(requests.max(1));
        let interval = (nanos.saturating_add(requests / 2)) / requests;
        // Where this saturates, a bucket takes centuries to fill.
        let depth = interval.saturating_mul(u64::from(burst.max(1)));
        (interval >= SHORTEST).then_some(Self { interval, depth })
    }

    /// Takes a request out of the bucket that is full again at `full_at`, if there is one.
    pub(super) fn take(self, full_at: &mut u64, now: u64) -> Level {
        // A bucket that was filled more slowly, before the settings changed, is now empty at most.
        let missing = full_at.saturating_sub(now).min(self.depth);
        let admitted = missing <= self.depth - self.interval;
        let missing = if admitted { missing + self.interval } else { missing };
        *full_at = now.saturating_add(missing);
        let remaining = (self.depth - missing) / self.interval;
        let next = missing.saturating_sub(self.depth - (remaining + 1) * self.interval);
        Level { admitted, remaining, next: Duration::from_nanos(next) }
    }
}

impl Level {
    /// The time until there is one more, in whole seconds: rounded up, and never none.
    pub(super) fn next_seconds(self) -> u64 {
        let partly = u64::from(self.next.subsec_nanos() > 0);
        self.next.as_secs().saturating_add(partly).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(requests: u32, per: Duration, burst: u32) -> Rate {
        Rate::new(requests, per, burst).unwrap()
    }

    #[test]
    fn a_burst_is_admitted_and_then_the_rate() {
        let rate = rate(10, Duration::from_secs(1), 5);
        let mut full_at = 0;
        let levels: Vec<_> = (0..7).map(|_| rate.take(&mut full_at, SECOND)).collect();
        let admitted = |n| Level { admitted: true, remaining: n, next: Duration::from_millis(100) };
        let refused = Level { admitted: false, remaining: 0, next: Duration::from_millis(100) };
        let expected = [4, 3, 2, 1, 0].map(admitted).into_iter().chain([refused; 2]);
        assert_eq!(levels, expected.collect::<Vec<_>>());

        let just_before = rate.take(&mut full_at, SECOND + 99_999_999);
        assert_eq!((just_before.admitted, just_before.next), (false, Duration::from_nanos(1)));
        assert!(rate.take(&mut full_at, SECOND + 100_000_000).admitted);
        assert!(!rate.take(&mut full_at, SECOND + 100_000_000).admitted);
        // Left alone, it is full again and no fuller.
        let later = (0..7).filter(|_| rate.take(&mut full_at, 100 * SECOND).admitted);
        assert_eq!(later.count(), 5);
    }

    #[test]
    fn the_wait_is_in_whole_seconds_rounded_up() {
        for (nanos, seconds) in [
            (0, 1),
            (1, 1),
            (SECOND, 1),
            (SECOND + 1, 2),
            (3600 * SECOND, 3600),
            (3600 * SECOND - 1, 3600),
        ] {
            let next = Duration::from_nanos(nanos);
            assert_eq!(Level { admitted: false, remaining: 0, next }.next_seconds(), seconds);
        }
    }

    #[test]
    fn rates_beyond_what_the_clock_resolves_are_none() {
        let second = Duration::from_secs(1);
        assert!(Rate::new(1_000_000, second, 1).is_some());
        assert_eq!(Rate::new(2_000_000, second, 1), None);
        assert!(Rate::new(1000, Duration::from_millis(1), 1).is_some());
        assert!(Rate::new(u32::MAX, Duration::from_secs(3600 * 24 * 365), u32::MAX).is_some());
        assert!(Rate::new(1, Duration::from_secs(3600 * 24 * 365), u32::MAX).is_some());
    }

    /// The bucket as the textbook has it, in fractions: `per` parts make a request.
    struct Textbook {
        parts: u128,
        at: u64,
    }

    impl Textbook {
        fn take(&mut self, now: u64, requests: u64, per: u64, burst: u64) -> bool {
            let (one, full) = (u128::from(per), u128::from(per) * u128::from(burst));
            let more = u128::from(now - self.at) * u128::from(requests);
            self.parts = (self.parts + more).min(full);
            self.at = now;
            let admitted = self.parts >= one;
            self.parts -= if admitted { one } else { 0 };
            admitted
        }
    }

    proptest! {
        /// Where a request comes back in a whole number of nanoseconds, there is no difference.
        #[test]
        fn it_is_the_textbook_bucket(
            requests in prop::sample::select(vec![1_u32, 2, 5, 10, 100, 1000]),
            burst in 1_u32..50,
            pauses in prop::collection::vec(0_u64..3 * SECOND, 1..200),
        ) {
            let per = Duration::from_secs(1);
            let rate = rate(requests, per, burst);
            let mut textbook =
                Textbook { parts: u128::from(SECOND) * u128::from(burst), at: 0 };
            let (mut full_at, mut now) = (0, 0);
            for pause in pauses {
                now += pause / u64::from(requests);
                let level = rate.take(&mut full_at, now);
                let expected = textbook.take(now, requests.into(), SECOND, burst.into());
                prop_assert_eq!(level.admitted, expected);
                prop_assert_eq!(
                    u128::from(level.remaining), textbook.parts / u128::from(SECOND)
                );
            }
        }

        #[test]
        fn nothing_overflows(
            requests: u32, per in 1_u64.., burst: u32, mut full_at: u64, now: u64,
        ) {
            if let Some(rate) = Rate::new(requests, Duration::from_nanos(per), burst) {
                let level = rate.take(&mut full_at, now);
                prop_assert!(level.remaining < u64::from(burst.max(1)) || !level.admitted);
                let _ = level.next_seconds();
            }
        }
    }
}

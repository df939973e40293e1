//! Time as the pool sees it: a number that somebody passes in.
//!
//! Nothing in the core reads a clock. Production passes [`Clock::now`], the simulator passes what it
//! likes, and the same code runs in both.

use std::time::{Duration, Instant};

/// A moment: nanoseconds since the clock it came from began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The beginning.
    pub const ZERO: Self = Self(0);
    /// A moment that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment so many nanoseconds after the beginning.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the beginning.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The moment `later`, at most [`Time::NEVER`].
    #[must_use]
    pub fn after(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The time since `earlier`; zero if that is in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The clock of a process.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The present moment.
    pub fn now(&self) -> Time {
        self.time(Instant::now())
    }

    /// What this clock shows when the system's shows `instant`.
    pub fn time(&self, instant: Instant) -> Time {
        let elapsed = instant.saturating_duration_since(self.0);
        Time(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
    }

    /// The moment as the system's clock has it.
    pub fn instant(&self, time: Time) -> Instant {
        self.0 + Duration::from_nanos(time.0)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::start()
    }
}

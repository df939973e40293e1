//! When requests arrive.

use rand::{Rng, rngs::SmallRng};
use rand_distr::{Distribution, Exp1};
use std::time::Duration;

/// An arrival process. Rates are in requests a second.
#[derive(Clone, Copy, Debug)]
pub enum Arrivals {
    /// Independent clients without number: the time between two arrivals is exponential.
    Poisson { rate: f64 },
    /// Poisson at one rate, and for `on` of every `period` at another.
    Bursts { rate: f64, burst: f64, period: Duration, on: Duration },
    /// So many clients, each of which thinks for an exponential time on average this long between
    /// an answer and its next request.
    ClosedLoop { clients: usize, think: Duration },
}

impl Arrivals {
    /// The time from `since_start`, when a request arrived, to the next; `None` when it is the
    /// clients' answers that bring on the next.
    pub fn next(&self, since_start: Duration, rng: &mut SmallRng) -> Option<Duration> {
        match *self {
            Self::Poisson { rate } => Some(exponential(Duration::from_secs_f64(1.0 / rate), rng)),
            Self::Bursts { rate, burst, period, on } => {
                Some(next_in_bursts(rate, burst, period, on, since_start, rng))
            }
            Self::ClosedLoop { .. } => None,
        }
    }

    /// How long a client of a closed loop thinks; `None` where there is no loop.
    pub fn think(&self, rng: &mut SmallRng) -> Option<Duration> {
        match self {
            Self::ClosedLoop { think, .. } => Some(exponential(*think, rng)),
            _ => None,
        }
    }

    /// How many arrivals there are to begin with.
    pub fn first(&self) -> usize {
        match self {
            Self::ClosedLoop { clients, .. } => *clients,
            _ => 1,
        }
    }
}

/// An exponential time with this mean.
pub fn exponential(mean: Duration, rng: &mut SmallRng) -> Duration {
    let sample: f64 = Exp1.sample(rng);
    mean.mul_f64(sample)
}

/// A Poisson process whose rate varies, by thinning (Lewis and Shedler, 1979): candidates come at
/// the higher rate, and each is kept with the share that the rate of its moment has of it.
fn next_in_bursts(
    rate: f64,
    burst: f64,
    period: Duration,
    on: Duration,
    since_start: Duration,
    rng: &mut SmallRng,
) -> Duration {
    let highest = rate.max(burst);
    let mut at = since_start;
    loop {
        at += exponential(Duration::from_secs_f64(1.0 / highest), rng);
        let in_burst = at.as_nanos() % period.as_nanos() < on.as_nanos();
        let rate_now = if in_burst { burst } else { rate };
        if rng.random_bool(rate_now / highest) {
            return at.saturating_sub(since_start);
        }
    }
}

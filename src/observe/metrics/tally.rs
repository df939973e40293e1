//! Counters, and how durations are spread.

use prometheus::{HistogramOpts, core::Metric as _};
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Counters by number.
#[derive(Debug)]
pub struct Tally<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Tally<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const N: usize> Tally<N> {
    /// Adds one to the counter with this number, which is below `N`.
    pub fn count(&self, number: usize) {
        self.0[number].fetch_add(1, Relaxed);
    }

    /// What was counted.
    pub fn counts(&self) -> [u64; N] {
        std::array::from_fn(|number| self.0[number].load(Relaxed))
    }
}

/// Upper bounds in seconds for what should be fast: from half a millisecond to a minute.
const REQUESTS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];
/// The same for what may last: from ten milliseconds to a day.
const CONNECTIONS: [f64; 10] =
    [0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 1_800.0, 7_200.0, 21_600.0, 86_400.0];

/// How durations are spread. Observing one takes no lock.
#[derive(Debug)]
pub struct Histogram(prometheus::Histogram);

impl Histogram {
    /// For requests, and for what they consist of.
    pub fn of_requests() -> Self {
        Self::new(&REQUESTS)
    }

    /// For connections that are passed on as they are.
    pub fn of_connections() -> Self {
        Self::new(&CONNECTIONS)
    }

    fn new(bounds: &[f64]) -> Self {
        // Its name and its labels are given when it is shown.
        let options = HistogramOpts::new("seconds", "seconds").buckets(bounds.to_vec());
        let histogram = prometheus::Histogram::with_opts(options);
        Self(histogram.expect("the name is one and the bounds ascend"))
    }

    /// Takes in a duration.
    pub fn observe(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }

    /// For each bound in seconds, how many durations were at most that long.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let shown = self.0.metric();
        let buckets = shown.get_histogram().get_bucket().iter();
        buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect()
    }

    /// How many durations there were.
    pub fn count(&self) -> u64 {
        self.0.get_sample_count()
    }

    pub(super) fn inner(&self) -> &prometheus::Histogram {
        &self.0
    }
}

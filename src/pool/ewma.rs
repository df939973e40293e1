//! How fast a backend answers: a moving average that rises at once and falls slowly.
//!
//! This is the peak EWMA of Twitter's Finagle (`PeakEwma.scala`), as in linkerd2-proxy: a slow answer
//! counts in full the moment it is seen, while faster ones pull the average down only as time passes.
//! Without traffic it decays to nothing, so that a backend that was slow is tried again.

use super::Time;
use std::time::Duration;

/// After this long an observation weighs 1/e of what it weighed.
pub(super) const DECAY: Duration = Duration::from_secs(10);
/// What a backend without history is expected to take, once it has been asked.
pub(super) const DEFAULT: Duration = Duration::from_millis(30);
/// What a failed request counts as, unless it took longer: a backend that fails fast must not look
/// fast.
pub(super) const FAILURE: Duration = Duration::from_secs(1);

/// The moving average of the time to the first byte.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PeakEwma {
    /// In nanoseconds, as of `at`.
    cost: f64,
    /// When the last answer was seen; `None` before the first.
    at: Option<Time>,
}

impl PeakEwma {
    /// Takes in the time that an answer took.
    pub(super) fn observe(&mut self, took: Duration, now: Time) {
        let took = took.as_nanos() as f64;
        self.cost = match self.at {
            Some(at) if took <= self.cost => {
                let kept = weight(at, now);
                self.cost * kept + took * (1.0 - kept)
            }
            None | Some(_) => took,
        };
        self.at = self.at.max(Some(now));
    }

    /// How long one more request is likely to wait at `now`, with `in_flight` others beside it, in
    /// nanoseconds. One that nobody has asked yet is worth asking, once: were it taken for slower than
    /// those that are known, nobody would ever learn better.
    pub(super) fn wait(&self, in_flight: f64, now: Time) -> f64 {
        if self.at.is_none() && in_flight == 0.0 {
            return 0.0;
        }
        // The smallest cost keeps the in-flight count telling when the average has decayed.
        self.at(now).max(1.0) * (in_flight + 1.0)
    }

    /// The average at `now`, in nanoseconds.
    pub(super) fn at(&self, now: Time) -> f64 {
        self.at.map_or(DEFAULT.as_nanos() as f64, |at| self.cost * weight(at, now))
    }
}

/// How much of what was seen at `at` still counts.
fn weight(at: Time, now: Time) -> f64 {
    (-now.since(at).as_secs_f64() / DECAY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(nanos: f64) -> f64 {
        nanos / 1e6
    }

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let mut average = PeakEwma::default();
        average.observe(Duration::from_millis(500), Time::ZERO);
        assert!((millis(average.at(Time::ZERO)) - 500.0).abs() < 1e-6);
        // Fast answers in the same moment do not hide it.
        average.observe(Duration::from_millis(1), Time::ZERO);
        assert!((millis(average.at(Time::ZERO)) - 500.0).abs() < 1e-6);
        let later = Time::ZERO.after(DECAY);
        average.observe(Duration::from_millis(1), later);
        let expected = 500.0 / std::f64::consts::E + (1.0 - 1.0 / std::f64::consts::E);
        assert!((millis(average.at(later)) - expected).abs() < 1e-6);
    }

    #[test]
    fn without_traffic_it_decays_to_nothing() {
        let mut average = PeakEwma::default();
        let later = Time::ZERO.after(10 * DECAY);
        assert!((millis(average.at(later)) - 30.0).abs() < 1e-9, "nothing was seen yet");
        average.observe(Duration::from_millis(500), Time::ZERO);
        assert!(millis(average.at(later)) < 0.03);
    }
}

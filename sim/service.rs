//! How much work a request is.

use rand::{Rng, rngs::SmallRng};
use rand_distr::{Distribution, Exp1, StandardNormal};
use std::time::Duration;

/// A distribution of service times, on a backend that works at full speed.
#[derive(Clone, Copy, Debug)]
pub enum ServiceTime {
    /// Always the same.
    Constant(Duration),
    /// Exponential with this mean.
    Exponential(Duration),
    /// Log-normal with this median: `sigma` is the standard deviation of the logarithm.
    LogNormal { median: Duration, sigma: f64 },
    /// Pareto, cut at both ends: heavy tails as files and database queries have them.
    Pareto { shape: f64, least: Duration, most: Duration },
    /// One of two, the second with a probability.
    Bimodal { usual: Duration, rare: Duration, probability: f64 },
}

impl ServiceTime {
    /// Draws one.
    pub fn sample(&self, rng: &mut SmallRng) -> Duration {
        match *self {
            Self::Constant(time) => time,
            Self::Exponential(mean) => {
                let sample: f64 = Exp1.sample(rng);
                mean.mul_f64(sample)
            }
            Self::LogNormal { median, sigma } => {
                let normal: f64 = StandardNormal.sample(rng);
                median.mul_f64((sigma * normal).exp())
            }
            Self::Pareto { shape, least, most } => bounded_pareto(shape, least, most, rng),
            Self::Bimodal { usual, rare, probability } => {
                if rng.random_bool(probability) {
                    rare
                } else {
                    usual
                }
            }
        }
    }

    /// The mean.
    pub fn mean(&self) -> Duration {
        match *self {
            Self::Constant(time) | Self::Exponential(time) => time,
            Self::LogNormal { median, sigma } => median.mul_f64((sigma * sigma / 2.0).exp()),
            Self::Pareto { shape, least, most } => {
                let (low, ratio) = (least.as_secs_f64(), least.div_duration_f64(most));
                let cut = 1.0 - ratio.powf(shape);
                let mean = low * shape / (shape - 1.0) * (1.0 - ratio.powf(shape - 1.0)) / cut;
                Duration::from_secs_f64(mean)
            }
            Self::Bimodal { usual, rare, probability } => {
                usual.mul_f64(1.0 - probability) + rare.mul_f64(probability)
            }
        }
    }
}

/// By the inverse of its distribution function.
fn bounded_pareto(shape: f64, least: Duration, most: Duration, rng: &mut SmallRng) -> Duration {
    let ratio = least.div_duration_f64(most).powf(shape);
    let uniform = rng.random_range(0.0..1.0);
    least.mul_f64((1.0 - uniform * (1.0 - ratio)).powf(-1.0 / shape)).min(most)
}

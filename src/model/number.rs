//! Bounded numbers.

use std::fmt;

/// A number outside the range its type allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a whole number from {min} to {max}")]
pub struct OutOfRange {
    /// The smallest value allowed.
    pub min: u64,
    /// The largest value allowed.
    pub max: u64,
}

/// A backend's share of traffic relative to the others of its tier: 0 to 65,535.
/// A backend of weight 0 gets no new traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    /// The weight of a backend whose configuration gives none.
    pub const ONE: Self = Self(1);

    /// Takes `weight` if it is in range.
    ///
    /// # Errors
    /// [`OutOfRange`] above 65,535.
    pub fn try_new(weight: u64) -> Result<Self, OutOfRange> {
        u16::try_from(weight).map(Self).map_err(|_| OutOfRange { min: 0, max: u64::from(u16::MAX) })
    }

    /// The weight as a number.
    pub fn get(self) -> u32 {
        u32::from(self.0)
    }
}

/// The greatest common divisor (Euclid); of 0 and a number, that number.
pub(crate) fn common_divisor<N>(a: N, b: N) -> N
where
    N: Copy + Default + PartialEq + std::ops::Rem<Output = N>,
{
    if b == N::default() { a } else { common_divisor(b, a % b) }
}

/// A share of a whole in percent, 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percent(f64);

impl Percent {
    /// Takes `percent` if it is in range.
    ///
    /// # Errors
    /// [`OutOfRange`] below 0, above 100, or not a number.
    pub fn try_new(percent: f64) -> Result<Self, OutOfRange> {
        if (0.0..=100.0).contains(&percent) {
            Ok(Self(percent))
        } else {
            Err(OutOfRange { min: 0, max: 100 })
        }
    }

    /// The share as a fraction, 0.0 to 1.0.
    pub fn fraction(self) -> f64 {
        self.0 / 100.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_end_at_65535() {
        assert_eq!(Weight::try_new(65_535).unwrap().get(), 65_535);
        assert!(Weight::try_new(65_536).is_err());
    }

    #[test]
    fn percentages_end_at_100() {
        assert!((Percent::try_new(20.0).unwrap().fraction() - 0.2).abs() < 1e-9);
        for wrong in [-1.0, 100.1, f64::NAN] {
            assert!(Percent::try_new(wrong).is_err());
        }
    }
}

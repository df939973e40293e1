//! Names of balancing policies.

use std::{fmt, str::FromStr};

/// How a pool chooses among its usable backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BalancePolicy {
    /// Each in turn, in proportion to weight, spread as evenly as the weights allow.
    RoundRobin,
    /// At random, in proportion to weight.
    Random,
    /// The one with the fewest requests in flight for its weight.
    LeastConnections,
}

impl BalancePolicy {
    /// Every policy, in the order in which documentation lists them.
    pub const ALL: [Self; 3] = [Self::RoundRobin, Self::Random, Self::LeastConnections];

    /// The policy's name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::LeastConnections => "least_connections",
        }
    }
}

/// A name that is no policy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected round_robin, random or least_connections")]
pub struct UnknownPolicy;

impl FromStr for BalancePolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == text).ok_or(UnknownPolicy)
    }
}

impl fmt::Display for BalancePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

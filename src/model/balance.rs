//! How a pool chooses among its usable backends.

use http::HeaderName;
use std::{fmt, str::FromStr};

/// `balance:` of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// The policy.
    pub policy: BalancePolicy,
    /// What of a request the hashing policies hash.
    pub hash_on: HashOn,
    /// For the hashing policies: how many times the average load a backend may carry before requests
    /// overflow to the next; at least 1. `None` is no bound.
    pub bounded_load: Option<f64>,
}

impl Balance {
    /// `policy` with nothing further said.
    pub fn of(policy: BalancePolicy) -> Self {
        Self { policy, hash_on: HashOn::ClientIp, bounded_load: None }
    }
}

/// The name of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BalancePolicy {
    /// Each in turn, in proportion to weight, spread as evenly as the weights allow.
    RoundRobin,
    /// At random, in proportion to weight.
    Random,
    /// The one with the fewest requests in flight for its weight.
    LeastConnections,
    /// Of two chosen at random by weight, the one with fewer requests in flight for its weight.
    P2c,
    /// Of two chosen at random by weight, the one that is likely to answer sooner.
    PeakEwma,
    /// By a hash of the request, on a ring.
    RingHash,
    /// By a hash of the request, in a table.
    Maglev,
}

impl BalancePolicy {
    /// Every policy, in the order in which documentation lists them.
    pub const ALL: [Self; 7] = [
        Self::RoundRobin,
        Self::Random,
        Self::LeastConnections,
        Self::P2c,
        Self::PeakEwma,
        Self::RingHash,
        Self::Maglev,
    ];

    /// The policy's name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::LeastConnections => "least_connections",
            Self::P2c => "p2c",
            Self::PeakEwma => "peak_ewma",
            Self::RingHash => "ring_hash",
            Self::Maglev => "maglev",
        }
    }

    /// Whether it sends equal keys to equal backends.
    pub fn is_hashing(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev)
    }
}

/// A name that is no policy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected round_robin, random, least_connections, p2c, peak_ewma, ring_hash or maglev")]
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

/// What of a request is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// The client's address, an IPv6 address by its first 64 bits: a host has as many of the rest
    /// as it likes.
    ClientIp,
    /// The path in normal form, without the query.
    Path,
    /// The path and the query.
    Uri,
    /// The value of a header field.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(String),
    /// The value of a query parameter, percent-decoded.
    Query(String),
}

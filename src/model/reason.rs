//! The one table of reason codes and the statuses that go with them.

use http::StatusCode;

/// Why a request ended as it did; `reason` in the access log and `error` in our own answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// As it should.
    Ok,
    /// No route matches.
    NoRoute,
    /// No usable backend in the pool.
    NoHealthyBackend,
    /// Every try failed to connect.
    ConnectFailed,
    /// Connecting or the first byte timed out.
    UpstreamTimeout,
    /// The backend broke off, or answered what is not HTTP, before its headers were whole.
    UpstreamReset,
    /// The backend broke off in the body.
    UpstreamTruncated,
    /// A limit of ours is reached.
    Overloaded,
    /// A rate limit of the route's.
    RateLimited,
    /// A filter refused it.
    Denied,
    /// A filter panicked.
    FilterPanic,
    /// The request is malformed.
    BadRequest,
    /// The client was too slow.
    ClientTimeout,
    /// The client went away.
    ClientAborted,
    /// A connection that is passed on as it is was silent for too long.
    IdleTimeout,
    /// The process ended before it was over.
    DrainTimeout,
    /// A fault of our own.
    InternalError,
}

impl Reason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 17] = [
        Self::Ok,
        Self::NoRoute,
        Self::NoHealthyBackend,
        Self::ConnectFailed,
        Self::UpstreamTimeout,
        Self::UpstreamReset,
        Self::UpstreamTruncated,
        Self::Overloaded,
        Self::RateLimited,
        Self::Denied,
        Self::FilterPanic,
        Self::BadRequest,
        Self::ClientTimeout,
        Self::ClientAborted,
        Self::IdleTimeout,
        Self::DrainTimeout,
        Self::InternalError,
    ];

    /// The code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NoRoute => "no_route",
            Self::NoHealthyBackend => "no_healthy_backend",
            Self::ConnectFailed => "connect_failed",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamTruncated => "upstream_truncated",
            Self::Overloaded => "overloaded",
            Self::RateLimited => "rate_limited",
            Self::Denied => "denied",
            Self::FilterPanic => "filter_panic",
            Self::BadRequest => "bad_request",
            Self::ClientTimeout => "client_timeout",
            Self::ClientAborted => "client_aborted",
            Self::IdleTimeout => "idle_timeout",
            Self::DrainTimeout => "drain_timeout",
            Self::InternalError => "internal_error",
        }
    }

    /// Whether it is a fault of ours, or of a filter.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::InternalError | Self::FilterPanic)
    }

    /// The status that goes with it where nothing more exact is known.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Ok => StatusCode::OK,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoHealthyBackend | Self::Overloaded | Self::DrainTimeout => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::ConnectFailed | Self::UpstreamReset | Self::UpstreamTruncated => {
                StatusCode::BAD_GATEWAY
            }
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::ClientTimeout | Self::IdleTimeout => StatusCode::REQUEST_TIMEOUT,
            // nginx's code for a client that went away; never sent, only logged.
            Self::ClientAborted => StatusCode::from_u16(499).expect("499 is a status"),
            Self::InternalError | Self::FilterPanic => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_in_the_order_of_their_numbers() {
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number, "{reason:?}");
        }
        assert_eq!(Reason::InternalError as usize + 1, Reason::ALL.len());
    }
}

//! A backend in the form that Pingora dials.

use super::{Exchange, RequestBody};
use crate::pool::Member;
use pingora::upstreams::peer::{HttpPeer, PeerOptions, Scheme};
use std::time::Duration;

/// What Pingora's read timeout is given beyond the client's, so that a client that stalls is found
/// out by its own timeout first and the backend is not blamed.
const BEYOND_CLIENT: Duration = Duration::from_secs(1);

impl Exchange {
    pub(super) fn peer(&self, member: &Member) -> HttpPeer {
        let mut options = PeerOptions::new();
        if let Some(pool) = &self.pool {
            let timeouts = &pool.spec().timeouts;
            options.connection_timeout = Some(timeouts.connect);
            options.total_connection_timeout = Some(timeouts.connect);
            options.read_timeout = self.read_timeout(timeouts.read);
            options.write_timeout = Some(timeouts.write);
            options.idle_timeout = Some(timeouts.idle);
        }
        HttpPeer {
            _address: member.address().clone(),
            scheme: Scheme::HTTP,
            sni: String::new(),
            proxy: None,
            client_cert_key: None,
            group_key: 0,
            options,
        }
    }

    /// While a client is still sending, Pingora's read timeout runs as well, restarted by every
    /// piece; the deadline that [`Exchange::passed_on_body`] sets takes over afterwards. A connection
    /// that is upgraded may be idle for as long as its ends like, and Pingora cannot be told when it
    /// is: the wait for the 101 has a deadline instead, which [`Exchange::connected`] sets.
    fn read_timeout(&self, read: Duration) -> Option<Duration> {
        match self.body {
            _ if self.upgrade => None,
            RequestBody::Whole => Some(read),
            RequestBody::Streaming => {
                Some(read.max(self.listener().timeouts.body_idle + BEYOND_CLIENT))
            }
        }
    }
}

//! Listeners: where connections are accepted, and what a client may cost.

use super::{ListenAddress, ListenerName};
use std::{num::NonZeroUsize, time::Duration};

/// One entry of `listeners:`.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The key in the file.
    pub name: ListenerName,
    /// Where it accepts.
    pub address: ListenAddress,
    /// Connections served at a time; `None` is no limit.
    pub max_connections: Option<NonZeroUsize>,
    /// How long a client may take.
    pub timeouts: ListenerTimeouts,
    /// How much a client may send.
    pub limits: ListenerLimits,
}

/// How long a client may take. Each is absolute for what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerTimeouts {
    /// The whole request head, from its first byte (from the connection's start for the first).
    pub header: Duration,
    /// Between two pieces of a request body.
    pub body_idle: Duration,
    /// Between two requests on a connection.
    pub keepalive: Duration,
    /// Without any progress while we send to the client.
    pub write: Duration,
}

impl Default for ListenerTimeouts {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            keepalive: Duration::from_secs(75),
            write: Duration::from_secs(30),
        }
    }
}

/// How much a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Bytes of the whole request head.
    pub header_bytes: usize,
    /// Fields in a request head.
    pub headers: usize,
    /// Bytes of the request target.
    pub uri_bytes: usize,
    /// Requests on one connection; `None` is no limit.
    pub requests_per_connection: Option<NonZeroUsize>,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            header_bytes: 64 * 1024,
            headers: 100,
            uri_bytes: 8 * 1024,
            requests_per_connection: None,
        }
    }
}

//! Who talks to whom.

use std::net::SocketAddr;

/// The two ends of a client's connection, as far as they are known and have addresses of IP. A proxy
/// in front may have said what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub client: Option<SocketAddr>,
    /// What the client has connected to.
    pub server: Option<SocketAddr>,
}

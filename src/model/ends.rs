//! Who talks to whom.

use std::net::{IpAddr, SocketAddr};

/// The two ends of a client's connection, as far as they are known and have addresses of IP. A proxy
/// in front may have said what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub client: Option<SocketAddr>,
    /// What the client has connected to.
    pub server: Option<SocketAddr>,
}

/// Gives `take` the bytes by which a client is told from others. An IPv6 address counts by its first 64
/// bits: a host has as many of the rest as it likes.
pub(crate) fn with_client_bytes<T>(address: IpAddr, take: impl FnOnce(&[u8]) -> T) -> T {
    match address.to_canonical() {
        IpAddr::V4(address) => take(&address.octets()),
        IpAddr::V6(address) => take(&address.octets()[..8]),
    }
}

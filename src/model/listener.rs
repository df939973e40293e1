//! Listeners: where connections are accepted, and what a client may cost.

use super::{HostPattern, ListenAddress, ListenerName, ListenerTls, PoolName};
use ipnet::IpNet;
use std::{
    net::IpAddr,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    time::Duration,
};

/// One entry of `listeners:`.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The key in the file.
    pub name: ListenerName,
    /// Where it accepts.
    pub address: ListenAddress,
    /// What it makes of a connection.
    pub protocol: Protocol,
    /// Whether clients may speak HTTP/2 in clear text, by prior knowledge, beside HTTP/1.
    pub h2c: bool,
    /// The header that a proxy in front sends ahead of each connection; `None` when there is none.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How it speaks TLS; `None` when it does not.
    pub tls: Option<ListenerTls>,
    /// Connections served at a time; `None` is no limit.
    pub max_connections: Option<NonZeroUsize>,
    /// How long a client may take.
    pub timeouts: ListenerTimeouts,
    /// How much a client may send.
    pub limits: ListenerLimits,
}

impl Listener {
    /// Where its connections go, if it passes them on as they are.
    pub fn tcp(&self) -> Option<&Tcp> {
        match &self.protocol {
            Protocol::Tcp(tcp) => Some(tcp),
            Protocol::Http => None,
        }
    }

    /// Whether it speaks HTTP.
    pub fn is_http(&self) -> bool {
        self.tcp().is_none()
    }
}

/// What a listener makes of a connection.
#[derive(Clone, Debug)]
pub enum Protocol {
    /// Requests, which the routes decide on.
    Http,
    /// A stream of bytes, passed on as it is.
    Tcp(Tcp),
}

/// Where the connections of a tcp listener go. There is a name or a pool.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// By the name that the client asks for in its TLS hello, which is not decrypted. Each pattern is
    /// there once.
    pub sni: Vec<(HostPattern, PoolName)>,
    /// Every connection that no name decides on; `None` closes those.
    pub pool: Option<PoolName>,
    /// How long a connection may go without a byte in either direction.
    pub idle_timeout: Duration,
}

impl Tcp {
    /// The pools it names, some of them perhaps more than once.
    pub fn pools(&self) -> impl Iterator<Item = &PoolName> {
        self.sni.iter().map(|(_, pool)| pool).chain(&self.pool)
    }
}

/// The header of the PROXY protocol, version 1 or 2, ahead of each connection to a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Whether a connection without one is closed; else it is served as it is.
    pub required: bool,
    /// The networks that connections may come from; empty is every one.
    pub from: Vec<IpNet>,
}

impl ProxyProtocol {
    /// Whether a connection may come from `peer`, which is `None` on a unix socket.
    pub fn may_come_from(&self, peer: Option<IpAddr>) -> bool {
        let within = |peer: IpAddr| self.from.iter().any(|network| network.contains(&peer));
        self.from.is_empty() || peer.is_some_and(within)
    }
}

/// How long a client may take. Each is absolute for what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerTimeouts {
    /// The whole request head, from its first byte (from the connection's start for the first), and
    /// each of what may come ahead of it. On HTTP/2 also what begins the connection, and any frame
    /// other than DATA.
    pub header: Duration,
    /// Between two pieces of a request body.
    pub body_idle: Duration,
    /// Between two requests on a connection; on HTTP/2, while it has none.
    pub keepalive: Duration,
    /// Without any progress while we send to the client.
    pub write: Duration,
    /// The whole TLS handshake.
    pub tls_handshake: Duration,
}

impl Default for ListenerTimeouts {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            keepalive: Duration::from_secs(75),
            write: Duration::from_secs(30),
            tls_handshake: Duration::from_secs(10),
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
    /// Requests in flight on one HTTP/2 connection.
    pub h2_streams: NonZeroU32,
    /// Bytes a second of a body, or of a response, while it is the client that is waited for; `None` is
    /// no limit.
    pub min_rate: Option<NonZeroU64>,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            header_bytes: 64 * 1024,
            headers: 100,
            uri_bytes: 8 * 1024,
            requests_per_connection: None,
            h2_streams: const { NonZeroU32::new(100).unwrap() },
            min_rate: NonZeroU64::new(500),
        }
    }
}

//! The validated configuration: plain values whose types carry their meaning.
//!
//! `config` makes these from a file, the command line makes them from flags, and everything below
//! consumes them. A value of these types is valid by construction; there is no I/O here and there
//! are no defaults to resolve any more.

mod address;
mod admin;
mod balance;
#[cfg(any(test, fuzzing))]
mod cuts;
mod ends;
pub(crate) mod fault;
mod framing;
mod host;
mod listener;
mod name;
mod number;
mod path;
mod pool;
mod reason;
mod route;
pub(crate) mod scalar;
mod server;
mod settings;
mod template;
mod tls;

pub use address::{AddressError, BackendAddress, ListenAddress};
pub(crate) use address::{MAX_SOCKET_PATH, is_host_name};
pub use admin::{Admin, Token};
pub use balance::{Balance, BalancePolicy, HashOn, UnknownPolicy};
#[cfg(any(test, fuzzing))]
pub(crate) use cuts::cuts;
pub use ends::Ends;
pub(crate) use ends::with_client_bytes;
pub use fault::{Fault, Position};
pub(crate) use framing::frames_message;
pub use host::host_without_port;
pub use listener::{Listener, ListenerLimits, ListenerTimeouts, Protocol, ProxyProtocol, Tcp};
pub use name::{BackendName, InvalidName, ListenerName, PoolName, RouteName};
pub(crate) use number::common_divisor;
pub use number::{OutOfRange, Percent, Weight};
pub use path::{PathError, normal_path, path_to_match, single_slashes};
pub use pool::{
    Amendment, Backend, BackendProtocol, BackendState, Backoff, Budget, Ejection, GrpcProbe,
    HealthCheck, HostHeader, HttpProbe, Pool, PoolLimits, PoolTimeouts, Probe, ProxyVersion, Retry,
    RetryOn, SameSite, Secure, StatusRange, Sticky,
};
pub use reason::Reason;
pub use route::{
    Action, HeaderMatch, HostPattern, Match, PathMatch, QueryMatch, Redirect, Respond, Route,
    RouteListeners, Split, Upgrades, ValueMatch,
};
pub use server::{AccessLog, AccessLogFormat, LogTarget, Server};
pub use settings::{MASK, Settings, SettingsValue};
pub use template::{Template, TemplateError, Variable};
pub use tls::{
    Alpn, Authorities, ClientAuth, Identity, ListenerTls, PoolTls, Source, Stamp, TlsVersion,
    Validity,
};

use ipnet::IpNet;

/// A whole validated configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Settings of the process itself.
    pub server: Server,
    /// Where the admin API is; `None` when there is none.
    pub admin: Option<Admin>,
    /// Where and how requests are logged; `None` when they are not.
    pub access_log: Option<AccessLog>,
    /// The networks whose `X-Forwarded-*` fields are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The addresses we accept connections on, in file order; never empty.
    pub listeners: Vec<Listener>,
    /// The routes in file order; the first that matches wins; empty only if no listener speaks HTTP.
    pub routes: Vec<Route>,
    /// The pools in file order. Every pool a route names is among them.
    pub pools: Vec<Pool>,
}

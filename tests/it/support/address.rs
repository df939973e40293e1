//! Addresses that belong to a test for as long as it runs.

use super::SOON;
use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// Where something listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(address) => address.port(),
            Self::Unix(path) => panic!("{} has no port", path.display()),
        }
    }

    fn domain(&self) -> Domain {
        match self {
            Self::Tcp(address) => Domain::for_address(*address),
            Self::Unix(_) => Domain::UNIX,
        }
    }

    pub fn socket_address(&self) -> SockAddr {
        match self {
            Self::Tcp(address) => SockAddr::from(*address),
            Self::Unix(path) => SockAddr::unix(path).expect("a path short enough for a socket"),
        }
    }

    /// A new socket of the right family, not bound.
    pub fn socket(&self) -> io::Result<Socket> {
        Socket::new(self.domain(), Type::STREAM, None)
    }

    /// Connects, with the deadline `SOON`.
    pub fn connect(&self) -> io::Result<Socket> {
        self.connect_within(SOON)
    }

    pub fn connect_within(&self, limit: Duration) -> io::Result<Socket> {
        let socket = self.socket()?;
        match self {
            Self::Tcp(_) => {
                socket.connect_timeout(&self.socket_address(), limit)?;
                socket.set_tcp_nodelay(true)?;
            }
            // A connection to a unix socket is made or refused at once.
            Self::Unix(_) => socket.connect(&self.socket_address())?,
        }
        Ok(socket)
    }

    /// A socket bound here that does not listen.
    pub fn bind(&self) -> io::Result<Socket> {
        let socket = self.socket()?;
        if matches!(self, Self::Tcp(_)) {
            socket.set_reuse_address(true)?;
        }
        socket.bind(&self.socket_address())?;
        Ok(socket)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A port that is ours but refuses connections.
///
/// The socket is bound with `SO_REUSEADDR` and never listens. So the system gives the port to
/// nobody who asks for any port, connecting to it is refused, and whoever binds it explicitly
/// with `SO_REUSEADDR`, as servers do, may listen on it. That removes the race between choosing
/// a free port and using it.
#[derive(Debug)]
pub struct Reserved {
    _socket: Socket,
    address: SocketAddr,
}

impl Reserved {
    pub fn new() -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a free port on 127.0.0.1")
    }

    pub fn v6() -> Self {
        Self::at(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))).expect("a free port on [::1]")
    }

    pub fn at(address: SocketAddr) -> io::Result<Self> {
        let socket = Address::Tcp(address).bind()?;
        let address = socket.local_addr()?.as_socket().expect("bound to an internet address");
        Ok(Self { _socket: socket, address })
    }

    pub fn address(&self) -> Address {
        Address::Tcp(self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

/// An address where connecting neither succeeds nor fails: its queue of connections is full and
/// nobody accepts.
#[derive(Debug)]
pub struct FullBacklog {
    address: Address,
    _listener: Socket,
    _waiting: Vec<Socket>,
}

impl FullBacklog {
    pub fn new() -> Self {
        let listener = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).bind().unwrap();
        listener.listen(0).unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap().as_socket().unwrap());
        let mut waiting = Vec::new();
        while let Ok(socket) = address.connect_within(Duration::from_millis(100)) {
            waiting.push(socket);
            assert!(waiting.len() < 1000, "the queue of a listener with backlog 0 never fills");
        }
        Self { address, _listener: listener, _waiting: waiting }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }
}

//! Binding: all listeners or none, before anything else starts.

use crate::model::{self, ListenAddress, ListenerName};
use socket2::{Domain, Protocol, Type};
use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::OwnedFd,
        unix::{
            fs::FileTypeExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
};

/// Connections the kernel may hold for us until they are accepted; it caps this at `somaxconn`.
pub(super) const BACKLOG: i32 = 4096;

/// A listener that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listener {name}: cannot listen on {address}: {source}")]
pub struct BindError {
    name: ListenerName,
    address: ListenAddress,
    source: io::Error,
}

/// A bound listening socket.
#[derive(Debug)]
pub struct Bound {
    /// The listener it belongs to.
    pub name: ListenerName,
    /// The address as configured.
    pub address: ListenAddress,
    pub(super) socket: Socket,
}

/// A listening socket, whatever its family.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Binds every listener, taking over the sockets that `inherited` has for its address.
///
/// # Errors
/// The first listener that cannot be bound.
pub fn bind_all(
    listeners: &[model::Listener],
    mut inherited: impl FnMut(&ListenAddress) -> Option<OwnedFd>,
) -> Result<Vec<Bound>, BindError> {
    let bind_one = |listener: &model::Listener| {
        let address = &listener.address;
        let socket = match inherited(address) {
            Some(socket) => Ok(Socket::inherit(address, socket)),
            None => Socket::bind(address),
        };
        match socket {
            Ok(socket) => {
                Ok(Bound { name: listener.name.clone(), address: address.clone(), socket })
            }
            Err(source) => {
                Err(BindError { name: listener.name.clone(), address: address.clone(), source })
            }
        }
    };
    listeners.iter().map(bind_one).collect()
}

impl Bound {
    /// The address in use, which differs from the configured one where that leaves the port open.
    pub fn local_address(&self) -> ListenAddress {
        match &self.socket {
            Socket::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| self.address.clone(), ListenAddress::Tcp)
            }
            Socket::Unix(_) => self.address.clone(),
        }
    }

    /// A second handle on the same socket, to hand over.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        match &self.socket {
            Socket::Tcp(listener) => listener.try_clone().map(OwnedFd::from),
            Socket::Unix(listener) => listener.try_clone().map(OwnedFd::from),
        }
    }
}

impl Socket {
    fn bind(address: &ListenAddress) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => bind_tcp(*address).map(Self::Tcp),
            ListenAddress::Unix(path) => bind_unix(path).map(Self::Unix),
        }
    }

    fn inherit(address: &ListenAddress, socket: OwnedFd) -> Self {
        match address {
            ListenAddress::Tcp(_) => Self::Tcp(socket.into()),
            ListenAddress::Unix(_) => Self::Unix(socket.into()),
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // An IPv6 listener is just that; whoever wants both families names both.
        socket.set_only_v6(true)?;
    }
    // Connections of the process before us may still linger on the port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        other => other,
    }?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Whether `path` is a socket that nobody listens on any more.
fn is_stale(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    is_socket
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

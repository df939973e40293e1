//! Binding: every address or none, before anything else starts.

use crate::model::{self, ListenAddress, ListenerName};
use rustix::fs::{Mode, fchmod};
use socket2::{Domain, Protocol, SockAddr, Type};
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

/// An address that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{owner}: cannot listen on {address}: {source}")]
pub struct BindError {
    /// Whose it is, as in `listener web`.
    owner: String,
    address: ListenAddress,
    source: io::Error,
}

/// The bound socket of a listener.
#[derive(Debug)]
pub struct Bound {
    /// The listener it belongs to.
    pub name: ListenerName,
    /// The socket.
    pub place: BoundSocket,
}

/// A bound listening socket.
#[derive(Debug)]
pub struct BoundSocket {
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
        let owner = || format!("listener {}", listener.name);
        let inherited = inherited(&listener.address);
        let place = BoundSocket::new(owner, &listener.address, inherited, Access::Anyone)?;
        Ok(Bound { name: listener.name.clone(), place })
    };
    listeners.iter().map(bind_one).collect()
}

/// Binds the address of the admin API, or takes over the socket that is there for it. A unix socket
/// is for the user alone who makes it.
///
/// # Errors
/// When it cannot be bound.
pub fn bind_admin(
    address: &ListenAddress,
    inherited: Option<OwnedFd>,
) -> Result<BoundSocket, BindError> {
    BoundSocket::new(|| "admin".to_owned(), address, inherited, Access::Owner)
}

/// Who may connect to a unix socket.
#[derive(Clone, Copy)]
enum Access {
    /// Whoever the file's folder and the process's umask let.
    Anyone,
    /// Its owner, and root.
    Owner,
}

impl BoundSocket {
    fn new(
        owner: impl FnOnce() -> String,
        address: &ListenAddress,
        inherited: Option<OwnedFd>,
        access: Access,
    ) -> Result<Self, BindError> {
        let socket = match inherited {
            Some(socket) => Ok(Socket::inherit(address, socket)),
            None => Socket::bind(address, access),
        };
        let address = address.clone();
        match socket {
            Ok(socket) => Ok(Self { address, socket }),
            Err(source) => Err(BindError { owner: owner(), address, source }),
        }
    }

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
    fn bind(address: &ListenAddress, access: Access) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => bind_tcp(*address).map(Self::Tcp),
            ListenAddress::Unix(path) => bind_unix(path, access).map(Self::Unix),
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

fn bind_unix(path: &Path, access: Access) -> io::Result<UnixListener> {
    let bind = || match access {
        Access::Anyone => UnixListener::bind(path),
        Access::Owner => bind_private(path),
    };
    let listener = match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            std::fs::remove_file(path)?;
            bind()
        }
        other => other,
    }?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The file gets the mode of the socket, so that there is no moment in which it has another.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether `path` is a socket that nobody listens on any more.
fn is_stale(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    is_socket
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

//! Connecting to a backend, for those who speak no HTTP over it.

use pingora_core::protocols::l4::socket::SocketAddr;
use std::{io, time::Duration};
use tokio::net::{TcpStream, UnixStream};

/// A connection to a backend.
#[derive(Debug)]
pub enum Dialed {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
}

/// Connects to `address` within `timeout`.
///
/// # Errors
/// What the system says; [`io::ErrorKind::TimedOut`] when the time is over.
pub async fn dial(address: &SocketAddr, timeout: Duration) -> io::Result<Dialed> {
    let dialed = tokio::time::timeout(timeout, connect(address)).await;
    dialed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn connect(address: &SocketAddr) -> io::Result<Dialed> {
    match address {
        SocketAddr::Inet(address) => {
            let stream = TcpStream::connect(address).await?;
            // What is passed on was sent; waiting for more only adds delay.
            stream.set_nodelay(true)?;
            Ok(Dialed::Tcp(stream))
        }
        SocketAddr::Unix(address) => {
            let path = address.as_pathname().ok_or(io::ErrorKind::InvalidInput)?;
            UnixStream::connect(path).await.map(Dialed::Unix)
        }
    }
}

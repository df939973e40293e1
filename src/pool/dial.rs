//! Connecting to a backend without Pingora: for streams, and where a PROXY header goes ahead.

use super::Preamble;
use async_trait::async_trait;
use pingora_core::{
    Error, ErrorType,
    connectors::l4::Connect,
    protocols::l4::{socket::SocketAddr, stream::Stream},
};
use rustix::io::Errno;
use std::{error::Error as StdError, io, time::Duration};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UnixStream},
};

/// Whether an error says that it is us who lack something: descriptors, memory or ports. That says
/// nothing of the backend.
pub fn is_ours(error: &io::Error) -> bool {
    let lacking = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|error| lacking.contains(&error))
}

/// The system's error that one of Pingora's comes from, if it comes from one.
pub fn system_error(error: &Error) -> Option<&io::Error> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error.root_cause());
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return Some(io);
        }
        cause = inner.source();
    }
    None
}

/// Whether it is such a lack of ours that one of Pingora's errors comes from.
pub fn is_lack_of_ours(error: &Error) -> bool {
    system_error(error).is_some_and(is_ours)
}

/// A connection to a backend.
#[derive(Debug)]
pub enum Dialed {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
}

/// Makes connections to backends.
#[derive(Clone, Debug)]
pub struct Dialer {
    /// How long a connection may take.
    pub timeout: Duration,
    /// What goes ahead of each.
    pub preamble: Option<Preamble>,
}

impl Dialer {
    /// Connects to `address`, and sends what goes ahead.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::TimedOut`] when the time is over.
    pub async fn dial(&self, address: &SocketAddr) -> io::Result<Dialed> {
        let dialed = tokio::time::timeout(self.timeout, self.connect_to(address)).await;
        dialed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn connect_to(&self, address: &SocketAddr) -> io::Result<Dialed> {
        let ahead = self.preamble.as_ref().map_or(&[][..], Preamble::as_bytes);
        match address {
            SocketAddr::Inet(address) => {
                let mut stream = TcpStream::connect(address).await?;
                // What is passed on was sent; waiting for more only adds delay.
                stream.set_nodelay(true)?;
                stream.write_all(ahead).await?;
                Ok(Dialed::Tcp(stream))
            }
            SocketAddr::Unix(address) => {
                let path = address.as_pathname().ok_or(io::ErrorKind::InvalidInput)?;
                let mut stream = UnixStream::connect(path).await?;
                stream.write_all(ahead).await?;
                Ok(Dialed::Unix(stream))
            }
        }
    }

    /// The same for Pingora, with its errors.
    ///
    /// # Errors
    /// When no connection comes about.
    pub async fn dial_for_pingora(&self, address: &SocketAddr) -> pingora_core::Result<Dialed> {
        self.dial(address).await.map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
                io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
                _ => ErrorType::ConnectError,
            };
            Error::because(kind, "connecting to a backend", error)
        })
    }
}

#[async_trait]
impl Connect for Dialer {
    async fn connect(&self, address: &SocketAddr) -> pingora_core::Result<Stream> {
        Ok(match self.dial_for_pingora(address).await? {
            Dialed::Tcp(stream) => stream.into(),
            Dialed::Unix(stream) => stream.into(),
        })
    }
}

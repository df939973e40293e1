//! The socket beneath a connection, looked at without taking anything off it.

use rustix::net::{RecvFlags, recv};
use std::{
    fmt::Debug,
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, Ready},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::client::TlsStream;

/// A connection that can be relayed.
pub trait Stream: AsyncRead + AsyncWrite + Debug + Unpin + Send + Sync {
    /// The socket beneath.
    fn socket(&self) -> Socket<'_>;

    /// Whether the socket carries the stream's bytes as they are, not wrapped as in TLS.
    fn is_plain(&self) -> bool {
        true
    }

    /// Whether the other side may close without having said that this is the end, where there is a way
    /// to say it.
    fn may_end_unsaid(&self) -> bool {
        false
    }
}

impl Stream for TcpStream {
    fn socket(&self) -> Socket<'_> {
        Socket::Tcp(self)
    }
}

impl Stream for UnixStream {
    fn socket(&self) -> Socket<'_> {
        Socket::Unix(self)
    }
}

impl<S: Stream> Stream for TlsStream<S> {
    fn socket(&self) -> Socket<'_> {
        self.get_ref().0.socket()
    }

    fn is_plain(&self) -> bool {
        false
    }
}

impl Stream for Box<dyn Stream> {
    fn socket(&self) -> Socket<'_> {
        (**self).socket()
    }

    fn is_plain(&self) -> bool {
        (**self).is_plain()
    }

    fn may_end_unsaid(&self) -> bool {
        (**self).may_end_unsaid()
    }
}

/// A connected stream socket.
#[derive(Clone, Copy, Debug)]
pub enum Socket<'a> {
    /// TCP over either version of IP.
    Tcp(&'a TcpStream),
    /// A unix socket.
    Unix(&'a UnixStream),
}

impl Socket<'_> {
    /// Waits until there is something to read, or nothing more will come.
    ///
    /// # Errors
    /// When the runtime is ending.
    pub async fn readable(self) -> io::Result<()> {
        self.ready(Interest::READABLE).await.map(drop)
    }

    /// Resolves when the other side has closed the connection, or its direction of it, whether or not
    /// all that came before has been read.
    pub async fn closed(self) {
        // The end of the stream satisfies every interest in reading; urgent data, which would satisfy
        // this one as well, is not among what sockets are registered for.
        if self.ready(Interest::PRIORITY).await.is_err() {
            // The runtime is ending, and whoever waits with it.
            std::future::pending::<()>().await;
        }
    }

    /// Our address on this connection; `None` on a unix socket.
    pub fn local_address(self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Takes the next `length` bytes off the socket, which have been seen there.
    ///
    /// # Errors
    /// When they are not there any more.
    pub fn discard(self, length: usize) -> io::Result<()> {
        let mut bytes = vec![0; length];
        let mut left = &mut bytes[..];
        while !left.is_empty() {
            let (_, taken) = recv(self.as_fd(), &mut *left, RecvFlags::empty())?;
            if taken == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left = &mut left[taken..];
        }
        Ok(())
    }

    /// Has the socket send a reset instead of an orderly end when it is closed.
    pub fn reset_on_close(self) {
        if let Self::Tcp(stream) = self {
            // A socket that refuses the option is broken already.
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Shows `judge` what has arrived, at most `most` bytes of it, until that is enough for a verdict.
    /// Nothing is taken off the socket, and no buffer is held while nothing comes. With `true`, no more
    /// will come, and the verdict is due.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn look<T>(
        self,
        most: usize,
        mut judge: impl FnMut(&[u8], bool) -> Option<T>,
    ) -> io::Result<T> {
        self.readable().await?;
        if let Some(verdict) = judge(&self.peek(most)?, false) {
            return Ok(verdict);
        }
        // To wait for more, the note that there is something to read has to go. On a descriptor of
        // its own, the wait leaves this socket's note alone: whoever reads next finds it.
        let watch = self.as_fd().try_clone_to_owned()?;
        match self {
            Self::Tcp(_) => {
                let watch = TcpStream::from_std(watch.into())?;
                Socket::Tcp(&watch).look_on(most, judge).await
            }
            Self::Unix(_) => {
                let watch = UnixStream::from_std(watch.into())?;
                Socket::Unix(&watch).look_on(most, judge).await
            }
        }
    }

    async fn look_on<T>(
        self,
        most: usize,
        mut judge: impl FnMut(&[u8], bool) -> Option<T>,
    ) -> io::Result<T> {
        loop {
            let ended = self.ready(Interest::READABLE).await?.is_read_closed();
            let look = || match judge(&self.peek(most)?, ended) {
                Some(verdict) => Ok(verdict),
                None if ended => Err(io::ErrorKind::UnexpectedEof.into()),
                None => Err(io::ErrorKind::WouldBlock.into()),
            };
            match self.try_io(Interest::READABLE, look) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                verdict => return verdict,
            }
        }
    }

    async fn ready(self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Tcp(stream) => stream.ready(interest).await,
            Self::Unix(stream) => stream.ready(interest).await,
        }
    }

    /// Polls for readiness to read or write.
    pub(super) fn poll_ready(
        self,
        interest: Interest,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        match (self, interest.is_writable()) {
            (Self::Tcp(stream), false) => stream.poll_read_ready(cx),
            (Self::Tcp(stream), true) => stream.poll_write_ready(cx),
            (Self::Unix(stream), false) => stream.poll_read_ready(cx),
            (Self::Unix(stream), true) => stream.poll_write_ready(cx),
        }
    }

    /// Does what the socket is said to be ready for; that it is not after all is noted.
    pub(super) fn try_io<T>(
        self,
        interest: Interest,
        io: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        match self {
            Self::Tcp(stream) => stream.try_io(interest, io),
            Self::Unix(stream) => stream.try_io(interest, io),
        }
    }

    /// What has arrived, at most `most` bytes of it.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn peek(self, most: usize) -> io::Result<Vec<u8>> {
        let mut seen = Vec::with_capacity(most);
        match recv(self.as_fd(), rustix::buffer::spare_capacity(&mut seen), RecvFlags::PEEK) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(seen),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Socket<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

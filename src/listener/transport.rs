//! A client's connection, whatever its family and whether or not it speaks TLS.

use crate::tcp::{Socket, Stream};
use rustix::net::RecvFlags;
use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;

/// A connection as bytes go over it in the clear or, once the handshake is over, in TLS.
#[derive(Debug)]
pub(super) enum Transport {
    Clear(ClientSocket),
    Tls(Box<TlsStream<ClientSocket>>),
}

impl Transport {
    fn under(&self) -> &ClientSocket {
        match self {
            Self::Clear(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Whether something that was written is still here, because the system has not taken it.
    pub(super) fn holds_back(&self) -> bool {
        match self {
            Self::Clear(_) => false,
            Self::Tls(stream) => stream.get_ref().1.wants_write(),
        }
    }

    /// Has the socket send a reset instead of an orderly end when it is closed.
    pub(super) fn reset_on_close(&self) {
        self.under().socket().reset_on_close();
    }

    /// Bytes that the system has taken so far, those of TLS itself included.
    pub(super) fn sent(&self) -> u64 {
        self.under().sent
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.under().as_fd().as_raw_fd()
    }
}

impl Stream for Transport {
    fn socket(&self) -> Socket<'_> {
        self.under().socket()
    }

    fn is_plain(&self) -> bool {
        !self.is_tls()
    }

    /// Many clients close without `close_notify` once they have all they want.
    fn may_end_unsaid(&self) -> bool {
        self.is_tls()
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    /// In TLS, slices that are written at once become one record.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// Says that nothing more comes; in TLS, by a `close_notify` before the end of the stream, which
    /// waits for room.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A connected stream socket.
#[derive(Debug)]
pub(super) struct ClientSocket {
    family: Family,
    /// Bytes that the system has taken: progress, where TLS has none to show.
    sent: u64,
}

#[derive(Debug)]
enum Family {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl From<TcpStream> for ClientSocket {
    fn from(stream: TcpStream) -> Self {
        Self { family: Family::Tcp(stream), sent: 0 }
    }
}

impl From<UnixStream> for ClientSocket {
    fn from(stream: UnixStream) -> Self {
        Self { family: Family::Unix(stream), sent: 0 }
    }
}

impl ClientSocket {
    /// Waits for the first byte and leaves it where it is; `None` at the end of the stream.
    pub(super) async fn peek(&self) -> io::Result<Option<u8>> {
        let peek = || {
            let mut byte = [0];
            let (read, _) = rustix::net::recv(self.as_fd(), &mut byte, RecvFlags::PEEK)?;
            Ok((read > 0).then_some(byte[0]))
        };
        match &self.family {
            Family::Tcp(stream) => stream.async_io(Interest::READABLE, peek).await,
            Family::Unix(stream) => stream.async_io(Interest::READABLE, peek).await,
        }
    }

    fn count(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = &written {
            self.sent += *written as u64;
        }
        written
    }
}

impl Stream for ClientSocket {
    fn socket(&self) -> Socket<'_> {
        match &self.family {
            Family::Tcp(stream) => Socket::Tcp(stream),
            Family::Unix(stream) => Socket::Unix(stream),
        }
    }
}

impl AsFd for ClientSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.family {
            Family::Tcp(stream) => stream.as_fd(),
            Family::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().family {
            Family::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Family::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        let written = match &mut socket.family {
            Family::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Family::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        socket.count(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        let written = match &mut socket.family {
            Family::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Family::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        socket.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().family {
            Family::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Family::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().family {
            Family::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Family::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

//! Connections to backends that may become tunnels.
//!
//! Pingora 0.9.1 ends a fresh tunnel at once if the backend's 101 is there before Pingora has noted
//! that the request has no body, which happens with a backend nearby on a busy machine: two halves of
//! one task race, and the first look at the backend's socket may win. Connections for upgrade requests
//! therefore say "not yet" to the first read, so that the other half always goes first. Under TLS that
//! would be a read of the handshake, and how many of those there are is not ours to know: there, the
//! first read after each write is put off. They are made anew for each request and never used again,
//! also where the backend declines and Pingora would keep them.

use crate::pool::{Dialed, Dialer};
use async_trait::async_trait;
use pingora::{
    Result,
    connectors::l4::Connect,
    protocols::l4::{
        socket::SocketAddr,
        stream::Stream,
        virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream},
    },
};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Makes connections for upgrade requests as `dialer` does; with `tls`, Pingora will speak it on them.
pub(super) fn connector(dialer: Dialer, tls: bool) -> Arc<dyn Connect + Send + Sync> {
    Arc::new(Connector { dialer, tls })
}

#[derive(Debug)]
struct Connector {
    dialer: Dialer,
    tls: bool,
}

impl Connector {
    fn patient<S>(&self, inner: S) -> Patient<S> {
        Patient { inner, looked: false, after_each_write: self.tls }
    }
}

#[async_trait]
impl Connect for Connector {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let socket: Box<dyn VirtualSocket> = match self.dialer.dial_for_pingora(address).await? {
            Dialed::Tcp(stream) => Box::new(self.patient(stream)),
            Dialed::Unix(stream) => Box::new(self.patient(stream)),
        };
        Ok(Stream::from(VirtualSocketStream::new(socket)))
    }
}

/// A stream whose first read has to be asked for twice.
#[derive(Debug)]
struct Patient<S> {
    inner: S,
    looked: bool,
    after_each_write: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync + std::fmt::Debug> VirtualSocket
    for Patient<S>
{
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        // What Pingora would set is set when the connection is made.
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.looked, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut this.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.after_each_write {
            this.looked = false;
        }
        Pin::new(&mut this.inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

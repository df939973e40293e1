//! The client's socket as Pingora sees it for one request: it ends where the request's body does.
//!
//! Pingora owns a [`RequestStream`] while it serves the request. Reads give it the body and nothing
//! beyond; what the client sends after that stays here for the next request. Whatever Pingora does
//! with the stream, dropping it puts the [`Socket`] back where the connection loop finds it.

use super::{chunked::ChunkScanner, head::Framing};
use crate::{
    listener::{
        Drain,
        drain::UntilOver,
        pace::{Paces, Waiting},
        transport::Transport,
    },
    proxy::{BrokenOff, Fault, Link},
};
use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType, raw_connect::ProxyDigest,
};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Small writes are gathered up to this, so that a head and a short body are one write.
const GATHER: usize = 8 * 1024;
/// Room that is made for that at first: a head, and a short body.
const GATHER_FIRST: usize = 1024;
/// What may arrive beyond the request being served: part of the next one, held for later.
const MAX_AHEAD: usize = 16 * 1024;

/// Where the request's body stands.
#[derive(Debug)]
enum Body {
    Length(u64),
    Chunked(ChunkScanner),
}

impl Body {
    fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(scanner) => scanner.is_done(),
        }
    }

    /// How many of `bytes` belong to the body; they count as read.
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Length(left) => {
                let taken = (*left).min(bytes.len() as u64);
                *left -= taken;
                Ok(taken as usize)
            }
            Self::Chunked(scanner) => scanner
                .advance(bytes)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "malformed chunked body")),
        }
    }
}

/// A client's socket with what was read ahead and what waits to be written.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) transport: Transport,
    /// Bytes that arrived and that nobody has taken yet.
    pub(super) inbound: BytesMut,
    outbound: BytesMut,
    body: Body,
    link: Arc<Link>,
    paces: Paces,
    /// Bytes that came from the client.
    received: u64,
    /// While the client keeps us waiting for its body.
    reading: Waiting,
    /// While the client does not take what we send.
    writing: Waiting,
    /// How much it had taken when that was last looked at.
    taken: u64,
    /// Whether a read has waited since something was gathered.
    yielded: bool,
    /// Whether the response that is sent while its client is still sending is chunked.
    chunked: bool,
    /// Whether the client has closed its side.
    pub(super) ended: bool,
    drain: Drain,
    /// What a tunnel ends by that nobody else ends.
    over: Option<UntilOver>,
}

impl Socket {
    pub(super) fn new(transport: Transport, link: Arc<Link>, paces: Paces, drain: Drain) -> Self {
        Self {
            transport,
            inbound: BytesMut::new(),
            outbound: BytesMut::new(),
            body: Body::Length(0),
            link,
            paces,
            received: 0,
            reading: Waiting::default(),
            writing: Waiting::default(),
            taken: 0,
            yielded: false,
            chunked: false,
            ended: false,
            drain,
            over: None,
        }
    }

    /// Prepares for a request whose body is framed like this.
    pub(super) fn begin_body(&mut self, framing: Framing) {
        self.body = match framing {
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::Chunked(ChunkScanner::new()),
        };
        self.reading = Waiting::new(self.received);
        self.writing = Waiting::new(self.transport.sent());
    }

    /// Whether the whole body was read.
    pub(super) fn is_body_done(&self) -> bool {
        self.body.is_done()
    }

    fn fault(&self, fault: Fault, kind: io::ErrorKind, what: &'static str) -> io::Error {
        self.link.set_fault(fault);
        io::Error::new(kind, what)
    }

    fn disconnected(&self, error: io::Error) -> io::Error {
        self.link.set_fault(Fault::Disconnected);
        error
    }

    /// The body, first what was read ahead, then from the socket.
    fn poll_body(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.inbound.is_empty() {
            let length = self.inbound.len().min(out.remaining());
            let taken = self.take_body(length)?;
            if taken > 0 {
                // It came with the head, of a client that does not wait for a 100.
                self.link.set_waiting_to_continue(false);
            }
            out.put_slice(&self.inbound[..taken]);
            self.inbound.advance(taken);
            return Poll::Ready(Ok(()));
        }
        match self.poll_transport(cx, out)? {
            Poll::Ready(before) => Poll::Ready(self.keep_body(out, before)),
            Poll::Pending => self.poll_body_timeout(cx),
        }
    }

    fn take_body(&mut self, length: usize) -> io::Result<usize> {
        self.body.take(&self.inbound[..length]).inspect_err(|_| self.link.set_fault(Fault::BadBody))
    }

    /// Reads from the socket into `out`; ready with the number of bytes that were there before.
    fn poll_transport(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> io::Result<Poll<usize>> {
        let before = out.filled().len();
        match Pin::new(&mut self.transport).poll_read(cx, out) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(())) => {
                self.reading.end();
                self.received += (out.filled().len() - before) as u64;
                Ok(Poll::Ready(before))
            }
            Poll::Ready(Err(error)) => Err(self.disconnected(error)),
        }
    }

    /// Keeps in `out` what belongs to the body and puts aside what follows it.
    fn keep_body(&mut self, out: &mut ReadBuf<'_>, before: usize) -> io::Result<()> {
        let read = &out.filled()[before..];
        if read.is_empty() {
            self.ended = true;
            self.link.set_fault(Fault::Disconnected);
            return Ok(());
        }
        self.link.set_waiting_to_continue(false);
        let taken = self.body.take(read).inspect_err(|_| self.link.set_fault(Fault::BadBody))?;
        self.inbound.extend_from_slice(&read[taken..]);
        out.set_filled(before + taken);
        Ok(())
    }

    fn poll_body_timeout(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.set_stalled(None);
        if self.link.is_waiting_to_continue() {
            // It is the backend's turn.
            return Poll::Pending;
        }
        // Once it is answered, what it still sends is a conversation, at whatever pace.
        let body = self.paces.body;
        let pace = if self.link.is_answered() { body.any() } else { body };
        ready!(self.reading.poll(pace, self.received, None, cx));
        let what = "the client did not send its body in time";
        Poll::Ready(Err(self.fault(Fault::BodyTimeout, io::ErrorKind::TimedOut, what)))
    }

    /// Once the body is whole, Pingora reads on to notice a client that leaves. What arrives is the
    /// next request's and is put aside; only the end of the connection is reported.
    fn poll_beyond(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.inbound.len() < MAX_AHEAD && !self.ended {
            let mut piece = [std::mem::MaybeUninit::uninit(); 2048];
            let mut piece = ReadBuf::uninit(&mut piece);
            match Pin::new(&mut self.transport).poll_read(cx, &mut piece) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.disconnected(error))),
                Poll::Ready(Ok(())) if piece.filled().is_empty() => self.ended = true,
                Poll::Ready(Ok(())) => self.inbound.extend_from_slice(piece.filled()),
            }
        }
        // With the end seen, Pingora is told so and asks no more. With enough put aside, there is
        // nothing to wait for: the request ends by its own doing.
        if self.ended { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// After a 101 the connection is the other protocol's. When the time for draining is over, it ends
    /// as if the client had said that it is done.
    fn poll_raw(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.drain.is_over() {
            return Poll::Ready(Ok(()));
        }
        if self.inbound.is_empty() {
            let read = Pin::new(&mut self.transport).poll_read(cx, out);
            if read.is_ready() {
                return read;
            }
            let over = self.over.get_or_insert_with(|| self.drain.until_over());
            return Pin::new(over).poll(cx).map(Ok);
        }
        let length = self.inbound.len().min(out.remaining());
        out.put_slice(&self.inbound[..length]);
        self.inbound.advance(length);
        Poll::Ready(Ok(()))
    }

    /// Notes the end of a chunked response, and says whether it is one. Where a backend that speaks HTTP/2
    /// ends its response in its head, there is no last piece by which the proxy could tell.
    fn note_end(&self, bytes: &[u8]) -> bool {
        if bytes.starts_with(b"HTTP/1.1 ") {
            return memchr::memmem::find(bytes, b"\r\nTransfer-Encoding: chunked\r\n").is_some();
        }
        // A piece that looks like it has its own length before it.
        if self.chunked && self.outbound.is_empty() && bytes == b"0\r\n\r\n" {
            self.link.set_last();
        }
        self.chunked
    }

    /// Writes what was gathered, and as much of `bytes` with it as the socket takes. Ready when
    /// nothing gathered is left, with the number of bytes taken of `bytes`.
    fn poll_write_through(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        while !self.outbound.is_empty() {
            let transport = Pin::new(&mut self.transport);
            let written = if bytes.is_empty() {
                transport.poll_write(cx, &self.outbound)
            } else {
                let slices = [IoSlice::new(&self.outbound), IoSlice::new(bytes)];
                transport.poll_write_vectored(cx, &slices)
            };
            let written = ready!(self.poll_written(cx, written))?;
            let gathered = self.outbound.len();
            if written >= gathered {
                self.outbound.clear();
                if written > gathered {
                    return Poll::Ready(Ok(written - gathered));
                }
            } else {
                self.outbound.advance(written);
            }
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let written = Pin::new(&mut self.transport).poll_write(cx, bytes);
        self.poll_written(cx, written)
    }

    fn poll_written(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.poll_taken(cx, written))?;
        if written == 0 {
            return Poll::Ready(Err(self.disconnected(io::ErrorKind::WriteZero.into())));
        }
        Poll::Ready(Ok(written))
    }

    /// Sends what was gathered, and what the transport holds back. Ready when the system has it all.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_through(cx, &[]))?;
        if self.transport.holds_back() {
            let flushed = Pin::new(&mut self.transport).poll_flush(cx);
            ready!(self.poll_taken(cx, flushed))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Watches over a client that is to take something: one that takes nothing for the write timeout
    /// is at fault.
    fn poll_taken<T>(
        &mut self,
        cx: &mut Context<'_>,
        taken: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match taken {
            Poll::Ready(Ok(value)) => {
                if self.writing.end() {
                    self.link.set_held_up(false);
                }
                Poll::Ready(Ok(value))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.disconnected(error))),
            Poll::Pending => {
                if std::mem::replace(&mut self.taken, self.transport.sent()) != self.taken {
                    self.writing.end();
                }
                self.link.set_held_up(true);
                ready!(self.writing.poll(self.paces.response, self.taken, None, cx));
                let what = "the client does not take its response";
                Poll::Ready(Err(self.fault(Fault::WriteTimeout, io::ErrorKind::TimedOut, what)))
            }
        }
    }

    /// Gives back the memory that only a request needs.
    pub(super) fn release_buffers(&mut self) {
        self.outbound = BytesMut::new();
        if self.inbound.is_empty() {
            self.inbound = BytesMut::new();
        }
        self.reading.end();
        self.writing.end();
    }

    /// Writes `bytes` and flushes, as one of our own answers needs it.
    pub(super) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = std::future::poll_fn(|cx| self.poll_write_through(cx, bytes)).await?;
            bytes = &bytes[written..];
        }
        self.flush().await
    }

    /// Sends what was gathered.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_send(cx)).await
    }

    /// Sends what was gathered once there is nothing else to do. Pingora reads from the client while
    /// it waits for the backend, so a read that has to wait is the moment to flush: the first one
    /// only yields, as the rest of a short response is mostly there already and then goes out with
    /// its head in one write.
    fn flush_when_idle(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.outbound.is_empty() && !self.transport.holds_back() {
            self.yielded = false;
            return Ok(());
        }
        if !std::mem::replace(&mut self.yielded, true) {
            cx.waker().wake_by_ref();
            return Ok(());
        }
        match self.poll_send(cx) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Ok(()),
        }
    }
}

/// Where a socket waits between Pingora and the connection loop, when its stream was dropped.
pub(super) type Slot = Arc<Mutex<Option<Box<Socket>>>>;

/// A [`Socket`] as it is lent out for a request.
#[derive(Debug)]
pub(super) struct RequestStream {
    /// `None` only while being dropped.
    socket: Option<Box<Socket>>,
    home: Slot,
}

impl RequestStream {
    pub(super) fn new(socket: Box<Socket>, home: Slot) -> Self {
        Self { socket: Some(socket), home }
    }

    /// The stream of the next request on a connection: the one that Pingora gives back, or else one of the
    /// socket that was left at `home`. Nothing is there of one that is still in use.
    pub(super) fn back(reused: Option<Stream>, home: &Slot) -> Option<Box<Self>> {
        if let Some(Ok(stream)) = reused.map(|stream| stream.into_any().downcast()) {
            return Some(stream);
        }
        let socket = home.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Box::new(Self::new(socket, home.clone())))
    }

    /// What has arrived and was not taken yet.
    pub(super) fn inbound(&self) -> &[u8] {
        self.socket.as_ref().map_or(&[], |socket| &socket.inbound)
    }

    /// The socket, for something else than requests.
    pub(super) fn into_socket(mut self) -> Box<Socket> {
        self.socket.take().expect("the socket is there until the stream is dropped")
    }

    pub(super) fn socket(&mut self) -> &mut Socket {
        self.socket.as_mut().expect("the socket is there until the stream is dropped")
    }
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = self.socket.take();
    }
}

impl AsyncRead for RequestStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = self.get_mut().socket();
        if socket.link.take_cut() {
            let what = "the time of the try is over";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what)));
        }
        let read = if socket.link.is_upgraded() {
            socket.poll_raw(cx, out)
        } else if socket.body.is_done() || socket.link.is_watching() {
            socket.poll_beyond(cx)
        } else {
            socket.poll_body(cx, out)
        };
        if read.is_pending() {
            socket.flush_when_idle(cx)?;
        } else if socket.ended {
            // Of a client that has closed its side, Pingora does not read again.
            let _ = socket.poll_send(cx)?;
        }
        read
    }
}

impl AsyncWrite for RequestStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let socket = self.get_mut().socket();
        if socket.link.broken_off() != BrokenOff::No {
            let what = "the response broke off";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, what)));
        }
        if socket.link.is_sending() {
            socket.chunked = socket.note_end(bytes);
        }
        // A client that closed its side is not read from, so nothing would flush what is gathered.
        if socket.outbound.len() + bytes.len() <= GATHER && !socket.ended {
            socket.yielded = false;
            if socket.outbound.capacity() == 0 {
                // Room for what mostly follows, which would otherwise have it made anew.
                socket.outbound.reserve(bytes.len().max(GATHER_FIRST));
            }
            socket.outbound.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        socket.poll_write_through(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().socket().poll_send(cx)
    }

    /// Only flushes: closing is the connection loop's business.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

#[async_trait]
impl Shutdown for RequestStream {
    async fn shutdown(&mut self) {
        let socket = self.socket();
        // Whether it arrives or not, the loop decides what becomes of the connection.
        let _ = std::future::poll_fn(|cx| socket.poll_send(cx)).await;
    }
}

impl UniqueID for RequestStream {
    fn id(&self) -> UniqueIDType {
        self.socket.as_ref().map_or(-1, |socket| socket.transport.raw_fd())
    }
}

impl Ssl for RequestStream {}
impl Peek for RequestStream {}

impl GetTimingDigest for RequestStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for RequestStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for RequestStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::{io::AsyncReadExt as _, time::Instant};

    /// More than fits between a client and us, less than TLS takes at once.
    const LENGTH: usize = 40_000;

    /// A socket over TLS whose client has the times that these are.
    async fn connected(
        write: Duration,
    ) -> (Socket, tokio_rustls::client::TlsStream<tokio::net::UnixStream>) {
        let (transport, client) = crate::listener::tls::tests::connected().await;
        let link = Arc::new(Link::new(0, crate::model::Ends::default(), None));
        (Socket::new(transport, link, Paces::patient(write), Drain::default()), client)
    }

    /// The same in clear text.
    fn in_clear_text() -> (Socket, tokio::net::UnixStream) {
        let (ours, client) = tokio::net::UnixStream::pair().unwrap();
        let link = Arc::new(Link::new(0, crate::model::Ends::default(), None));
        let paces = Paces::patient(Duration::from_secs(5));
        (Socket::new(Transport::Clear(ours.into()), link, paces, Drain::default()), client)
    }

    #[tokio::test]
    async fn the_stream_that_is_given_back_serves_the_next_request_and_else_its_socket_does() {
        let home = Slot::default();
        let stream = Box::new(RequestStream::new(Box::new(in_clear_text().0), home.clone()));
        let lent = std::ptr::from_ref(&*stream);
        let back = RequestStream::back(Some(stream), &home).expect("it was given back");
        assert!(std::ptr::eq(lent, &raw const *back), "the same, with nothing made anew");
        assert!(RequestStream::back(None, &home).is_none(), "it is in use");

        let socket = std::ptr::from_ref(back.socket.as_deref().unwrap());
        drop(back);
        let next = RequestStream::back(None, &home).expect("its socket was left at home");
        assert!(std::ptr::eq(socket, next.socket.as_deref().unwrap()));
        assert!(home.lock().unwrap().is_none());
    }

    #[tokio::test]
    async fn what_tls_holds_back_is_sent_before_a_flush_is_over() {
        let (mut socket, mut client) = connected(Duration::from_secs(5)).await;
        let flushed = tokio::spawn(async move { socket.write_all(&vec![7; LENGTH]).await });
        // Nothing keeps the socket once it has flushed, so all must have gone out by then.
        let mut read = Vec::new();
        client.read_exact(&mut [0]).await.unwrap();
        let error = client.read_to_end(&mut read).await.unwrap_err();
        assert_eq!((error.kind(), read.len()), (io::ErrorKind::UnexpectedEof, LENGTH - 1));
        flushed.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_is_gathered_is_sent_when_the_client_closes_its_side() {
        use tokio::io::AsyncWriteExt as _;
        let (socket, mut client) = in_clear_text();
        let mut stream = RequestStream::new(Box::new(socket), Slot::default());
        stream.write_all(b"half of it").await.unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut client).await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        // Pingora reads no more, and the backend has nothing to say for a while.
        let mut seen = [0; 10];
        let read = tokio::time::timeout(Duration::from_secs(5), client.read_exact(&mut seen));
        assert_eq!(read.await.expect("what was gathered").unwrap(), 10);
        assert_eq!(&seen, b"half of it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_little_now_and_then_is_waited_for() {
        let patience = Duration::from_millis(500);
        let (mut socket, client) = connected(patience).await;
        // TLS would take a whole record at a time.
        let (mut client, _) = client.into_inner();
        let flushing = tokio::spawn(async move { socket.write_all(&vec![7; LENGTH]).await });
        let began = Instant::now();
        while !flushing.is_finished() {
            tokio::time::sleep(patience / 2).await;
            let _ = client.read(&mut [0; LENGTH / 4]).await.unwrap();
        }
        assert!(began.elapsed() > patience, "{:?}", began.elapsed());
        flushing.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_not() {
        let patience = Duration::from_millis(500);
        let (mut socket, client) = connected(patience).await;
        let link = socket.link.clone();
        let error = socket.write_all(&vec![7; LENGTH]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(link.fault(), Fault::WriteTimeout);
        drop(client);
    }
}

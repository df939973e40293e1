//! What the connection loop and the proxy tell each other about one client connection.
//!
//! Pingora stands between the two: the loop sees bytes, the proxy sees requests. Each field says who
//! writes it and who reads it. All of it is used by one task at a time, so the atomics are only there
//! to make it shareable and relaxed ordering is enough.

use super::{Exchange, exchange::DRAIN};
use crate::{model::Ends, tls::TlsFacts};
use http::HeaderValue;
use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{BorrowedFd, RawFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// What went wrong on the client's side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// Nothing.
    None,
    /// No piece of the request body came in time.
    BodyTimeout,
    /// The client did not take what we sent.
    WriteTimeout,
    /// The request body's framing is malformed.
    BadBody,
    /// The client broke off.
    Disconnected,
}

impl Fault {
    fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::BodyTimeout,
            2 => Self::WriteTimeout,
            3 => Self::BadBody,
            4 => Self::Disconnected,
            _ => Self::None,
        }
    }
}

/// Whether a response broke off, and how its connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BrokenOff {
    /// It did not.
    No,
    /// By closing it: the client can tell that something is missing.
    Close,
    /// By resetting it: an orderly end would look like the end of the response.
    Reset,
}

/// One client connection, or one stream of an HTTP/2 connection.
#[derive(Debug)]
pub struct Link {
    /// The listener's index in the snapshot.
    listener: usize,
    /// Whose connection it is; there is no client's address on a unix socket.
    ends: Ends,
    /// The client's address without the port, as the value of a header field: every request needs it.
    client_value: Option<HeaderValue>,
    /// What the TLS handshake came to; `None` in clear text.
    tls: Option<Arc<TlsFacts>>,
    /// Whether it is a stream of an HTTP/2 connection.
    http2: bool,
    /// Instants are kept as nanoseconds since this.
    epoch: Instant,
    /// Whether the exchange has reached our hooks. Written by the proxy, read by the loop.
    begun: AtomicBool,
    /// Written by the request stream, read by the proxy.
    fault: AtomicU8,
    /// Written by the proxy when it passes on a 101, read by the request stream.
    upgraded: AtomicBool,
    /// Written by the proxy when it answered in full and Pingora gives the connection up anyway.
    reusable: AtomicBool,
    /// Written by the proxy when a response broke off, with what the client must see of it.
    broken_off: AtomicU8,
    /// Whether the head of a final response went out. Written by the proxy, read by the loop.
    answered: AtomicBool,
    /// Whether the client may still have been sending when its answer began. Written by the proxy, read
    /// with `whole`.
    sending: AtomicBool,
    /// Whether Pingora has been given the last piece of the response to send. Written by the proxy, read
    /// by the loop.
    last: AtomicBool,
    /// Whether the whole response went out, though the request may not be over. Written by the loop and by
    /// an HTTP/2 stream, read by the proxy and the loop.
    whole: AtomicBool,
    /// Whether the client does not take what there is of the response. Written by its stream, read by the
    /// loop.
    held_up: AtomicBool,
    /// When the loop gives the exchange up, in nanoseconds since `epoch`; 0 is never. Written by
    /// the proxy, read by the loop.
    deadline: AtomicU64,
    /// When the present try's time is over, likewise. Written by the proxy, read by the loop.
    try_deadline: AtomicU64,
    /// When it is over because the backend does not take the request's body. Written by the proxy
    /// when it passes a piece on, taken back by the request stream when it is the client that is slow.
    stalled: AtomicU64,
    /// When it is over because the backend has fallen silent within its answer. Written by the proxy with
    /// each piece, and by the client's stream where it is the client that takes its time.
    silent: AtomicU64,
    /// When the request is over though the client goes on sending: it has its response. Written with
    /// `whole`.
    rest: AtomicU64,
    /// How long that silence may be, in nanoseconds; 0 where Pingora sees to it. Written by the proxy when
    /// an answer begins.
    silence: AtomicU64,
    /// The descriptor of the connection that the present try has to itself; -1 when there is none.
    descriptor: AtomicI32,
    /// Whether the present try is one stream of a connection that other requests are on, too.
    shared: AtomicBool,
    /// Whether the present try is to end though its connection goes on. Written by the loop, read
    /// and taken back by what Pingora reads from the client.
    cut: AtomicBool,
    /// Whether the present try was cut because its time was over.
    try_timed_out: AtomicBool,
    /// Whether the client waits for a 100 before it sends its body. Written by the proxy and by the
    /// request stream, which then does not hold the silence against the client.
    waiting_to_continue: AtomicBool,
    /// Whether reads only look for the end of the connection. Written by the proxy while a request
    /// waits for a backend, read by the request stream.
    watching: AtomicBool,
    /// An exchange that was given up before it was logged. Written when it is dropped, read by the
    /// loop.
    abandoned: Mutex<Option<Box<Exchange>>>,
    /// Whether there is one: mostly there is none, which costs no lock to see.
    has_abandoned: AtomicBool,
}

impl Link {
    /// A connection between these ends on the listener with this index, over TLS if there are facts of
    /// it.
    pub fn new(listener: usize, ends: Ends, tls: Option<Arc<TlsFacts>>) -> Self {
        Self {
            listener,
            ends,
            client_value: ends.client.map(|address| address_value(address.ip())),
            tls,
            http2: false,
            epoch: Instant::now(),
            begun: AtomicBool::new(false),
            fault: AtomicU8::new(Fault::None as u8),
            upgraded: AtomicBool::new(false),
            reusable: AtomicBool::new(false),
            broken_off: AtomicU8::new(BrokenOff::No as u8),
            answered: AtomicBool::new(false),
            sending: AtomicBool::new(false),
            last: AtomicBool::new(false),
            whole: AtomicBool::new(false),
            held_up: AtomicBool::new(false),
            deadline: AtomicU64::new(0),
            try_deadline: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
            silent: AtomicU64::new(0),
            silence: AtomicU64::new(0),
            rest: AtomicU64::new(0),
            descriptor: AtomicI32::new(-1),
            shared: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            try_timed_out: AtomicBool::new(false),
            waiting_to_continue: AtomicBool::new(false),
            watching: AtomicBool::new(false),
            abandoned: Mutex::new(None),
            has_abandoned: AtomicBool::new(false),
        }
    }

    /// A stream of this connection, which speaks HTTP/2.
    #[must_use]
    pub fn for_stream(&self) -> Self {
        let client_value = self.client_value.clone();
        let nobody = Ends::default();
        Self {
            ends: self.ends,
            client_value,
            http2: true,
            ..Self::new(self.listener, nobody, self.tls.clone())
        }
    }

    /// What the client speaks, as the access log has it.
    pub fn protocol(&self) -> &'static str {
        if self.http2 { "HTTP/2.0" } else { "HTTP/1.1" }
    }

    /// Forgets what was said of the request before.
    pub fn begin_request(&self) {
        self.fault.store(Fault::None as u8, Relaxed);
        self.broken_off.store(BrokenOff::No as u8, Relaxed);
        for flag in [
            &self.begun,
            &self.upgraded,
            &self.reusable,
            &self.answered,
            &self.sending,
            &self.last,
            &self.whole,
            &self.held_up,
            &self.try_timed_out,
            &self.waiting_to_continue,
            &self.watching,
            &self.shared,
            &self.cut,
        ] {
            flag.store(false, Relaxed);
        }
        let Self { deadline, try_deadline, stalled, silent, silence, rest, .. } = self;
        for time in [deadline, try_deadline, stalled, silent, silence, rest] {
            time.store(0, Relaxed);
        }
        self.descriptor.store(-1, Relaxed);
    }

    /// The listener's index in the snapshot.
    pub fn listener(&self) -> usize {
        self.listener
    }

    /// The client's address; `None` on a unix socket.
    pub fn client(&self) -> Option<SocketAddr> {
        self.ends.client
    }

    /// Whose connection it is.
    pub(super) fn ends(&self) -> Ends {
        self.ends
    }

    /// The client's address as the value of a header field; `None` on a unix socket.
    pub(super) fn client_value(&self) -> Option<&HeaderValue> {
        self.client_value.as_ref()
    }

    /// What the TLS handshake came to; `None` in clear text.
    pub fn tls(&self) -> Option<&TlsFacts> {
        self.tls.as_deref()
    }

    /// The exchange has reached our hooks: whatever becomes of it, it is logged there.
    pub(super) fn set_begun(&self) {
        self.begun.store(true, Relaxed);
    }

    /// Whether the exchange has reached our hooks.
    pub fn is_begun(&self) -> bool {
        self.begun.load(Relaxed)
    }

    /// Notes a fault on the client's side. The first stands: what follows is its consequence.
    pub fn set_fault(&self, fault: Fault) {
        if self.fault() == Fault::None {
            self.fault.store(fault as u8, Relaxed);
        }
    }

    /// The fault noted for this request.
    pub fn fault(&self) -> Fault {
        Fault::from_u8(self.fault.load(Relaxed))
    }

    /// The connection carries another protocol from here on.
    pub fn set_upgraded(&self) {
        self.upgraded.store(true, Relaxed);
    }

    /// Whether the connection carries another protocol.
    pub fn is_upgraded(&self) -> bool {
        self.upgraded.load(Relaxed)
    }

    /// The response went out whole and the request was read whole, whatever Pingora says.
    pub fn set_reusable(&self) {
        self.reusable.store(true, Relaxed);
    }

    /// Whether the connection may serve another request though Pingora gave it up.
    pub fn is_reusable(&self) -> bool {
        self.reusable.load(Relaxed)
    }

    /// The response broke off. A client that knows how long it should be gets what there was, then
    /// the end of the connection; one that takes that end for the response's gets a reset.
    pub fn break_off(&self, client_knows_length: bool) {
        let how = if client_knows_length { BrokenOff::Close } else { BrokenOff::Reset };
        self.broken_off.store(how as u8, Relaxed);
    }

    /// Whether the response broke off, and how the connection must end.
    pub fn broken_off(&self) -> BrokenOff {
        match self.broken_off.load(Relaxed) {
            1 => BrokenOff::Close,
            2 => BrokenOff::Reset,
            _ => BrokenOff::No,
        }
    }

    /// The head of a final response went out. Nobody waits for a 100 after that.
    pub fn set_answered(&self) {
        self.answered.store(true, Relaxed);
        self.set_waiting_to_continue(false);
    }

    /// Whether the head of a final response went out.
    pub fn is_answered(&self) -> bool {
        self.answered.load(Relaxed)
    }

    /// The answer begins while the client may still be sending.
    pub(super) fn set_sending(&self) {
        self.sending.store(true, Relaxed);
    }

    /// Whether the answer has begun while the client may still be sending.
    pub fn is_sending(&self) -> bool {
        self.sending.load(Relaxed)
    }

    /// Pingora is about to send the last piece of the response.
    pub fn set_last(&self) {
        self.last.store(true, Relaxed);
        self.set_silence(None);
    }

    /// Pingora has done what it can do for now. If it has nothing left to send, and does not wait for the
    /// client to take it, the whole response went out.
    pub fn pause(&self) {
        let went_out = self.last.load(Relaxed) && !self.held_up.load(Relaxed);
        if went_out && !self.is_whole() {
            self.set_whole();
        }
    }

    /// The whole response went out. What the client is still sending has a while to come to its end.
    pub fn set_whole(&self) {
        self.whole.store(true, Relaxed);
        self.set_silence(None);
        let until = self.sending.load(Relaxed).then(|| Instant::now() + DRAIN);
        self.rest.store(self.nanos(until), Relaxed);
    }

    /// Whether the whole response went out: what becomes of the request now is not its failure.
    pub fn is_whole(&self) -> bool {
        self.whole.load(Relaxed)
    }

    /// Has the loop give up the exchange at `at`; `None` takes that back.
    pub fn set_deadline(&self, at: Option<Instant>) {
        self.deadline.store(self.nanos(at), Relaxed);
    }

    /// A new try begins: what became of the one before is not what becomes of this one.
    pub fn forget_timeout(&self) {
        self.try_timed_out.store(false, Relaxed);
    }

    /// A try begins on the connection with this descriptor, or on one that it shares with others;
    /// its time is over at `until`.
    pub fn begin_try(&self, own: Option<RawFd>, until: Option<Instant>) {
        self.descriptor.store(own.unwrap_or(-1), Relaxed);
        self.shared.store(own.is_none(), Relaxed);
        self.move_try(until);
    }

    /// Moves the end of the present try's time.
    pub fn move_try(&self, until: Option<Instant>) {
        self.try_deadline.store(self.nanos(until), Relaxed);
    }

    /// Ends the present try's time at `at` unless the backend takes more of the body by then; `None`
    /// takes that back.
    pub fn set_stalled(&self, at: Option<Instant>) {
        self.stalled.store(self.nanos(at), Relaxed);
    }

    /// When the present try's time is over unless the backend takes more of the body.
    pub fn stalled(&self) -> Option<Instant> {
        self.earliest(&[&self.stalled])
    }

    /// Ends the present try once the backend has been silent for so long within its answer; `None` takes
    /// that back.
    pub fn set_silence(&self, most: Option<Duration>) {
        let nanos = most.map_or(0, |most| u64::try_from(most.as_nanos()).unwrap_or(u64::MAX));
        self.silence.store(nanos, Relaxed);
        self.expect_more();
    }

    /// From now on it is the backend's turn to say more of its answer.
    pub fn expect_more(&self) {
        let most = self.silence.load(Relaxed);
        let until = (most != 0).then(|| Instant::now() + Duration::from_nanos(most));
        self.silent.store(self.nanos(until), Relaxed);
    }

    /// Says whether the client does not take what there is of the response. Nobody hears then whether the
    /// backend says more.
    pub fn set_held_up(&self, held_up: bool) {
        self.held_up.store(held_up, Relaxed);
        if held_up {
            self.silent.store(0, Relaxed);
        } else {
            self.expect_more();
        }
    }

    /// The present try is over, or its answer has begun: it has no time to keep any more.
    pub fn end_try(&self) {
        self.rest.store(0, Relaxed);
        self.set_stalled(None);
        self.set_silence(None);
        self.move_try(None);
        self.descriptor.store(-1, Relaxed);
        self.shared.store(false, Relaxed);
        self.cut.store(false, Relaxed);
    }

    /// When the present try's time is over.
    pub fn try_deadline(&self) -> Option<Instant> {
        self.earliest(&[&self.try_deadline, &self.stalled, &self.silent, &self.rest])
    }

    /// Cuts the present try, and the proxy goes on from there: its connection ends as if the backend
    /// had ended it. One that is shared goes on; there the next read from the client fails, by which
    /// Pingora gives up the try and its stream, and nothing else. So it does within an answer, after which
    /// Pingora closes or keeps the connection without telling; and once all of that went out, it is not the
    /// backend's time that is over.
    pub fn cut_try(&self) {
        let descriptor = self.descriptor.load(Relaxed);
        let within = self.silence.load(Relaxed) != 0;
        let shared = self.shared.load(Relaxed) || within || self.is_whole();
        self.end_try();
        if descriptor < 0 && !shared {
            return;
        }
        self.try_timed_out.store(!self.is_whole(), Relaxed);
        if shared {
            self.cut.store(true, Relaxed);
        } else {
            shut_down(descriptor);
        }
    }

    /// Whether a read from the client is to fail because the try is cut; true once.
    pub fn take_cut(&self) -> bool {
        // Every read asks, and a load is cheaper than a swap.
        self.is_cut() && self.cut.swap(false, Relaxed)
    }

    /// Whether the try is cut and nobody has taken that in yet.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Relaxed)
    }

    /// Whether the present try was cut because its time was over.
    pub fn is_try_timed_out(&self) -> bool {
        self.try_timed_out.load(Relaxed)
    }

    /// Says whether the client waits for a 100 before it sends its body.
    pub fn set_waiting_to_continue(&self, waiting: bool) {
        self.waiting_to_continue.store(waiting, Relaxed);
    }

    /// Whether the client waits for a 100 before it sends its body.
    pub fn is_waiting_to_continue(&self) -> bool {
        self.waiting_to_continue.load(Relaxed)
    }

    /// Has reads only look for the end of the connection.
    pub fn set_watching(&self, watching: bool) {
        self.watching.store(watching, Relaxed);
    }

    /// Whether reads only look for the end of the connection.
    pub fn is_watching(&self) -> bool {
        self.watching.load(Relaxed)
    }

    fn nanos(&self, at: Option<Instant>) -> u64 {
        let nanos = at.map_or(0, |at| at.saturating_duration_since(self.epoch).as_nanos().max(1));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// When the exchange is given up.
    pub fn deadline(&self) -> Option<Instant> {
        self.earliest(&[&self.deadline])
    }

    fn earliest(&self, deadlines: &[&AtomicU64]) -> Option<Instant> {
        let set = deadlines.iter().map(|deadline| deadline.load(Relaxed)).filter(|at| *at != 0);
        set.min().map(|nanos| self.epoch + Duration::from_nanos(nanos))
    }

    pub(super) fn abandon(&self, exchange: Box<Exchange>) {
        *self.abandoned.lock().unwrap_or_else(PoisonError::into_inner) = Some(exchange);
        self.has_abandoned.store(true, Relaxed);
    }

    /// The exchange that was given up, if one was.
    pub fn take_abandoned(&self) -> Option<Box<Exchange>> {
        if !self.has_abandoned.load(Relaxed) {
            return None;
        }
        self.has_abandoned.store(false, Relaxed);
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// An address as the value of a header field.
pub(super) fn address_value(address: IpAddr) -> HeaderValue {
    HeaderValue::try_from(address.to_string()).expect("addresses are visible ASCII")
}

/// Ends both directions of a connection of Pingora's. The descriptor is one that Pingora has told us
/// of and that it keeps open until it has told us how the try ended, which takes it back.
#[allow(unsafe_code, reason = "Pingora gives the descriptor as a number")]
fn shut_down(descriptor: RawFd) {
    // SAFETY: the descriptor is open: it is set when Pingora has connected and taken back when the
    // try ends or its answer begins, before Pingora closes or pools the connection; and all of this
    // happens in the one task that serves the client's connection.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    // A connection that is gone already needs no end.
    let _ = rustix::net::shutdown(borrowed, rustix::net::Shutdown::Both);
}

//! One stream: a request and its answer, in a task of its own.

use super::{
    connection::Http2,
    head,
    session::{Begun, Left, Reply, Slot, StreamSession},
    wire::Seen,
};
use crate::{
    filter::Answer,
    listener::{Drain, http1::Refusal, pace::Paces, watchdog::expired},
    proxy::{
        BrokenOff, Exchange, Fault, Link, Reason, Refused, RequestBody, answer_refused,
        log_abandoned, log_refused,
    },
    runtime::Snapshot,
};
use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{Request, StatusCode};
use pingora::{apps::HttpServerApp, http::RequestHeader, protocols::http::ServerSession};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// A client that gives a request up this soon, without an answer, may not want any.
const PREMATURE: Duration = Duration::from_secs(1);

/// A request that has begun.
pub(super) struct Stream {
    http2: Arc<Http2>,
    link: Arc<Link>,
    seen: Arc<Seen>,
    paces: Paces,
    began: Instant,
    /// As it came, until somebody looks at it.
    arrived: Option<Arrived>,
    /// Where Pingora leaves what it had of it.
    slot: Slot,
    cuts: Cuts,
}

/// A request's head, its body, and where its answer goes.
pub(super) type Arrived = (Request<RecvStream>, SendResponse<Bytes>);

/// A request that was cut off with its task, to be answered by another.
pub(super) struct Cut {
    exchange: Box<Exchange>,
    left: Left,
}

/// Those of a connection.
pub(super) type Cuts = Arc<Mutex<Vec<Cut>>>;

impl Drop for Stream {
    /// An exchange that was given up by a panic, or with the whole connection, would keep its backend
    /// busy: it and the link hold each other. One that was cut off is not over yet.
    fn drop(&mut self) {
        if let Some((_, mut respond)) = self.arrived.take() {
            // Nobody has looked at it, so the client may send it again elsewhere.
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
        let Some(exchange) = self.link.take_abandoned() else { return };
        let left = self.take_left();
        if let Some(left) = left.filter(|_| self.http2.drain.is_over()) {
            let cut = Cut { exchange, left };
            self.cuts.lock().unwrap_or_else(PoisonError::into_inner).push(cut);
        }
    }
}

/// How a stream ended, as far as its connection is concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// Whether the client gave it up almost at once, unanswered.
    pub(super) premature: bool,
}

impl Stream {
    /// A request of the connection with this `link`, whose requests are left in `cuts` if they are cut off.
    pub(super) fn new(
        http2: Arc<Http2>,
        link: &Link,
        seen: Arc<Seen>,
        paces: Paces,
        cuts: Cuts,
        arrived: Arrived,
    ) -> Self {
        Self {
            http2,
            link: Arc::new(link.for_stream()),
            seen,
            paces,
            began: Instant::now(),
            arrived: Some(arrived),
            slot: Slot::default(),
            cuts,
        }
    }

    pub(super) async fn serve(mut self) -> Ended {
        let (request, respond) = self.arrived.take().expect("a request is served once");
        let snapshot = self.http2.live.load();
        let limits = &snapshot.listeners[self.link.listener()].limits;
        let (head, body) = request.into_parts();
        let reply = Reply::new(respond);
        match head::check(head, limits) {
            Ok(head) => self.exchange(snapshot, head, body, reply).await,
            Err(refused) => self.refuse(&snapshot, &refused, reply),
        }
        let gone = self.link.fault() == Fault::Disconnected && !self.link.is_answered();
        Ended { premature: gone && self.began.elapsed() < PREMATURE }
    }

    /// Has Pingora serve the request, and sees to it that the stream ends as it should.
    async fn exchange(
        &self,
        snapshot: Arc<Snapshot>,
        mut head: RequestHeader,
        body: RecvStream,
        reply: Reply,
    ) {
        let whole = if body.is_end_stream() { RequestBody::Whole } else { RequestBody::Streaming };
        let began = self.began.into_std();
        let exchange = Exchange::new(self.link.clone(), snapshot.clone(), whole, began, began);
        exchange.travel_in(&mut head);
        let session = StreamSession::new(Begun {
            head,
            body,
            reply,
            home: self.slot.clone(),
            link: self.link.clone(),
            seen: self.seen.clone(),
            paces: self.paces,
        });
        let session = ServerSession::new_custom(Box::new(session));
        let finished = {
            let serving = self.http2.proxy.process_new_http(session, &self.http2.draining);
            tokio::select! {
                biased;
                _ = serving => true,
                () = expired(&self.link) => false,
            }
        };
        // Whatever became of the session, it is dropped by now and the reply is back.
        match self.take_left() {
            Some(left) if finished => self.after(left.reply),
            Some(left) => self.give_up(left).await,
            None => {}
        }
    }

    fn take_left(&self) -> Option<Left> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// After Pingora has served the request to its end, good or bad. Both of these fail only where
    /// the client has ended the stream already.
    fn after(&self, mut reply: Reply) {
        if reply.has_ended() {
            return;
        }
        if reply.has_begun() && self.link.broken_off() == BrokenOff::No {
            let _ = reply.end();
        } else {
            reply.reset(self.fault_as_reason());
        }
    }

    /// Why a stream is broken off: by the client's fault, or by somebody's behind us.
    fn fault_as_reason(&self) -> h2::Reason {
        match self.link.fault() {
            Fault::None => h2::Reason::INTERNAL_ERROR,
            Fault::BadBody => h2::Reason::PROTOCOL_ERROR,
            Fault::BodyTimeout | Fault::WriteTimeout | Fault::Disconnected => h2::Reason::CANCEL,
        }
    }

    /// After a deadline cut a request short.
    async fn give_up(&self, left: Left) {
        let Some(exchange) = self.link.take_abandoned() else {
            let mut reply = left.reply;
            return reply.reset(h2::Reason::INTERNAL_ERROR);
        };
        let cut = Cut { exchange, left };
        cut.finish(&self.http2.drain, Reason::UpstreamTimeout).await;
    }

    /// Answers what is not a request, or not one that we take. The connection goes on: its frames
    /// are in order.
    fn refuse(&self, snapshot: &Snapshot, refused: &head::Refused, mut reply: Reply) {
        let Refusal { status, reason, why } = refused.refusal;
        let refused = Refused {
            method: refused.method.as_str(),
            target: &refused.target,
            status,
            reason,
            why,
            accept: refused.accept.as_deref(),
            ..Refused::on(&self.link, self.began.into_std())
        };
        let answer = answer_refused(snapshot, &refused);
        let sent = answer.and_then(|(head, body)| reply.send_whole(head, body));
        if sent.is_err() {
            reply.reset(h2::Reason::INTERNAL_ERROR);
        }
    }
}

impl Cut {
    /// Answers the request if nothing was answered yet, and logs it.
    pub(super) async fn finish(self, drain: &Drain, why: Reason) {
        let Self { mut exchange, left: Left { mut reply, head } } = self;
        exchange.recall(head.map(|head| *head));
        let link = exchange.link().clone();
        if link.is_whole() {
            // The client has gone on sending what nobody takes.
            return log_abandoned(&mut exchange, Reason::Ok);
        }
        if link.is_answered() {
            log_abandoned(&mut exchange, why);
            return reply.reset(h2::Reason::INTERNAL_ERROR);
        }
        let answer = drain.in_time(exchange.last_answer(Answer::error(why))).await;
        log_abandoned(&mut exchange, why);
        let sent =
            answer.map(|answer| answer.and_then(|(head, body)| reply.send_whole(head, body)));
        if !matches!(sent, Some(Ok(()))) {
            reply.reset(h2::Reason::INTERNAL_ERROR);
        }
    }
}

/// What is logged of a connection that is closed while no request is whole.
pub(super) fn log_late(snapshot: &Snapshot, link: &Link, began: Instant) {
    log_refused(
        snapshot,
        &Refused {
            status: StatusCode::REQUEST_TIMEOUT,
            reason: Reason::ClientTimeout,
            why: "it was not whole in time",
            ..Refused::on(link, began.into_std())
        },
    );
}

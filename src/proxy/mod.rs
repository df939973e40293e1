//! The proxy: what happens between a request's head and its log line.
//!
//! [`Gateway`] is the only implementation of Pingora's `ProxyHttp`; its hooks delegate. A request is
//! an [`Exchange`], made by the connection loop in `listener` and carried here in Pingora's
//! per-connection user context, so it is whole from the first hook on.

mod answer;
mod client;
mod exchange;
mod failure;
mod field;
mod filters;
mod forward;
mod grpc;
mod hash_key;
mod link;
mod log_line;
mod nominated;
mod rehearsal;
mod response;
mod retry;
mod routing;
mod sketch;
mod sticky;
mod tries;
mod upgrade;

pub use crate::model::Reason;
pub use answer::{answer_refused, closing_refusal};
pub use exchange::{Exchange, RequestBody};
pub(crate) use filters::own_response;
pub use link::{BrokenOff, Fault, Link};
pub use log_line::{Refused, log_abandoned, log_refused};
pub(crate) use rehearsal::{Rehearsal, Sending, rehearse};
#[cfg(any(test, fuzzing))]
pub(crate) use sticky::fuzz as fuzz_cookie;

use async_trait::async_trait;
use bytes::Bytes;
use exchange::Context;
use http::HeaderMap;
use pingora::{
    BError, Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    protocols::Digest,
    upstreams::peer::HttpPeer,
};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use std::{
    any::Any,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tries::First;

/// The proxy that serves every HTTP listener.
#[derive(Debug)]
pub struct Gateway {
    /// Whether we are draining: answers then close their connections.
    draining: watch::Receiver<bool>,
}

impl Gateway {
    /// A proxy whose answers close their connections once `draining` says so.
    pub fn new(draining: watch::Receiver<bool>) -> Self {
        Self { draining }
    }

    fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }
}

/// Each hook is a future that Pingora has on the heap, so what few requests need is one of its own there:
/// most are served without the room for it.
#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::default()
    }

    fn init_downstream_modules(&self, _: &mut pingora::modules::http::HttpModules) {
        // Pingora would add its compression module, which costs a little on every request.
    }

    fn on_connection_reuse(
        &self,
        session: &mut Session,
        context: &mut Context,
        exchange: Box<dyn Any + Send + Sync>,
    ) {
        context.begin(exchange.downcast().expect("the connection loop passes an Exchange"));
        context.settle(session);
    }

    async fn early_request_filter(
        &self,
        session: &mut Session,
        context: &mut Context,
    ) -> Result<()> {
        if let Some(exchange) = Exchange::arrived_in(session.req_header_mut()) {
            context.begin(exchange);
            context.settle(session);
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        let Some(answer) = context.route(session).await? else { return Ok(false) };
        Box::pin(context.answer(session, answer)).await?;
        Ok(true)
    }

    async fn proxy_upstream_filter(
        &self,
        session: &mut Session,
        context: &mut Context,
    ) -> Result<bool> {
        match context.pick_first(session).await {
            First::Picked => Ok(true),
            First::None(answer) => {
                Box::pin(context.answer(session, answer)).await?;
                Ok(false)
            }
            First::ClientGone => {
                context.link.set_fault(Fault::Disconnected);
                let what = "the client left the queue";
                Err(Error::explain(ErrorType::ConnectionClosed, what).into_down())
            }
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        context: &mut Context,
    ) -> Result<Box<HttpPeer>> {
        context.begin_try(session.req_header()).await
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _: &HttpPeer,
        context: &mut Context,
        mut error: BError,
    ) -> BError {
        context.after_connect_failure(session, &mut error);
        error
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        reused: bool,
        peer: &HttpPeer,
        descriptor: std::os::unix::io::RawFd,
        digest: Option<&Digest>,
        context: &mut Context,
    ) -> Result<()> {
        context.connected(peer, digest, reused, descriptor)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Context,
    ) -> Result<()> {
        context.begin_exchange(request.version)?;
        forward::prepare(session.req_header(), request, context)?;
        context.filter_upstream_request(session.req_header(), request).await
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        context: &mut Context,
    ) -> Result<()> {
        // Until a filter is done with this piece, the backend has nothing to take.
        context.link.set_stalled(None);
        context.passed_in += body.as_ref().map_or(0, Bytes::len) as u64;
        if !context.link.is_upgraded() {
            context.filter_request_body(body, end_of_stream).await?;
        }
        if end_of_stream && body.as_ref().is_some_and(Bytes::is_empty) {
            // Pingora would write it as a chunk, and a chunk of nothing ends a body: then the end would be
            // there twice, and the second be taken for the next request.
            *body = None;
        }
        context.passed_on_body(end_of_stream);
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        response::accept(session, response, context)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        response::prepare(session, response, context, self.is_draining()).await
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        context: &mut Context,
    ) -> Result<Option<Duration>> {
        if !context.link.is_upgraded() {
            context.filter_response_body(body, end_of_stream)?;
            context.passed_on_response(body.as_ref().map_or(0, Bytes::len), end_of_stream);
        }
        Ok(None)
    }

    async fn response_trailer_filter(
        &self,
        _: &mut Session,
        _: &mut HeaderMap,
        context: &mut Context,
    ) -> Result<Option<Bytes>> {
        let rest = context.filter_response_end();
        context.passed_on_response(0, true);
        Ok(rest)
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: BError,
        context: &mut Context,
        reused: bool,
    ) -> BError {
        context.after_proxy_failure(session, &mut error, reused);
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut Context,
    ) -> FailToProxy {
        if self.is_draining() {
            session.set_keepalive(None);
        }
        failure::answer(session, error, context).await
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, context: &mut Context) {
        if let Some(mut exchange) = context.finish() {
            let ended = Instant::now();
            exchange.conclude(ended);
            log_line::log(session, &mut exchange, ended);
        }
    }

    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true // `failure::answer` logs what is worth logging, with the request's id.
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Context,
        _: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        true // `retry` logs each failed try.
    }
}

//! When a request is tried again, and where.

use super::{
    Exchange,
    exchange::{Context, Replay},
};
use pingora::{Error, ErrorSource, ErrorType};
use pingora_proxy::Session;

impl Context {
    /// After a connection failed. No byte of the request was sent on it, so any method may go to
    /// another backend, as long as what an earlier try consumed of the body is still there.
    pub(super) fn after_connect_failure(&mut self, session: &Session, error: &mut Error) {
        let whole = !session.as_ref().retry_buffer_truncated();
        let again = whole && self.move_on(error);
        error.set_retry(again);
    }

    /// After a failure on an established connection. The backend may have acted on the request, so
    /// only what is idempotent is repeated, and only before the client saw anything of an answer.
    pub(super) fn after_proxy_failure(
        &mut self,
        session: &Session,
        error: &mut Error,
        reused: bool,
    ) {
        let again = self.may_repeat(session, error)
            && (self.replay_on_same(error, reused) || self.move_on(error));
        error.set_retry(again);
    }

    fn may_repeat(&self, session: &Session, error: &Error) -> bool {
        is_reset(error)
            && self.upstream_time.is_none()
            && session.response_written().is_none()
            && session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated()
    }
}

impl Exchange {
    /// A pooled connection may have been closed by the backend just when we used it. That says
    /// nothing of the backend's health, so the request is replayed there once, outside the attempts.
    fn replay_on_same(&mut self, error: &Error, reused: bool) -> bool {
        if !reused || self.replay != Replay::Unused {
            return false;
        }
        self.log_failed_try(error, "a pooled connection was stale, replaying");
        self.replay = Replay::Next;
        true
    }

    /// Goes to a backend not tried yet, if attempts and backends are left.
    fn move_on(&mut self, error: &Error) -> bool {
        let Some(pool) = self.pool.clone() else { return false };
        if self.tries > pool.spec().retry.attempts || !pool.has_untried(&self.tried) {
            return false;
        }
        self.log_failed_try(error, "trying another backend");
        self.pick_next()
    }

    fn log_failed_try(&self, error: &Error, then: &str) {
        if let (Some(pool), Some(lease)) = (&self.pool, &self.lease) {
            let (name, pool) = (lease.name(), &pool.spec().name);
            log::debug!("backend {name} of pool {pool} failed: {error}; {then}");
        }
    }
}

/// Whether the backend broke the connection off, as opposed to a timeout or an answer that is not
/// HTTP.
fn is_reset(error: &Error) -> bool {
    *error.esource() == ErrorSource::Upstream
        && matches!(
            error.etype(),
            ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed
        )
}

//! When a request is tried again, and where.

use super::{
    Exchange, Fault,
    exchange::{Context, Replay},
    tries::NOT_HTTP2,
};
use crate::{
    model::RetryOn,
    pool::{Member, NoRetry, Outcome, is_lack_of_ours},
    tls,
};
use http::{Method, StatusCode};
use pingora::{Error, ErrorSource, ErrorType};
use pingora_proxy::Session;
use std::time::Instant;

impl Context {
    /// After a connection failed. No byte of the request was sent on it, so any method may go to
    /// another backend, as long as what an earlier try consumed of the body is still there.
    pub(super) fn after_connect_failure(&mut self, session: &Session, error: &mut Error) {
        if self.meets_otherwise(session, error) {
            error.set_retry(true);
            return;
        }
        self.end_opening(false);
        let ours = is_lack_of_ours(error);
        if ours || self.is_clients_doing(error) {
            // What we lack is not its fault.
            self.report(Outcome::Unknown, Instant::now());
        } else {
            self.report_failure();
        }
        let whole = !session.as_ref().retry_buffer_truncated();
        let again = whole && self.move_on(RetryOn::ConnectFailure, error);
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
        self.link.end_try();
        if self.meets_otherwise(session, error) {
            error.set_retry(true);
            return;
        }
        self.end_opening(false);
        if std::mem::take(&mut self.retry_status) {
            // The next backend is picked already.
            error.set_retry(true);
            return;
        }
        let again = self.again_after(session, error, reused);
        error.set_retry(again);
    }

    fn again_after(&mut self, session: &Session, error: &Error, reused: bool) -> bool {
        let Some(kind) = self.kind(error) else { return false };
        let repeatable = self.upstream_time.is_none()
            && is_unanswered(session)
            && is_safe(kind, &session.req_header().method);
        if self.is_stale(kind, error, reused) {
            if repeatable {
                self.replay_on_same(error);
                return true;
            }
            self.report(Outcome::Unknown, Instant::now());
        } else if self.is_clients_doing(error) {
            self.report(Outcome::Unknown, Instant::now());
        } else {
            self.report_failure();
        }
        repeatable && self.move_on(kind, error)
    }

    /// Whether the try is made once more on the same backend, at once, because that can be met otherwise. No
    /// byte of the request was sent, and nothing is said of the backend yet.
    fn meets_otherwise(&mut self, session: &Session, error: &Error) -> bool {
        let (Some(tls), Some(lease)) = (self.tls(), &self.lease) else { return false };
        let again = self.turn == Replay::Unused
            && !session.as_ref().retry_buffer_truncated()
            && tls.is_met_otherwise(error, lease.state().trust());
        if again {
            self.log_failed_try(Some(lease), error, "meeting it otherwise");
            self.turn = Replay::Next;
        }
        again
    }

    /// Whether a try failed because of a name that the client chose: it could have every backend ejected by
    /// asking for hosts that they do not have.
    fn is_clients_doing(&self, error: &Error) -> bool {
        tls::is_wrong_name(error) && self.client_chose_name()
    }

    /// Whether a response with this status is not passed on because the request is tried again. If
    /// it cannot be, the client gets it: it is the last real answer.
    pub(super) fn retries_status(&mut self, session: &Session, status: StatusCode) -> bool {
        let kind = RetryOn::Status(status.as_u16());
        let wanted = self.pool.as_ref().is_some_and(|pool| pool.spec().retry.on.contains(&kind));
        let repeatable = is_unanswered(session) && is_safe(kind, &session.req_header().method);
        if !wanted || !repeatable {
            return false;
        }
        let answer = Error::explain(ErrorType::HTTPStatus(status.as_u16()), "asks for a retry");
        self.retry_status = self.move_on(kind, &answer);
        self.retry_status
    }
}

/// Whether a request with this method may be repeated after such a failure: the backend cannot have
/// acted on it, or acting on it twice is no more than once.
pub(super) fn is_safe(kind: RetryOn, method: &Method) -> bool {
    matches!(kind, RetryOn::ConnectFailure | RetryOn::RefusedStream) || method.is_idempotent()
}

/// Whether the request is still there as it came, and its client has seen nothing of an answer.
fn is_unanswered(session: &Session) -> bool {
    !session.response_written().is_some_and(super::failure::is_final)
        && !session.as_ref().retry_buffer_truncated()
}

/// Whether a backend has said that it did not look at the request: it reset the stream with
/// `REFUSED_STREAM`, or told that it takes no more requests on the connection before it came to this
/// one (RFC 9113 section 8.7).
fn is_refused_stream(error: &Error) -> bool {
    h2_cause(error).is_some_and(|cause| {
        let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
        cause.is_remote() && (refused || cause.is_go_away())
    })
}

fn h2_cause(error: &Error) -> Option<&h2::Error> {
    error.root_cause().downcast_ref()
}

impl Exchange {
    /// What kind of failure of the backend's an error is; `None` if it is not the backend's.
    fn kind(&self, error: &Error) -> Option<RetryOn> {
        if self.link.is_try_timed_out() {
            return Some(RetryOn::Timeout);
        }
        if *error.esource() != ErrorSource::Upstream || self.link.fault() != Fault::None {
            return None;
        }
        if is_refused_stream(error) {
            return Some(RetryOn::RefusedStream);
        }
        match error.etype() {
            // Nothing was sent.
            &NOT_HTTP2 | ErrorType::TLSHandshakeFailure => Some(RetryOn::ConnectFailure),
            ErrorType::ReadTimedout | ErrorType::WriteTimedout => Some(RetryOn::Timeout),
            _ => Some(RetryOn::Reset),
        }
    }

    /// Whether a pooled connection was closed by the backend just when we used it. That says nothing of
    /// the backend's health, whether the request may be repeated or not.
    fn is_stale(&self, kind: RetryOn, error: &Error, reused: bool) -> bool {
        let unanswered =
            matches!(kind, RetryOn::Reset | RetryOn::RefusedStream) && self.upstream_time.is_none();
        let broken = matches!(
            error.etype(),
            ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed
        ) || h2_cause(error)
            .is_some_and(|cause| cause.is_go_away() && cause.is_remote());
        reused && unanswered && broken && self.replay == Replay::Unused
    }

    /// Replays the request on the same backend, once, outside the attempts, the budget and the
    /// ejection.
    fn replay_on_same(&mut self, error: &Error) {
        self.log_failed_try(
            self.lease.as_deref(),
            error,
            "a pooled connection was stale, replaying",
        );
        self.replay = Replay::Next;
    }

    /// Goes to a backend not tried yet, if the policy, the attempts and the budget allow it and
    /// there is one.
    fn move_on(&mut self, kind: RetryOn, error: &Error) -> bool {
        let Some(pool) = self.pool.clone() else { return false };
        match pool.pick_again(kind, self.tries, self.hash_key, &self.tried) {
            Ok(lease) => {
                self.log_failed_try(self.lease.as_deref(), error, "trying another backend");
                self.lease = Some(lease);
                self.pause = pool.pause(self.tries);
                true
            }
            Err(NoRetry::NotAllowed) => false,
            Err(why) => {
                // The request ends where it was.
                self.log_failed_try(self.lease.as_deref(), error, &why.to_string());
                false
            }
        }
    }

    fn log_failed_try(&self, failed: Option<&Member>, error: &Error, then: &str) {
        if let (Some(pool), Some(member)) = (&self.pool, failed) {
            let (name, pool) = (member.name(), &pool.spec().name);
            let error = super::failure::brief(error);
            log::debug!("backend {name} of pool {pool} failed: {error}; {then}");
        }
    }
}

//! What a hook decides.

use super::Answer;
use pingora::BError;
use std::error::Error;

/// What becomes of a request after a hook.
#[derive(Debug)]
#[must_use]
pub enum Flow {
    /// It goes on: to the next filter, and after the last one to where the route leads.
    Continue,
    /// It is answered at once, without the filters and backends that would have come next.
    Answer(Answer),
}

impl From<Answer> for Flow {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

/// What hooks return. An error is not for the client: it is logged with the filter's name, and the
/// client gets a 500 with the reason `internal_error`.
pub type Result<T = Flow, E = Failure> = std::result::Result<T, E>;

/// Why a hook could not do its work. Any error can become one with `?`.
#[derive(Debug)]
pub struct Failure(pub(crate) Kind);

/// What to do about a failure.
#[derive(Debug)]
pub(crate) enum Kind {
    /// It is logged, and the client gets a 500.
    Error(Box<dyn Error + Send + Sync>),
    /// The client is at fault and gets this.
    Answer(Answer),
    /// The connection of the client broke.
    Connection(BError),
}

impl Failure {
    pub(crate) fn connection(error: BError) -> Self {
        Self(Kind::Connection(error))
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Kind::Error(Box::new(error)))
    }
}

impl From<Answer> for Failure {
    fn from(answer: Answer) -> Self {
        Self(Kind::Answer(answer))
    }
}

//! Answers that no backend gave.

use super::fields::{FieldError, settable};
use crate::model::Reason;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// What a client that meets a limit is told to wait, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// A response that no backend gave.
///
/// Without a body of its own, an error gets a short one, in text or in JSON as the client prefers,
/// with its reason and the request's id.
///
/// ```
/// use http::StatusCode;
/// use pingora_lb::filter::Answer;
///
/// let answer = Answer::new(StatusCode::UNAUTHORIZED).header("www-authenticate", "Bearer")?;
/// assert_eq!(answer.reason().as_str(), "denied");
/// # Ok::<(), pingora_lb::filter::FieldError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) reason: Reason,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// `None` for an error, whose body depends on what the client prefers.
    pub(crate) body: Option<Bytes>,
}

impl Answer {
    /// An answer with this status. Its reason code is the one that a filter means by it: `ok` below
    /// 400, `rate_limited` for 429, `overloaded` for 503, else `denied`.
    pub fn new(status: StatusCode) -> Self {
        let reason = match status.as_u16() {
            ..400 => return Self::fixed(status, Vec::new(), Bytes::new()),
            429 => Reason::RateLimited,
            503 => Reason::Overloaded,
            _ => Reason::Denied,
        };
        Self::refusal(status, reason)
    }

    /// The answer to a request that failed for `reason`.
    pub fn error(reason: Reason) -> Self {
        Self::refusal(reason.status(), reason)
    }

    /// An error whose status is more exact than its reason's own.
    pub fn refusal(status: StatusCode, reason: Reason) -> Self {
        let mut headers = vec![(header::CACHE_CONTROL, NO_STORE)];
        if reason == Reason::Overloaded {
            headers.push((header::RETRY_AFTER, RETRY_AFTER));
        }
        Self { status, reason, headers, body: None }
    }

    /// An answer that is as it should be.
    pub(crate) fn fixed(
        status: StatusCode,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Bytes,
    ) -> Self {
        Self { status, reason: Reason::Ok, headers, body: Some(body) }
    }

    /// The answer with a header field in the place of those of that name.
    ///
    /// # Errors
    /// When the name or the value is not one, or the field frames the message.
    pub fn header<N, V>(mut self, name: N, value: V) -> Result<Self, FieldError>
    where
        N: TryInto<HeaderName>,
        V: TryInto<HeaderValue>,
    {
        let (name, value) = settable(name, value)?;
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value));
        Ok(self)
    }

    /// The answer with this body; it says what kind it is in `content-type`.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// The answer with another reason code.
    #[must_use]
    pub fn because(mut self, reason: Reason) -> Self {
        self.reason = reason;
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The reason code.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The header fields that it has so far.
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }
}

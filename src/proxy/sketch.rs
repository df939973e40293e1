//! What a request is logged and answered with once its session is gone.

use super::{Exchange, answer::Form};
use crate::filter::host_of;
use http::{HeaderName, HeaderValue, Method, header};
use pingora::http::RequestHeader;
use std::sync::Arc;

/// The little of a request that survives its session.
#[derive(Debug)]
pub(super) struct Sketch {
    pub(super) method: Method,
    pub(super) host: String,
    pub(super) target: String,
    pub(super) user_agent: Option<HeaderValue>,
    pub(super) referer: Option<HeaderValue>,
    pub(super) form: Form,
    /// All of its head, if its route has filters.
    pub(super) head: Option<Box<RequestHeader>>,
}

impl Sketch {
    fn of(request: &RequestHeader) -> Self {
        let field = |name: HeaderName| request.headers.get(name).cloned();
        Self {
            user_agent: field(header::USER_AGENT),
            referer: field(header::REFERER),
            method: request.method.clone(),
            host: host_of(request).into_owned(),
            target: String::from_utf8_lossy(request.raw_path()).into_owned(),
            form: Form::of(request),
            head: None,
        }
    }
}

impl Exchange {
    /// Keeps what the exchange is logged with if it is given up.
    pub(super) fn remember(&mut self, request: &RequestHeader) {
        let filtered = self.matched().is_some_and(|route| !route.filters.is_empty());
        let head = filtered.then(|| Box::new(request.clone()));
        self.sketch = Some(Arc::new(Sketch { head, ..Sketch::of(request) }));
    }
}

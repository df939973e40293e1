//! What a request is logged and answered with once its session is gone.

use super::{Exchange, answer::Form, client};
use crate::filter::host_of;
use http::{HeaderName, HeaderValue, Method, Version, header};
use pingora::http::RequestHeader;
use std::sync::Arc;

/// The little of a request that survives its session.
#[derive(Debug)]
pub(super) struct Sketch {
    pub(super) method: Method,
    pub(super) version: Version,
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
            version: request.version,
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
        let head = self.filtering.is_needed.then(|| Box::new(request.clone()));
        self.sketch = Some(Arc::new(Sketch { head, ..Sketch::of(request) }));
    }

    /// The same once its session is gone, if nobody thought that it would be given up: by the `head` that
    /// the session left behind or, in HTTP/1, by the bytes that the head was read from.
    pub fn recall(&mut self, head: Option<RequestHeader>) {
        if self.sketch.is_some() {
            return;
        }
        let Some(mut head) = head.or_else(|| parsed(&self.raw)) else { return };
        if !self.from_trusted {
            client::remove_claims(&mut head);
        }
        self.remember(&head);
    }
}

/// The head that these bytes are, which were checked when they arrived.
fn parsed(raw: &[u8]) -> Option<RequestHeader> {
    let lines = memchr::memchr_iter(b'\n', raw).count();
    let mut fields = vec![httparse::EMPTY_HEADER; lines];
    let mut request = httparse::Request::new(&mut fields);
    request.parse(raw).ok()?;
    let mut head =
        RequestHeader::build(request.method?, request.path?.as_bytes(), Some(lines)).ok()?;
    if request.version? == 0 {
        head.set_version(Version::HTTP_10);
    }
    for field in request.headers {
        head.append_header(field.name.to_owned(), field.value).ok()?;
    }
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_again_from_its_bytes() {
        let raw =
            b"PUT /a?b=c HTTP/1.0\r\nHost: a.example\r\nX-A:  one\r\nx-a:two \r\nEmpty:\r\n\r\n";
        let head = parsed(raw).unwrap();
        assert_eq!((head.method.as_str(), head.raw_path()), ("PUT", &b"/a?b=c"[..]));
        assert_eq!(head.version, Version::HTTP_10);
        assert_eq!(head.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(head.headers["host"], "a.example");
        assert_eq!(head.headers["empty"], "");
        assert!(parsed(b"").is_none());
    }
}

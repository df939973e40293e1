//! What the hooks on the way in are given: the request, and the pieces of its body.

use super::{
    Answer, Failure, FieldError, PoolRef,
    facts::{Facts, Slots, Variables, keeps_state, knows_its_request, split_target},
    fields::has_fields,
    flow::Result,
    settings::Template,
};
use crate::model::normal_path;
use bytes::Bytes;
use http::{HeaderMap, Method, header};
use pingora::{BError, http::RequestHeader};
use std::{borrow::Cow, future::Future, pin::Pin};

/// The most of a request's body that a filter can read ahead, in bytes: Pingora keeps as much for
/// the backend and for retries.
pub const MAX_READ_AHEAD: usize = 64 * 1024;

/// Reading a body ahead.
pub(crate) type Reading<'s> =
    Pin<Box<dyn Future<Output = Result<Option<Bytes>, BError>> + Send + 's>>;

/// The request as the proxy has it.
pub(crate) trait Incoming: Send {
    fn head(&self) -> &RequestHeader;
    fn head_mut(&mut self) -> &mut RequestHeader;
    /// The whole body; `None` if it is longer than `limit`.
    fn read_body(&mut self, limit: usize) -> Reading<'_>;
}

/// A request that is described, and comes from nobody.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) head: RequestHeader,
    pub(crate) body: Bytes,
}

impl Incoming for Described {
    fn head(&self) -> &RequestHeader {
        &self.head
    }

    fn head_mut(&mut self) -> &mut RequestHeader {
        &mut self.head
    }

    fn read_body(&mut self, limit: usize) -> Reading<'_> {
        self.head.remove_header(&header::EXPECT);
        let body = (self.body.len() <= limit).then(|| self.body.clone());
        Box::pin(async { Ok(body) })
    }
}

/// What filters decide about the rest of a request.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    pub(crate) pool: Option<PoolRef>,
    pub(crate) hash_key: Option<Vec<u8>>,
    /// Whether a filter will change the length of the body.
    pub(crate) changes_body: bool,
}

/// A request whose route was found, before a backend is chosen.
pub struct Request<'r> {
    pub(crate) incoming: &'r mut dyn Incoming,
    pub(crate) facts: Facts<'r>,
    /// The target if it is not the one that the client sent.
    pub(crate) rewritten: &'r mut Option<String>,
    pub(crate) choices: &'r mut Choices,
    pub(crate) slots: &'r mut Slots,
    pub(crate) place: usize,
}

knows_its_request!(Request);
keeps_state!(Request);
has_fields!(Request);

impl Request<'_> {
    fn head(&self) -> &RequestHeader {
        self.incoming.head()
    }

    fn head_mut(&mut self) -> &mut RequestHeader {
        self.incoming.head_mut()
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.incoming.head().method
    }

    /// The path in normal form, or what an earlier filter made of it, without the query.
    pub fn path(&self) -> Cow<'_, str> {
        match self.target() {
            Cow::Borrowed(target) => Cow::Borrowed(split_target(target).0),
            Cow::Owned(target) => Cow::Owned(split_target(&target).0.to_owned()),
        }
    }

    /// The query without its question mark; `None` where there is none.
    pub fn query(&self) -> Option<String> {
        split_target(&self.target()).1.map(str::to_owned)
    }

    /// The path, and the query with its question mark if there is one.
    pub fn target(&self) -> Cow<'_, str> {
        target_of(self.rewritten.as_deref(), self.incoming.head())
    }

    /// The host that the request asks for: lower case, without port; empty where it names none.
    pub fn host(&self) -> Cow<'_, str> {
        host_of(self.incoming.head())
    }

    /// The value of a cookie if it is there and is text. Of several, the first.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        cookie_of(self.headers(), name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Sets the path and the query that later filters and the backend see, the path in normal form.
    /// The route stays as it is.
    ///
    /// # Errors
    /// When it does not begin with a slash, leads above the root with `..` segments, or has
    /// characters that no target may have.
    pub fn set_target(&mut self, target: impl Into<String>) -> Result<(), TargetError> {
        *self.rewritten = Some(normal_target(target.into())?);
        Ok(())
    }

    /// Has the request go to this pool, whatever the route says. A constructor gets the pool by its
    /// name from [`Setup::pool`](super::Setup::pool).
    pub fn set_pool(&mut self, pool: &PoolRef) {
        self.choices.pool = Some(pool.clone());
    }

    /// Has the hashing policies go by `key`, whatever `hash_on` says.
    pub fn set_hash_key(&mut self, key: impl Into<Vec<u8>>) {
        self.choices.hash_key = Some(key.into());
    }

    /// The whole body, of at most `limit` bytes and at most [`MAX_READ_AHEAD`]. The backend still
    /// gets it, and retries do. Waits for the client to send it.
    ///
    /// # Errors
    /// A longer body is answered with 413. When the client breaks off or is too slow, the request
    /// ends as it would without the filter.
    pub async fn body(&mut self, limit: usize) -> Result<Bytes> {
        let limit = limit.min(MAX_READ_AHEAD);
        match self.incoming.read_body(limit).await {
            Ok(Some(body)) => Ok(body),
            Ok(None) => Err(Answer::new(http::StatusCode::PAYLOAD_TOO_LARGE).into()),
            Err(error) => Err(Failure::connection(error)),
        }
    }

    /// Says that this filter will change the length of the body: the backend then gets it in chunks.
    pub fn will_change_body(&mut self) {
        self.choices.changes_body = true;
    }

    /// The text of a template for this request. There is no backend yet.
    pub fn render(&self, template: &Template) -> String {
        let variables = Variables {
            facts: &self.facts,
            method: self.method(),
            host: &self.host(),
            target: &self.target(),
            pool: None,
            backend: None,
        };
        variables.render(&template.0)
    }
}

/// A text that cannot be a request's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a target begins with a slash, stays below it, and has visible ASCII characters without # only"
)]
pub struct TargetError;

/// A target with its path in normal form.
fn normal_target(target: String) -> Result<String, TargetError> {
    let visible = |byte: u8| (0x21..=0x7e).contains(&byte) && byte != b'#';
    if !target.starts_with('/') || !target.bytes().all(visible) {
        return Err(TargetError);
    }
    let (path, query) = split_target(&target);
    match (normal_path(path).map_err(|_| TargetError)?, query) {
        (Cow::Borrowed(_), _) => Ok(target),
        (Cow::Owned(path), Some(query)) => Ok(format!("{path}?{query}")),
        (Cow::Owned(path), None) => Ok(path),
    }
}

/// A piece of a request's body on its way to the backend.
pub struct RequestBody<'r> {
    pub(crate) data: &'r mut Bytes,
    /// How many bytes of the body came before it.
    pub(crate) offset: u64,
    pub(crate) end: bool,
    pub(crate) facts: Facts<'r>,
    pub(crate) slots: &'r mut Slots,
    pub(crate) place: usize,
}

knows_its_request!(RequestBody);
keeps_state!(RequestBody);

impl RequestBody<'_> {
    /// The bytes; empty where the end comes alone.
    pub fn data(&self) -> &Bytes {
        self.data
    }

    /// How many bytes came before, as the client sent them. It is 0 again when a retry sends the body
    /// anew.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether this is the last piece.
    pub fn is_end(&self) -> bool {
        self.end
    }

    /// Passes on `data` instead. If the length of the whole body changes by that,
    /// [`Request::will_change_body`] must have said so.
    pub fn replace(&mut self, data: impl Into<Bytes>) {
        *self.data = data.into();
    }
}

/// A request that is about to be sent to a backend. Each try has its own.
pub struct UpstreamRequest<'r> {
    pub(crate) head: &'r mut RequestHeader,
    pub(crate) facts: Facts<'r>,
    pub(crate) target: &'r str,
    pub(crate) host: &'r str,
    pub(crate) pool: &'r str,
    pub(crate) backend: &'r str,
    pub(crate) tries: u32,
    pub(crate) slots: &'r mut Slots,
    pub(crate) place: usize,
}

knows_its_request!(UpstreamRequest);
keeps_state!(UpstreamRequest);
has_fields!(UpstreamRequest);

impl UpstreamRequest<'_> {
    fn head(&self) -> &RequestHeader {
        self.head
    }

    fn head_mut(&mut self) -> &mut RequestHeader {
        self.head
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// The path, and the query with its question mark if there is one.
    pub fn target(&self) -> &str {
        self.target
    }

    /// The name of the pool.
    pub fn pool(&self) -> &str {
        self.pool
    }

    /// The name of the backend.
    pub fn backend(&self) -> &str {
        self.backend
    }

    /// Which try of the request this is: 1 for the first.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// The text of a template for this request.
    pub fn render(&self, template: &Template) -> String {
        let variables = Variables {
            facts: &self.facts,
            method: self.method(),
            host: self.host,
            target: self.target,
            pool: Some(self.pool),
            backend: Some(self.backend),
        };
        variables.render(&template.0)
    }
}

/// The target of a request: what it was rewritten to, or what the client sent.
pub(crate) fn target_of<'a>(rewritten: Option<&'a str>, head: &'a RequestHeader) -> Cow<'a, str> {
    match rewritten {
        Some(target) => Cow::Borrowed(target),
        None => String::from_utf8_lossy(head.raw_path()),
    }
}

/// The value of the cookie called `name`. Of several, the first.
pub(crate) fn cookie_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let fields = headers.get_all(header::COOKIE).into_iter();
    let pairs = fields.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
        let equals = memchr::memchr(b'=', pair)?;
        (&pair[..equals] == name.as_bytes()).then_some(&pair[equals + 1..])
    })
}

/// The host that a request asks for: lower case, without port; empty where it names none.
pub(crate) fn host_of(head: &RequestHeader) -> Cow<'_, str> {
    let field = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = crate::model::host_without_port(field.unwrap_or(""));
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_cookie_among_others() {
        let mut headers = HeaderMap::new();
        let values = [&b"a=1; LB=x=y;b=2"[..], b"c=3; d=\xff", b"e=f"];
        for value in values {
            headers.append(header::COOKIE, http::HeaderValue::from_bytes(value).unwrap());
        }
        let cookie = |name| cookie_of(&headers, name);
        assert_eq!(cookie("LB"), Some(&b"x=y"[..]));
        assert_eq!(["c", "d", "e"].map(cookie), [Some(&b"3"[..]), Some(b"\xff"), Some(b"f")]);
        assert_eq!(cookie("g"), None);
    }

    #[test]
    fn a_target_is_set_in_normal_form_or_not_at_all() {
        let set = |target: &str| normal_target(target.to_owned());
        for (target, normal) in [
            ("/", "/"),
            ("/a?b=/../c", "/a?b=/../c"),
            ("/a/../b?c", "/b?c"),
            ("/a/%2e%2E/b", "/b"),
            ("//a", "//a"),
        ] {
            assert_eq!(set(target).as_deref(), Ok(normal), "{target}");
        }
        for bad in ["", "a", "*", "/..", "/a/../../b", "/%2e%2e", "/a b", "/a#b", "/\u{e9}", "/%00"]
        {
            assert_eq!(set(bad), Err(TargetError), "{bad}");
        }
    }
}

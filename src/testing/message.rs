//! Requests and responses as a test describes them and looks at them.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use std::{net::IpAddr, time::Instant};

const NAME: &str = "the name of a header field";
const VALUE: &str = "the value of a header field";

/// A request that a test describes, or that an [`Origin`](super::Origin) got.
///
/// What describes it panics where the description cannot be one, as that is a mistake in the test.
#[derive(Clone, Debug)]
pub struct Request {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<Bytes>,
    pub(super) client: Option<IpAddr>,
    pub(super) listener: Option<String>,
    pub(super) received: Option<Instant>,
}

impl Request {
    /// A request for `target`, which is a path with or without a query. Its host is `test.example`
    /// unless a header says another.
    ///
    /// # Panics
    /// If `method` is none.
    #[track_caller]
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.parse().expect("a method"),
            target: target.to_owned(),
            headers: HeaderMap::new(),
            body: Vec::new(),
            client: None,
            listener: None,
            received: None,
        }
        .with("host", "test.example")
    }

    /// A GET.
    #[track_caller]
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// A POST with this body.
    #[track_caller]
    pub fn post(target: &str, body: impl Into<Bytes>) -> Self {
        Self::new("POST", target).body(body)
    }

    /// The request with this header field. `host` takes the place of the one that is there; all
    /// others are added.
    ///
    /// # Panics
    /// If the name or the value is none.
    #[must_use]
    #[track_caller]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        let (name, value) = field(name, value);
        if name == header::HOST {
            self.headers.insert(name, value);
        } else {
            self.headers.append(name, value);
        }
        self
    }

    /// The request with this body, in one piece and with its length in `content-length`.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        self.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        self.body = vec![body];
        self
    }

    /// The request with this body in pieces, which come as chunks.
    #[must_use]
    pub fn pieces<B: Into<Bytes>>(mut self, pieces: impl IntoIterator<Item = B>) -> Self {
        self.headers.remove(header::CONTENT_LENGTH);
        self.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        self.body = pieces.into_iter().map(Into::into).collect();
        self
    }

    /// The request from a client with this address; 127.0.0.1 unless told. Over a socket, the client
    /// is who it is.
    ///
    /// # Panics
    /// If `client` is no address.
    #[must_use]
    #[track_caller]
    pub fn from(mut self, client: &str) -> Self {
        self.client = Some(client.parse().expect("an IP address"));
        self
    }

    /// The request on the listener with this name. Unless told it is `web`; in a
    /// [`Balancer`](super::Balancer), the first one of the configuration.
    #[must_use]
    pub fn on(mut self, listener: &str) -> Self {
        self.listener = Some(listener.to_owned());
        self
    }

    /// The request received at this moment, for filters that go by time. Unless told it is now. Over a
    /// socket, it is when it is.
    #[must_use]
    pub fn received_at(mut self, received: Instant) -> Self {
        self.received = Some(received);
        self
    }

    /// The method.
    pub fn method(&self) -> &str {
        self.method.as_str()
    }

    /// The path, with the query if there is one.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The header fields.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The value of a header field, if it is there and is text. Of several, the first.
    pub fn header(&self, name: &str) -> Option<&str> {
        text_of(&self.headers, name)
    }

    /// The whole body.
    pub fn bytes(&self) -> Bytes {
        self.body.concat().into()
    }

    /// The whole body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

/// A response that a test describes, or gets.
#[derive(Clone, Debug)]
pub struct Response {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<Bytes>,
    pub(super) complete: bool,
}

impl Response {
    /// A response with this status.
    ///
    /// # Panics
    /// If `status` is none.
    #[track_caller]
    pub fn new(status: u16) -> Self {
        let status = StatusCode::from_u16(status).expect("a status");
        Self { status, headers: HeaderMap::new(), body: Vec::new(), complete: true }
    }

    /// The response with this header field added.
    ///
    /// # Panics
    /// If the name or the value is none.
    #[must_use]
    #[track_caller]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        let (name, value) = field(name, value);
        self.headers.append(name, value);
        self
    }

    /// The response with this body, in one piece and with its length in `content-length`.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        self.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        self.body = vec![body];
        self
    }

    /// The response with this body in pieces, whose length is not said.
    #[must_use]
    pub fn pieces<B: Into<Bytes>>(mut self, pieces: impl IntoIterator<Item = B>) -> Self {
        self.headers.remove(header::CONTENT_LENGTH);
        self.body = pieces.into_iter().map(Into::into).collect();
        self
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// The header fields.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The value of a header field, if it is there and is text. Of several, the first.
    pub fn header(&self, name: &str) -> Option<&str> {
        text_of(&self.headers, name)
    }

    /// The whole body.
    pub fn bytes(&self) -> Bytes {
        self.body.concat().into()
    }

    /// The whole body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// Whether it came to its end; a response that broke off did not.
    pub fn is_complete(&self) -> bool {
        self.complete
    }
}

pub(super) fn text_of<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

#[track_caller]
fn field(name: &str, value: &str) -> (HeaderName, HeaderValue) {
    (name.parse().expect(NAME), value.parse().expect(VALUE))
}

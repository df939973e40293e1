//! Fields that we look for or set on every message.

use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};

/// Whether a field is there. Where it mostly is not, looking through the few names of a message costs less
/// than finding that out by the name's hash.
pub(super) fn is_there(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|other| other == name)
}

/// A field in the two forms in which it is needed: by its name, it is found without being parsed. As a
/// text it is set, as Pingora keeps the spelling of a name beside it, and copies it from a name but
/// not from a text that lives for ever.
pub(super) struct Field {
    pub(super) name: HeaderName,
    text: &'static str,
}

impl Field {
    /// The field that is called this, in lower case.
    pub(super) const fn new(text: &'static str) -> Self {
        Self { name: HeaderName::from_static(text), text }
    }

    pub(super) fn set(&self, request: &mut RequestHeader, value: HeaderValue) -> Result<()> {
        request.insert_header(self.text, value)
    }

    pub(super) fn answer(&self, response: &mut ResponseHeader, value: HeaderValue) -> Result<()> {
        response.insert_header(self.text, value)
    }
}

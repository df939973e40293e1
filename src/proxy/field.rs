//! Fields that we look for or set on every message.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};

/// Has the fields of a request changed in place. What a field was called in upper and lower case is forgotten
/// by that: names are sent in lower case, but for some of the best known, as those of a client that speaks
/// HTTP/2 are. Pingora keeps every spelling in a second map, and copies, fills and looks through both; and
/// its ways to change a field take a name as a text, which is read and copied each time.
///
/// # Errors
/// When the request's target, which is set anew where the URI does not have it, is none.
pub(super) fn change(
    request: &mut RequestHeader,
    change: impl FnOnce(&mut HeaderMap),
) -> Result<()> {
    let target = (!is_in_uri(request)).then(|| request.raw_path().to_vec());
    let nothing = RequestHeader::from(Request::new(()).into_parts().0);
    let mut parts = http::request::Parts::from(std::mem::replace(request, nothing));
    change(&mut parts.headers);
    *request = RequestHeader::from(parts);
    target.map_or(Ok(()), |target| request.set_raw_path(&target))
}

/// The same for a response.
///
/// # Errors
/// When its reason phrase, if it has one of its own, is none.
pub(super) fn change_answer(
    response: &mut ResponseHeader,
    change: impl FnOnce(&mut HeaderMap),
) -> Result<()> {
    let usual = response.status.canonical_reason();
    let phrase = response.get_reason_phrase().filter(|phrase| Some(*phrase) != usual);
    let phrase = phrase.map(str::to_owned);
    let nothing = ResponseHeader::from(Response::new(()).into_parts().0);
    let mut parts = http::response::Parts::from(std::mem::replace(response, nothing));
    change(&mut parts.headers);
    *response = ResponseHeader::from(parts);
    phrase.map_or(Ok(()), |phrase| response.set_reason_phrase(Some(&phrase)))
}

/// Whether the target of a request is what its URI says, as it is in all requests that we take.
fn is_in_uri(request: &RequestHeader) -> bool {
    let of_uri = request.uri.path_and_query().map(|path| path.as_str().as_bytes());
    of_uri == Some(request.raw_path())
}

/// Has a request forget what its fields were called in upper and lower case, before it is copied.
pub(super) fn forget_spelling(request: &mut RequestHeader) {
    if request.has_case() && is_in_uri(request) {
        // Where the target is in the URI, nothing can fail.
        let _ = change(request, |_| ());
    }
}

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

    pub(super) fn set(&self, headers: &mut HeaderMap, value: HeaderValue) {
        headers.insert(self.name.clone(), value);
    }

    pub(super) fn answer(&self, response: &mut ResponseHeader, value: HeaderValue) -> Result<()> {
        response.insert_header(self.text, value)
    }
}

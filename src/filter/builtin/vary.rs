//! `Vary`: the fields of a request that its response depends on.

use crate::filter::{FieldError, Response};
use http::{HeaderMap, HeaderValue, header::VARY};

/// Says that a response depends on these fields of its request, in one field with those that it
/// named before. A response that varies by everything (`*`) says so already.
pub(super) fn vary(response: &mut Response<'_>, names: &[&str]) -> Result<(), FieldError> {
    match with(response.headers(), names) {
        Some(value) => response.set_header(VARY, value),
        None => Ok(()),
    }
}

/// The value with these names in it; `None` if they are there already.
fn with(headers: &HeaderMap, names: &[&str]) -> Option<HeaderValue> {
    let fields = || headers.get_all(VARY).iter().map(HeaderValue::as_bytes);
    let is_there = |name: &[u8]| {
        let mut entries = fields().flat_map(|value| value.split(|byte| *byte == b','));
        entries.any(|other| other.trim_ascii().eq_ignore_ascii_case(name))
    };
    if is_there(b"*") || names.iter().all(|name| is_there(name.as_bytes())) {
        return None;
    }
    let before = fields().filter(|value| !value.trim_ascii().is_empty());
    let missing = names.iter().map(|name| name.as_bytes()).filter(|name| !is_there(name));
    let all: Vec<&[u8]> = before.chain(missing).collect();
    // What is joined by commas are field values and names, so this is one, too.
    HeaderValue::from_bytes(&all.join(&b", "[..])).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_added_once_and_in_one_field() {
        for (before, names, expected) in [
            (&[][..], &["Origin"][..], Some("Origin")),
            (&["Accept"], &["Origin"], Some("Accept, Origin")),
            (&["Accept", "Cookie"], &["Origin"], Some("Accept, Cookie, Origin")),
            (&["accept, origin"], &["Origin"], None),
            (&["origin"], &["Origin", "Accept"], Some("origin, Accept")),
            (&["*"], &["Origin"], None),
            (&[""], &["Origin"], Some("Origin")),
        ] {
            let values = before.iter().map(|value| (VARY, HeaderValue::from_static(value)));
            let mut headers = HeaderMap::new();
            headers.extend(values);
            let expected = expected.map(HeaderValue::from_static);
            assert_eq!(with(&headers, names), expected, "{before:?} {names:?}");
        }
    }
}

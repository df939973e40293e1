//! `Connection`: what it says of the connection, and the fields that it says concern nobody else.

use super::field::is_there;
use http::{HeaderMap, HeaderName, header};
use pingora::http::RequestHeader;

/// What may be said of a connection itself; everything else names a field.
const OPTIONS: [&str; 3] = ["close", "keep-alive", "upgrade"];
/// Fields that nobody may take away: they frame the message or say whom it is for.
const ESSENTIAL: [HeaderName; 3] =
    [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];

/// Whether `Connection` names no field and says nothing twice, as in most messages.
fn is_plain(headers: &HeaderMap) -> bool {
    if !is_there(headers, &header::CONNECTION) {
        return true;
    }
    let mut values = headers.get_all(header::CONNECTION).into_iter();
    match (values.next(), values.next()) {
        (Some(only), None) => is_option(only.as_bytes()),
        (first, _) => first.is_none(),
    }
}

/// Whether `Connection` has this option.
pub(super) fn lists(headers: &HeaderMap, option: &str) -> bool {
    tokens(headers).any(|token| token.eq_ignore_ascii_case(option.as_bytes()))
}

/// The fields that `Connection` names. In most messages there are none.
pub(super) fn fields(headers: &HeaderMap) -> Vec<HeaderName> {
    if is_plain(headers) {
        return Vec::new();
    }
    let others = tokens(headers).filter(|token| !is_option(token));
    let names = others.filter_map(|token| HeaderName::from_bytes(token).ok());
    names.filter(|name| !ESSENTIAL.contains(name)).collect()
}

/// Removes the fields that `Connection` names, and leaves of it what concerns the connection, each
/// option once. Pingora refuses a request whose `Connection` says much, or names what it holds dear,
/// when a backend has been connected already.
pub(super) fn strip(request: &mut RequestHeader) {
    if is_plain(&request.headers) {
        return;
    }
    let named = fields(&request.headers);
    let said = OPTIONS.iter().filter(|option| lists(&request.headers, option)).copied();
    let said: Vec<&str> = said.collect();
    for name in named.iter().chain([&header::CONNECTION]) {
        request.remove_header(name);
    }
    if !said.is_empty() {
        // The options are known words, so this is a valid value.
        let _ = request.insert_header(header::CONNECTION, said.join(", "));
    }
}

fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(header::CONNECTION).into_iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

fn is_option(token: &[u8]) -> bool {
    OPTIONS.iter().any(|option| token.eq_ignore_ascii_case(option.as_bytes()))
}

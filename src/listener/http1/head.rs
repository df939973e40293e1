//! Checks a request's head, byte for byte, before anything acts on it.
//!
//! Everything here follows RFC 9112 and RFC 9110 to the letter and mends nothing: what two readers
//! could read in two ways is refused. The field values themselves are Pingora's to parse; this only
//! finds the end of the head, how the body is framed, and what is wrong.

use crate::{model::ListenerLimits, proxy::Reason};
use bytes::BytesMut;
use http::StatusCode;
use std::ops::Range;

/// How the body of a request is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// By its length; 0 if there is none.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// A head that is whole and well formed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Its length in bytes, the empty line included.
    pub(super) length: usize,
    pub(super) framing: Framing,
    method: Range<usize>,
    target: Range<usize>,
    /// The value of `Host`.
    host: Option<Range<usize>>,
    /// The whole line of `Host`, its end included.
    host_line: Option<Range<usize>>,
}

/// Why a head is refused. The connection is closed after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status that the client gets.
    pub status: StatusCode,
    /// The reason code.
    pub reason: Reason,
    /// What is wrong, for the log.
    pub why: &'static str,
}

pub(in crate::listener) const fn refuse(status: StatusCode, why: &'static str) -> Refusal {
    Refusal { status, reason: Reason::BadRequest, why }
}

pub(in crate::listener) const fn bad(why: &'static str) -> Refusal {
    refuse(StatusCode::BAD_REQUEST, why)
}

/// Pingora refuses a longer head, with an answer of its own that nobody would learn of. It is given
/// the head in origin form, which may be two bytes longer than the one that arrived.
const LONGEST_HEAD: usize = 1_048_575 - 2;
/// The `http` crate takes no longer name.
const LONGEST_FIELD_NAME: usize = 65_535;

const URI_TOO_LONG: Refusal = refuse(StatusCode::URI_TOO_LONG, "the target is too long");
const HEAD_TOO_LARGE: Refusal =
    refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too large");
const TOO_MANY_FIELDS: Refusal =
    refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too many header fields");
const FIELD_NAME_TOO_LONG: Refusal =
    refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "a field name is too long");

/// Finds the end of a head in what has arrived so far, without looking at any byte twice.
#[derive(Debug, Default)]
pub(super) struct HeadScanner {
    scanned: usize,
}

impl HeadScanner {
    /// Reads the head at the start of `buffer`; `None` if it is not whole yet. Empty lines before
    /// the head are removed, as RFC 9112 section 2.2 allows.
    pub(super) fn scan(
        &mut self,
        buffer: &mut BytesMut,
        limits: &ListenerLimits,
    ) -> Result<Option<Head>, Refusal> {
        self.skip_empty_lines(buffer, limits)?;
        let from = self.scanned.saturating_sub(3);
        let Some(at) = find_empty_line(&buffer[from..]) else {
            self.refuse_early(buffer, limits)?;
            self.scanned = buffer.len();
            return Ok(None);
        };
        let length = from + at + 4;
        if length > limits.header_bytes.min(LONGEST_HEAD) {
            return Err(too_large(buffer, limits));
        }
        parse(&buffer[..length], limits).map(Some)
    }

    fn skip_empty_lines(
        &mut self,
        buffer: &mut BytesMut,
        limits: &ListenerLimits,
    ) -> Result<(), Refusal> {
        let mut skipped = 0;
        while buffer.starts_with(b"\r\n") {
            let _ = buffer.split_to(2);
            skipped += 2;
            self.scanned = 0;
        }
        if skipped > limits.header_bytes { Err(HEAD_TOO_LARGE) } else { Ok(()) }
    }

    /// Refuses what cannot become a head any more, so that nobody waits for its end: too much of
    /// it, a first line that is none, or a line that ends in a bare LF.
    fn refuse_early(&self, buffer: &[u8], limits: &ListenerLimits) -> Result<(), Refusal> {
        let new = &buffer[self.scanned..];
        for at in memchr::memchr_iter(b'\n', new) {
            let at = self.scanned + at;
            if at == 0 || buffer[at - 1] != b'\r' {
                return Err(bad("a line ends in LF alone"));
            }
        }
        let line = memchr::memchr(b'\n', buffer);
        if let Some(end) = line.filter(|end| *end >= self.scanned) {
            // The first line is whole: what is none needs no others.
            parse_request_line(&buffer[..end - 1], limits)?;
        }
        // The method and version take their own space on the line.
        if line.is_none() && buffer.len() > limits.uri_bytes + 64 {
            return Err(URI_TOO_LONG);
        }
        if buffer.len() > limits.header_bytes { Err(too_large(buffer, limits)) } else { Ok(()) }
    }
}

/// Where the line end is that an empty line follows. Lines are short, so that finding each end costs less
/// than preparing a search for more than one byte.
fn find_empty_line(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\r', bytes).find(|at| bytes[*at..].starts_with(b"\r\n\r\n"))
}

/// Where the first line ends.
fn find_line_end(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\r', bytes).find(|at| bytes[*at..].starts_with(b"\r\n"))
}

fn too_large(buffer: &[u8], limits: &ListenerLimits) -> Refusal {
    let line = memchr::memchr(b'\n', buffer).unwrap_or(buffer.len());
    if line > limits.uri_bytes + 64 { URI_TOO_LONG } else { HEAD_TOO_LARGE }
}

/// Checks a whole head as that of a request which arrives on a listener with these limits.
///
/// # Errors
/// Why it is refused there.
pub fn check_head(head: &[u8], limits: &ListenerLimits) -> Result<(), Refusal> {
    let mut arrived = BytesMut::from(head);
    match HeadScanner::default().scan(&mut arrived, limits)? {
        Some(head) => head.in_origin_form(&arrived).map(drop),
        None => Err(bad("the head is not whole")),
    }
}

/// What the fields say about framing and authority.
#[derive(Default)]
struct Fields {
    host: Option<Range<usize>>,
    host_line: Option<Range<usize>>,
    content_length: Option<u64>,
    chunked: bool,
    count: usize,
}

fn parse(head: &[u8], limits: &ListenerLimits) -> Result<Head, Refusal> {
    let line_end = find_line_end(head).unwrap_or(head.len());
    let line = parse_request_line(&head[..line_end], limits)?;
    let fields = parse_fields(head, line_end + 2, limits, line.http_1_1)?;
    if line.http_1_1 && fields.host.is_none() {
        return Err(bad("no Host"));
    }
    // The host that a target in absolute form names becomes a field if there is none.
    let absolute = authority_end(&head[line.target.clone()]).is_some();
    if absolute && fields.host.is_none() && fields.count >= limits.headers {
        return Err(TOO_MANY_FIELDS);
    }
    let framing = match (fields.chunked, fields.content_length) {
        (true, Some(_)) => return Err(bad("both Content-Length and Transfer-Encoding")),
        (true, None) => Framing::Chunked,
        (false, length) => Framing::Length(length.unwrap_or(0)),
    };
    Ok(Head {
        length: head.len(),
        framing,
        method: line.method,
        target: line.target,
        host: fields.host,
        host_line: fields.host_line,
    })
}

struct RequestLine {
    method: Range<usize>,
    target: Range<usize>,
    http_1_1: bool,
}

fn parse_request_line(line: &[u8], limits: &ListenerLimits) -> Result<RequestLine, Refusal> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad("the request line is not method, target and version"));
    };
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
        return Err(bad("the method is not a token"));
    }
    let http_1_1 = parse_version(version)?;
    if target.len() > limits.uri_bytes {
        return Err(URI_TOO_LONG);
    }
    check_target(method, target)?;
    let start = method.len() + 1;
    Ok(RequestLine { method: 0..method.len(), target: start..start + target.len(), http_1_1 })
}

/// Whether the version is 1.1 rather than 1.0.
fn parse_version(version: &[u8]) -> Result<bool, Refusal> {
    match version {
        b"HTTP/1.1" => Ok(true),
        b"HTTP/1.0" => Ok(false),
        // HTTP/0.9 had no version to send.
        [b'H', b'T', b'T', b'P', b'/', b'1'..=b'9', b'.', minor] if minor.is_ascii_digit() => {
            let status = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
            Err(refuse(status, "the version is not 1.0 or 1.1"))
        }
        _ => Err(bad("the version is malformed")),
    }
}

/// Checks a target and whether the method may have it.
pub(in crate::listener) fn check_target(method: &[u8], target: &[u8]) -> Result<(), Refusal> {
    if matches!(method, b"CONNECT" | b"TRACE") {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        return Err(refuse(status, "CONNECT and TRACE are not served"));
    }
    if !target.iter().all(|byte| is_target(*byte)) {
        return Err(bad("the target has a character that must be encoded"));
    }
    let query = memchr::memchr(b'?', target).map_or(&[][..], |mark| &target[mark..]);
    if query.contains(&b'"') {
        return Err(bad("the query has a quotation mark that must be encoded"));
    }
    let well_formed = target.starts_with(b"/")
        || (target == b"*" && method == b"OPTIONS")
        || authority_end(target).is_some();
    if well_formed { Ok(()) } else { Err(bad("the target is neither a path nor an absolute URI")) }
}

/// For a target in absolute form, where its authority lies.
fn authority_end(target: &[u8]) -> Option<Range<usize>> {
    let prefix = |scheme: &[u8]| {
        target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    let start = if prefix(b"http://") {
        7
    } else if prefix(b"https://") {
        8
    } else {
        return None;
    };
    let rest = &target[start..];
    let length = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let authority = &rest[..length];
    (!authority.is_empty() && is_authority(authority)).then_some(start..start + length)
}

fn parse_fields(
    head: &[u8],
    mut at: usize,
    limits: &ListenerLimits,
    http_1_1: bool,
) -> Result<Fields, Refusal> {
    let mut fields = Fields::default();
    let end = head.len() - 2;
    while at < end {
        let length = find_line_end(&head[at..]).unwrap_or(end - at);
        fields.count += 1;
        if fields.count > limits.headers {
            return Err(TOO_MANY_FIELDS);
        }
        parse_field(head, at..at + length, &mut fields, http_1_1)?;
        at += length + 2;
    }
    Ok(fields)
}

fn parse_field(
    head: &[u8],
    line: Range<usize>,
    fields: &mut Fields,
    http_1_1: bool,
) -> Result<(), Refusal> {
    let bytes = &head[line.clone()];
    if matches!(bytes.first(), Some(b' ' | b'\t')) {
        return Err(bad("a line is folded or begins with a space"));
    }
    let colon = memchr::memchr(b':', bytes).ok_or(bad("a field has no colon"))?;
    let (name, value) = (&bytes[..colon], &bytes[colon + 1..]);
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(bad("a field name is not a token"));
    }
    if name.len() > LONGEST_FIELD_NAME {
        return Err(FIELD_NAME_TOO_LONG);
    }
    if !value.iter().all(|byte| is_value(*byte)) {
        return Err(bad("a field value has a control character"));
    }
    match name.len() {
        4 if name.eq_ignore_ascii_case(b"host") => {
            let value = trimmed(head, line.start + colon + 1..line.end);
            take_host(head, value, line, fields)
        }
        14 if name.eq_ignore_ascii_case(b"content-length") => take_length(value, fields),
        17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
            take_encoding(value, fields, http_1_1)
        }
        _ => Ok(()),
    }
}

fn take_host(
    head: &[u8],
    value: Range<usize>,
    line: Range<usize>,
    fields: &mut Fields,
) -> Result<(), Refusal> {
    if fields.host.is_some() {
        return Err(bad("more than one Host"));
    }
    if !is_authority(&head[value.clone()]) {
        return Err(bad("Host is malformed"));
    }
    fields.host = Some(value);
    fields.host_line = Some(line.start..line.end + 2);
    Ok(())
}

fn take_length(value: &[u8], fields: &mut Fields) -> Result<(), Refusal> {
    if fields.content_length.is_some() {
        return Err(bad("more than one Content-Length"));
    }
    let digits = value.trim_ascii();
    let length = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
    // An empty value and one beyond 64 bits fail to parse.
    let length = length.and_then(|digits| digits.parse().ok());
    fields.content_length = Some(length.ok_or(bad("Content-Length is not a number"))?);
    Ok(())
}

fn take_encoding(value: &[u8], fields: &mut Fields, http_1_1: bool) -> Result<(), Refusal> {
    if !http_1_1 {
        return Err(bad("Transfer-Encoding in HTTP/1.0"));
    }
    let codings: Vec<&[u8]> = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect();
    let is_chunked = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let chunked = codings.iter().filter(|coding| is_chunked(coding)).count();
    if fields.chunked || chunked > 1 {
        return Err(bad("chunked more than once"));
    }
    if chunked == 1 && !codings.last().is_some_and(is_chunked) {
        return Err(bad("chunked is not the last coding"));
    }
    if codings.iter().any(|coding| coding.is_empty() || !coding.iter().all(|byte| is_token(*byte)))
    {
        return Err(bad("Transfer-Encoding is malformed"));
    }
    if codings.len() > 1 || chunked == 0 {
        return Err(refuse(StatusCode::NOT_IMPLEMENTED, "unknown transfer coding"));
    }
    fields.chunked = true;
    Ok(())
}

impl Head {
    /// The method.
    pub(super) fn method<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        &head[self.method.clone()]
    }

    /// The target.
    pub(super) fn target<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        &head[self.target.clone()]
    }

    /// The host.
    pub(super) fn host<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        self.host.clone().map_or(b"", |host| &head[host])
    }

    /// Puts a head whose target is in absolute form into the usual one: the path as target, the
    /// target's authority as `Host` (RFC 9112 section 3.2.2). `None` if it is in that form already.
    pub(super) fn in_origin_form(&self, head: &[u8]) -> Result<Option<BytesMut>, Refusal> {
        let target = self.target(head);
        let Some(authority) = authority_end(target) else { return Ok(None) };
        let named = &target[authority.clone()];
        // An empty Host says nothing; one that names another host is an attempt to confuse.
        let host = self.host(head);
        if !host.is_empty() && !host.eq_ignore_ascii_case(named) {
            return Err(bad("Host differs from the target"));
        }
        let path = &target[authority.end..];
        let mut new = BytesMut::with_capacity(head.len() + 16);
        new.extend_from_slice(self.method(head));
        new.extend_from_slice(b" ");
        if !path.starts_with(b"/") {
            new.extend_from_slice(b"/");
        }
        new.extend_from_slice(path);
        let line_end = find_line_end(head).unwrap_or(head.len()) + 2;
        new.extend_from_slice(&head[self.target.end..line_end]);
        new.extend_from_slice(b"Host: ");
        new.extend_from_slice(named);
        new.extend_from_slice(b"\r\n");
        let host_line = self.host_line.clone().unwrap_or(line_end..line_end);
        new.extend_from_slice(&head[line_end..host_line.start]);
        new.extend_from_slice(&head[host_line.end..]);
        Ok(Some(new))
    }
}

/// The best that can be said of a head that was refused, for the log: its method and target.
pub(super) fn first_words(head: &[u8]) -> (String, String) {
    const ENOUGH: usize = 2048;
    let end = memchr::memchr2(b'\r', b'\n', head).unwrap_or(head.len()).min(ENOUGH);
    let mut words = head[..end].split(|byte| *byte == b' ');
    let mut word = || {
        let word = words.next().filter(|word| !word.is_empty());
        word.map_or_else(|| "-".to_owned(), |word| String::from_utf8_lossy(word).into_owned())
    };
    (word(), word())
}

/// The value of the first `Accept` in a head that was refused, so that its answer has the form that it
/// asks for.
pub(super) fn accepted(head: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b"accept:";
    let lines =
        head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut fields = lines.skip(1).take_while(|line| !line.is_empty());
    fields.find_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        name.eq_ignore_ascii_case(NAME).then_some(value.trim_ascii())
    })
}

fn trimmed(head: &[u8], mut range: Range<usize>) -> Range<usize> {
    let space = |at: usize| matches!(head[at], b' ' | b'\t');
    while range.start < range.end && space(range.start) {
        range.start += 1;
    }
    while range.start < range.end && space(range.end - 1) {
        range.end -= 1;
    }
    range
}

/// The bytes of a token, and those of a host's name.
const TOKEN: [bool; 256] = letters_digits_and(b"!#$%&'*+-.^_`|~");
const NAME: [bool; 256] = letters_digits_and(b"-._~!$&'()*+,;=%");

/// RFC 9110 section 5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// For each byte, whether it is a letter, a digit or one of `others`.
const fn letters_digits_and(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}

/// RFC 9110 section 5.5: visible characters, space, tab, and bytes beyond ASCII.
fn is_value(byte: u8) -> bool {
    (byte >= b' ' && byte != 0x7f) || byte == b'\t'
}

/// What a target may hold: visible ASCII. Characters that RFC 3986 wants encoded but that clients
/// commonly send bare and every server takes as they are (`"`, `{`, `|`, `}`, `^`, `\`) pass, except
/// for `"` in a query, which Pingora takes for an error; a fragment never belongs here.
fn is_target(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'#' | b'<' | b'>' | b'`')
}

/// Whether `host` is a host with an optional port: a name, an IPv4 address, or an IPv6 address in
/// brackets. Empty is allowed: RFC 9112 section 3.2 wants it from clients whose target has no
/// authority.
pub(in crate::listener) fn is_authority(host: &[u8]) -> bool {
    if let Some(rest) = host.strip_prefix(b"[") {
        let Some(end) = memchr::memchr(b']', rest) else { return false };
        let address = std::str::from_utf8(&rest[..end]).unwrap_or("");
        return address.parse::<std::net::Ipv6Addr>().is_ok() && is_port(&rest[end + 1..]);
    }
    let name_end = memchr::memchr(b':', host).unwrap_or(host.len());
    let is_name = |byte: &u8| NAME[usize::from(*byte)];
    let (name, port) = host.split_at(name_end);
    let is_whole = !name.is_empty() || port.is_empty();
    name.iter().all(is_name) && is_encoded(name) && is_port(port) && is_whole
}

/// Whether two hexadecimal digits follow on each `%`.
fn is_encoded(name: &[u8]) -> bool {
    let mut parts = name.split(|byte| *byte == b'%').skip(1);
    parts.all(|part| part.len() >= 2 && part[..2].iter().all(u8::is_ascii_hexdigit))
}

/// Nothing, or a colon with a port that there can be, or with none.
fn is_port(text: &[u8]) -> bool {
    match text {
        [] | [b':'] => true,
        [b':', digits @ ..] => {
            let number = str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u16>().ok());
            digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit) && number.is_some()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroUsize;

    fn scan(head: &str) -> Result<Option<Head>, Refusal> {
        HeadScanner::default().scan(&mut BytesMut::from(head), &ListenerLimits::default())
    }

    fn status(head: &str) -> u16 {
        match scan(head) {
            Ok(Some(_)) => 200,
            Ok(None) => 0,
            Err(refusal) => refusal.status.as_u16(),
        }
    }

    #[test]
    fn finds_what_is_accepted_in_what_is_refused() {
        for (head, expected) in [
            ("GET / HTTP/1.1\r\nX: 1\r\naCCept: \ta/b \r\n\r\n", Some("a/b")),
            ("GET / HTTP/1.1\nAccept:a\nAccept: b", Some("a")),
            ("Accept: a\r\n\r\n", None),
            ("GET / HTTP/1.1\r\n\r\nAccept: a\r\n", None),
            ("GET / HTTP/1.1\r\nAccept", None),
            ("", None),
        ] {
            assert_eq!(accepted(head.as_bytes()), expected.map(str::as_bytes), "{head:?}");
        }
    }

    #[test]
    fn accepts_what_is_well_formed() {
        for head in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n",
            "GET /\"a\"?b={c}|d HTTP/1.1\r\nHost: [::1]:80\r\nX:\r\nY: \t caf\u{e9} \r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 0\r\n\r\n",
        ] {
            assert_eq!(status(head), 200, "{head:?}");
        }
    }

    #[test]
    fn refuses_by_the_rules() {
        let cases = [
            (400, "GET / HTTP/1.1\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"),
            (
                400,
                "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            ),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2, 2\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x2\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551618\r\n\r\n"),
            (501, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"),
            (501, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
            (
                400,
                "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            ),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n"),
            (400, "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"),
            (400, "GET / HTTP/1.1\nHost: a\n\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nbad name: x\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nnone\r\n\r\n"),
            (400, "G@T / HTTP/1.1\r\nHost: a\r\n\r\n"),
            (505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
            (400, "GET / HTTP/0.9\r\nHost: a\r\n\r\n"),
            (400, "GET /\r\n"),
            (400, "GET / HTTP/1.1 x\r\n"),
            (505, "GET / HTTP/3.0\r\n"),
            (400, "GET /\r\n\r\n"),
            (400, "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
            (400, "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
            (400, "GET /a?b=\"c\" HTTP/1.1\r\nHost: a\r\n\r\n"),
            (400, "GET http://a?\" HTTP/1.1\r\nHost: a\r\n\r\n"),
            (400, "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
            (400, "GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
            (405, "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
            (405, "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ];
        for (expected, head) in cases {
            assert_eq!(status(head), expected, "{head:?}");
        }
    }

    #[test]
    fn limits_are_kept_before_the_head_is_whole() {
        let limits = ListenerLimits {
            header_bytes: 1024,
            headers: 3,
            uri_bytes: 100,
            requests_per_connection: NonZeroUsize::new(1),
            ..ListenerLimits::default()
        };
        let scan = |head: String| {
            let scanned = HeadScanner::default().scan(&mut BytesMut::from(head.as_str()), &limits);
            scanned.map_err(|refusal| refusal.status.as_u16())
        };
        assert_eq!(scan(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100))), Err(414));
        assert_eq!(scan(format!("GET /{}", "x".repeat(200))), Err(414));
        assert_eq!(scan(format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(1024))), Err(431));
        assert_eq!(
            scan(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(1024))),
            Err(431)
        );
        assert_eq!(scan("GET / HTTP/1.1\r\nHost: a\r\nA:\r\nB:\r\nC:\r\n\r\n".into()), Err(431));
        assert_eq!(scan("GET / HTTP/1.1\r\nHost: a".into()), Ok(None));
        // A host in the target is the fourth field; with a Host of its own it is none.
        let fields = "A:\r\nB:\r\nC:\r\n\r\n";
        assert_eq!(scan(format!("GET http://a/ HTTP/1.0\r\n{fields}")), Err(431));
        assert!(scan(format!("GET http://a/ HTTP/1.1\r\nHost: a\r\n{}", &fields[4..])).is_ok());
    }

    #[test]
    fn a_head_in_pieces_is_the_same_head() {
        let text = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n";
        let (mut scanner, mut buffer) = (HeadScanner::default(), BytesMut::new());
        let limits = ListenerLimits::default();
        let mut found = None;
        for byte in text.bytes() {
            buffer.extend_from_slice(&[byte]);
            if let Some(head) = scanner.scan(&mut buffer, &limits).unwrap() {
                found.get_or_insert(head);
            }
        }
        let head = found.unwrap();
        assert_eq!(head.framing, Framing::Chunked);
        assert_eq!(head.length, text.len() - 3);
        assert_eq!(head.target(text.as_bytes()), b"/x");
    }

    #[test]
    fn the_host_follows_an_absolute_target() {
        let origin = |text: &str| {
            let head = scan(text).unwrap().unwrap();
            let new =
                head.in_origin_form(text.as_bytes()).map_err(|refusal| refusal.status.as_u16())?;
            Ok(new.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()))
        };
        let text = "GET http://b:80/x?y HTTP/1.1\r\nA: 1\r\nHost: b:80\r\nC: 2\r\n\r\n";
        let expected = "GET /x?y HTTP/1.1\r\nHost: b:80\r\nA: 1\r\nC: 2\r\n\r\n";
        assert_eq!(origin(text), Ok(Some(expected.to_owned())));
        let text = "GET http://b?q HTTP/1.0\r\n\r\n";
        assert_eq!(origin(text), Ok(Some("GET /?q HTTP/1.0\r\nHost: b\r\n\r\n".to_owned())));
        assert_eq!(origin("GET http://b/ HTTP/1.1\r\nHost: c\r\n\r\n"), Err(400));
        assert_eq!(origin("GET / HTTP/1.1\r\nHost: c\r\n\r\n"), Ok(None));
    }
}

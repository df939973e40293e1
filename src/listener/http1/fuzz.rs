//! What must hold of any bytes that are read as a head or as a chunked body.

use super::{
    chunked::{ChunkScanner, Malformed},
    head::{Framing, Head, HeadScanner, Refusal},
};
use crate::{fuzzing::cuts, model::ListenerLimits};
use bytes::BytesMut;

/// Fields that a parser which knows no limits has room for.
const ROOM: usize = 1024;

/// A head is the same however it comes, and another parser reads the same in it.
pub(crate) fn fuzz_head(bytes: &[u8]) {
    let limits = ListenerLimits::default();
    let mut whole = BytesMut::from(bytes);
    let scanned = HeadScanner::default().scan(&mut whole, &limits);
    let pieces = in_pieces(bytes, &limits);
    match scanned {
        Ok(Some(head)) => {
            assert_eq!(pieces.expect("a whole head is not refused in pieces"), Some(head.length));
            check_head(&head, &whole[..head.length], &limits);
        }
        Ok(None) => assert_eq!(pieces.expect("what may become a head is not refused"), None),
        // What is wrong may show only at the end, so more of it may be waited for, but it is no head.
        Err(_) => assert!(!matches!(pieces, Ok(Some(_))), "refused, but not in pieces"),
    }
}

/// How long the head is that comes in pieces.
fn in_pieces(bytes: &[u8], limits: &ListenerLimits) -> Result<Option<usize>, Refusal> {
    let (mut scanner, mut buffer) = (HeadScanner::default(), BytesMut::new());
    let mut begun = 0;
    for end in cuts(bytes).chain([bytes.len()]) {
        buffer.extend_from_slice(&bytes[begun..end]);
        begun = end;
        if let Some(head) = scanner.scan(&mut buffer, limits)? {
            return Ok(Some(head.length));
        }
    }
    Ok(None)
}

fn check_head(head: &Head, bytes: &[u8], limits: &ListenerLimits) {
    let mut fields = vec![httparse::EMPTY_HEADER; ROOM];
    let mut other = httparse::Request::new(&mut fields);
    let parsed = other.parse(bytes).expect("another parser accepts it");
    assert_eq!(parsed, httparse::Status::Complete(head.length));
    assert_eq!(other.method.map(str::as_bytes), Some(head.method(bytes)));
    assert_eq!(other.path.map(str::as_bytes), Some(head.target(bytes)));
    assert!(other.headers.len() <= limits.headers);
    let all = |name: &str| {
        let named = other.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value.trim_ascii()).collect::<Vec<_>>()
    };
    let (lengths, encodings) = (all("content-length"), all("transfer-encoding"));
    match head.framing {
        Framing::Chunked => {
            assert!(lengths.is_empty() && encodings.len() == 1);
            assert!(encodings[0].eq_ignore_ascii_case(b"chunked"));
        }
        Framing::Length(length) => {
            assert!(encodings.is_empty() && lengths.len() <= 1);
            let said = lengths.first().map(|text| std::str::from_utf8(text).unwrap().parse());
            assert_eq!(said.unwrap_or(Ok(0)), Ok(length));
        }
    }
    assert!(all("host").len() <= 1);
    check_origin_form(head, bytes, limits);
}

/// In origin form it is a head still, and in no other form a second time.
fn check_origin_form(head: &Head, bytes: &[u8], limits: &ListenerLimits) {
    let Ok(Some(origin)) = head.in_origin_form(bytes) else { return };
    // The host that it has now may have made it longer than what may be sent.
    let roomy = ListenerLimits {
        header_bytes: limits.header_bytes * 2,
        headers: limits.headers + 1,
        ..*limits
    };
    let again = HeadScanner::default().scan(&mut origin.clone(), &roomy);
    let again = again.expect("it is well formed").expect("it is whole");
    assert_eq!((again.length, again.framing), (origin.len(), head.framing));
    assert_eq!(again.method(&origin), head.method(bytes));
    assert!(again.target(&origin).starts_with(b"/"));
    assert_eq!(again.in_origin_form(&origin), Ok(None));
}

/// A chunked body ends at the same place however it comes, and where another decoder ends it.
pub(crate) fn fuzz_chunks(bytes: &[u8]) {
    let mut scanner = ChunkScanner::new();
    let whole = scanner.advance(bytes);
    assert_eq!(pieces_of_body(bytes), whole.map(|length| (length, scanner.is_done())));
    if let Ok(length) = whole
        && scanner.is_done()
    {
        assert_eq!(decoded(&bytes[..length]), Some(length), "another decoder disagrees");
    }
}

fn pieces_of_body(bytes: &[u8]) -> Result<(usize, bool), Malformed> {
    let (mut scanner, mut begun, mut taken) = (ChunkScanner::new(), 0, 0);
    for end in cuts(bytes).chain([bytes.len()]) {
        taken += scanner.advance(&bytes[begun..end])?;
        begun = end;
    }
    Ok((taken, scanner.is_done()))
}

/// Where a body ends for a decoder that is not ours.
fn decoded(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(&bytes[at..])
        else {
            return None;
        };
        at += line;
        if size == 0 {
            break;
        }
        at += usize::try_from(size).ok()?;
        at += bytes.get(at..)?.starts_with(b"\r\n").then_some(2)?;
    }
    let mut fields = vec![httparse::EMPTY_HEADER; ROOM];
    match httparse::parse_headers(&bytes[at..], &mut fields) {
        Ok(httparse::Status::Complete((trailers, _))) => Some(at + trailers),
        _ => None,
    }
}

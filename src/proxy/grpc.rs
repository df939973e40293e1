//! Errors of ours as gRPC clients have them: HTTP says 200, and the head alone says what went wrong.

use crate::model::Reason;
use http::{HeaderName, HeaderValue, StatusCode, Version, header};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC: &[u8] = b"application/grpc";

/// The content type of a request of gRPC. In HTTP/1 there is no gRPC, and gRPC-Web is another protocol,
/// whose clients understand a bare status.
pub(super) fn content_type(request: &RequestHeader) -> Option<&HeaderValue> {
    let kind = request.headers.get(header::CONTENT_TYPE)?;
    let (name, rest) = kind.as_bytes().split_at_checked(GRPC.len())?;
    let is_grpc =
        name.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';'));
    (is_grpc && request.version == Version::HTTP_2).then_some(kind)
}

/// Makes the head of an error the whole of a gRPC response of the content type `kind`. By its length the
/// client's session knows that nothing follows, so that it ends the stream with the head: gRPC wants it
/// so.
pub(super) fn as_grpc(
    mut head: ResponseHeader,
    kind: &HeaderValue,
    reason: Reason,
) -> Result<ResponseHeader> {
    let status = head.status;
    let phrase = status.canonical_reason().unwrap_or("Error");
    let message = format!("{} {phrase}: {}", status.as_u16(), reason.as_str());
    head.set_status(StatusCode::OK)?;
    head.remove_header(&header::CONTENT_ENCODING);
    head.insert_header(header::CONTENT_LENGTH, 0)?;
    head.insert_header(header::CONTENT_TYPE, kind)?;
    head.insert_header(GRPC_STATUS, code(status))?;
    head.insert_header(GRPC_MESSAGE, message)?;
    Ok(head)
}

/// The code that clients make of a bare HTTP status ("HTTP to gRPC Status Code Mapping"), so that it
/// makes no difference who translates. Except for the end of a time, which gRPC has a word for.
fn code(status: StatusCode) -> u16 {
    const UNKNOWN: u16 = 2;
    const DEADLINE_EXCEEDED: u16 = 4;
    const PERMISSION_DENIED: u16 = 7;
    const UNIMPLEMENTED: u16 = 12;
    const INTERNAL: u16 = 13;
    const UNAVAILABLE: u16 = 14;
    const UNAUTHENTICATED: u16 = 16;
    match status.as_u16() {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 => UNAVAILABLE,
        504 => DEADLINE_EXCEEDED,
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, kind: &str) -> RequestHeader {
        let mut request = RequestHeader::build("POST", b"/", None).unwrap();
        request.set_version(version);
        request.insert_header(header::CONTENT_TYPE, kind).unwrap();
        request
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for kind in ["application/grpc", "Application/gRPC+proto", "application/grpc; a=b"] {
            assert_eq!(content_type(&request(Version::HTTP_2, kind)).unwrap(), kind);
            assert_eq!(content_type(&request(Version::HTTP_11, kind)), None);
        }
        for kind in ["application/grpc-web", "application/grp", "application/grpcx", "text/plain"] {
            assert_eq!(content_type(&request(Version::HTTP_2, kind)), None, "{kind}");
        }
    }

    #[test]
    fn every_error_has_a_code() {
        let kind = HeaderValue::from_static("application/grpc+proto");
        for (status, expected) in [
            (400, "13"),
            (401, "16"),
            (403, "7"),
            (404, "12"),
            (413, "2"),
            (429, "14"),
            (500, "2"),
            (502, "14"),
            (503, "14"),
            (504, "4"),
        ] {
            let mut head = ResponseHeader::build(status, None).unwrap();
            head.insert_header("content-length", 7).unwrap();
            head.insert_header("content-encoding", "gzip").unwrap();
            head.insert_header("retry-after", 1).unwrap();
            let head = as_grpc(head, &kind, Reason::Denied).unwrap();
            assert_eq!((head.status.as_u16(), &head.headers["content-type"]), (200, &kind));
            assert_eq!(head.headers["grpc-status"], expected, "{status}");
            let message = head.headers["grpc-message"].to_str().unwrap();
            assert!(message.starts_with(&status.to_string()), "{message}");
            assert!(message.ends_with(": denied"), "{message}");
            assert_eq!(head.headers["retry-after"], "1");
            assert_eq!(head.headers["content-length"], "0");
            assert!(!head.headers.contains_key("content-encoding"));
        }
    }
}

//! The gRPC probe: `grpc.health.v1.Health/Check`, the health checking protocol of gRPC.
//!
//! Its two messages have one field each, so they are written and read here by hand.

use super::probe::{absolute, reason};
use crate::model::GrpcProbe;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method};
use pingora::http::RequestHeader;
use pingora_core::{protocols::http::v2::client::Http2Session, upstreams::peer::HttpPeer};

const PATH: &str = "/grpc.health.v1.Health/Check";
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;
/// How long an answer may be, its prefix included: it is a number.
const MAX_ANSWER: usize = 1024;

impl GrpcProbe {
    /// Asks on `stream` and judges the answer: only one that says SERVING is a success.
    pub(super) async fn converse(
        &self,
        stream: &mut Http2Session,
        authority: &HeaderValue,
        peer: &HttpPeer,
    ) -> Result<(), String> {
        let failed = |error: pingora::BError| reason(&error);
        let request = request(authority, peer).map_err(failed)?;
        stream.write_request_header(Box::new(request), false).map_err(failed)?;
        stream.write_request_body(question(&self.service), true).await.map_err(failed)?;
        stream.read_response_header().await.map_err(failed)?;
        let head = stream.response_header().ok_or("no answer")?;
        if head.status != 200 {
            return Err(format!("status {}, expected 200", head.status.as_u16()));
        }
        if head.headers.contains_key("grpc-status") {
            // It is all of the answer, which a good one is not.
            judge_code(&head.headers)?;
        }
        let body = read_answer(stream).await?;
        let trailers = stream.read_trailers().await.map_err(failed)?;
        judge_code(&trailers.unwrap_or_default())?;
        judge_answer(&body)
    }
}

async fn read_answer(stream: &mut Http2Session) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(piece) = stream.read_response_body().await.map_err(|error| reason(&error))? {
        body.extend_from_slice(&piece);
        if body.len() > MAX_ANSWER {
            return Err("the answer is too long".to_owned());
        }
    }
    Ok(body)
}

fn request(authority: &HeaderValue, peer: &HttpPeer) -> pingora::Result<RequestHeader> {
    let mut request = RequestHeader::build(Method::POST, PATH.as_bytes(), None)?;
    request.set_uri(absolute(authority, PATH, peer)?);
    request.insert_header("content-type", "application/grpc")?;
    request.insert_header("te", "trailers")?;
    request.insert_header("user-agent", "pingora-lb-health-check")?;
    Ok(request)
}

/// `HealthCheckRequest { string service = 1; }`, behind what precedes every message: whether it is
/// compressed, and its length.
fn question(service: &str) -> Bytes {
    const SERVICE: u8 = 1 << 3 | 2;
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(SERVICE);
        write_varint(service.len(), &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let mut whole = BytesMut::new();
    whole.put_u8(0);
    whole.put_u32(u32::try_from(message.len()).expect("names of services are short"));
    whole.put_slice(&message);
    whole.freeze()
}

/// What `grpc-status` says.
fn judge_code(fields: &HeaderMap) -> Result<(), String> {
    let code = fields.get("grpc-status").ok_or("no grpc-status")?;
    match code.as_bytes() {
        b"0" => Ok(()),
        b"5" => Err("NOT_FOUND: it does not know the service".to_owned()),
        b"12" => Err("UNIMPLEMENTED: it does not know gRPC's health checks".to_owned()),
        code => Err(format!("grpc-status {}, expected 0", code.escape_ascii())),
    }
}

/// `HealthCheckResponse { ServingStatus status = 1; }` behind its prefix.
fn judge_answer(body: &[u8]) -> Result<(), String> {
    let (message, length) = match body {
        [0, a, b, c, d, message @ ..] => (message, u32::from_be_bytes([*a, *b, *c, *d])),
        _ => return Err("the answer is not a message".to_owned()),
    };
    if u32::try_from(message.len()) != Ok(length) {
        return Err("the answer is not one whole message".to_owned());
    }
    match status(message) {
        Some(SERVING) => Ok(()),
        Some(0) => Err("UNKNOWN".to_owned()),
        Some(2) => Err("NOT_SERVING".to_owned()),
        Some(3) => Err("SERVICE_UNKNOWN".to_owned()),
        _ => Err("the answer has no status".to_owned()),
    }
}

/// The first field, which is the status or, if that is 0, is not there.
fn status(message: &[u8]) -> Option<u64> {
    const STATUS: u8 = 1 << 3;
    match message {
        [] => Some(0),
        [STATUS, value @ ..] => read_varint(value),
        _ => None,
    }
}

fn write_varint(mut value: usize, out: &mut Vec<u8>) {
    loop {
        let low = (value & 127).to_le_bytes()[0];
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 128);
    }
}

fn read_varint(bytes: &[u8]) -> Option<u64> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(9).enumerate() {
        value |= u64::from(byte & 127) << (7 * at);
        if byte & 128 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_names_its_service() {
        assert_eq!(question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(question("a.B")[..], [0, 0, 0, 0, 5, 10, 3, b'a', b'.', b'B']);
        let long = question(&"x".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 10, 0xc8, 1]);
    }

    #[test]
    fn only_serving_is_healthy() {
        assert_eq!(judge_answer(&[0, 0, 0, 0, 2, 8, 1]), Ok(()));
        for bad in [
            &[0, 0, 0, 0, 2, 8, 2][..],
            &[0, 0, 0, 0, 2, 8, 3],
            &[0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 2, 8, 0x81],
            &[0, 0, 0, 0, 2, 16, 1],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 3, 8, 1],
            b"",
        ] {
            assert!(judge_answer(bad).is_err(), "{bad:?}");
        }
    }
}

//! Answers of our own as responses.

use super::{Refused, client::new_request_id, field::Field, grpc};
use crate::{filter::Answer, model::Reason, runtime::Snapshot};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// What a refused method is answered with (RFC 9110 section 15.5.6). All methods but CONNECT and TRACE are
/// passed on; these are those that a client may expect something of.
const PASSED_ON: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
pub(super) const X_REQUEST_ID: Field = Field::new("x-request-id");

/// In what form a client gets an error of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    #[default]
    Text,
    Json,
    /// As gRPC has it, whose content type this is.
    Grpc(HeaderValue),
}

impl Form {
    /// The form that a request asks for.
    pub(super) fn of(request: &RequestHeader) -> Self {
        match grpc::content_type(request) {
            Some(kind) => Self::Grpc(kind.clone()),
            None if prefers_json(
                request.headers.get(header::ACCEPT).map(HeaderValue::as_bytes),
            ) =>
            {
                Self::Json
            }
            None => Self::Text,
        }
    }
}

/// The header and body of an answer, for a client that prefers JSON or does not.
pub(super) fn render(
    answer: Answer,
    request_id: &HeaderValue,
    prefers_json: bool,
) -> pingora::Result<(ResponseHeader, Bytes)> {
    let (kind, body) = match answer.body {
        Some(body) => (None, body),
        None => error_body(answer.status, answer.reason, request_id, prefers_json),
    };
    let mut response = ResponseHeader::build(answer.status, Some(answer.headers.len() + 5))?;
    for (name, value) in answer.headers {
        response.append_header(name, value)?;
    }
    if let Some(kind) = kind {
        response.insert_header(header::CONTENT_TYPE, kind)?;
    }
    X_REQUEST_ID.answer(&mut response, request_id.clone())?;
    if !matches!(answer.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        response.insert_header(header::CONTENT_LENGTH, body.len())?;
    }
    Ok((response, body))
}

/// Counts and logs a request that was refused before it became an exchange; returns its answer.
pub fn answer_refused(
    snapshot: &Snapshot,
    refused: &Refused<'_>,
) -> pingora::Result<(ResponseHeader, Bytes)> {
    let id = new_request_id();
    let mut answer = Answer::refusal(refused.status, refused.reason);
    if refused.status == StatusCode::METHOD_NOT_ALLOWED {
        answer.headers.push((header::ALLOW, PASSED_ON));
    }
    let rendered = render(answer, &id, prefers_json(refused.accept)).map(|(head, body)| {
        // The length stays: it is that of the body that another method would have got.
        (head, if refused.method == "HEAD" { Bytes::new() } else { body })
    });
    let said = rendered.as_ref().map_or(0, |(_, body)| body.len());
    refused.log(snapshot, &id, said as u64);
    rendered
}

/// The same as bytes, for a connection that is closed after it.
pub fn closing_refusal(snapshot: &Snapshot, refused: &Refused<'_>) -> Vec<u8> {
    // What an error of ours has in it is valid.
    answer_refused(snapshot, refused)
        .map_or_else(|_| Vec::new(), |(head, body)| closing(&head, &body))
}

/// A whole response as bytes, for a connection that is closed after it.
pub(super) fn closing(head: &ResponseHeader, body: &Bytes) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    let phrase = head.status.canonical_reason().unwrap_or("Error");
    let mut line = |name: &[u8], value: &[u8]| {
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    };
    line(format!("HTTP/1.1 {} {phrase}", head.status.as_u16()).as_bytes(), b"");
    for (name, value) in &head.headers {
        line(format!("{name}: ").as_bytes(), value.as_bytes());
    }
    line(b"Connection: close", b"");
    line(b"", b"");
    bytes.extend_from_slice(body);
    bytes
}

fn error_body(
    status: StatusCode,
    reason: Reason,
    request_id: &HeaderValue,
    prefers_json: bool,
) -> (Option<HeaderValue>, Bytes) {
    let id = String::from_utf8_lossy(request_id.as_bytes());
    let (code, phrase) = (status.as_u16(), status.canonical_reason().unwrap_or("Error"));
    if prefers_json {
        let body = serde_json::json!({"status": code, "error": reason.as_str(), "request_id": id});
        return (Some(JSON), format!("{body}\n").into());
    }
    let reason = reason.as_str();
    (Some(TEXT), format!("{code} {phrase}: {reason}\nrequest id: {id}\n").into())
}

/// Whether an `Accept` field prefers JSON to text. A wildcard alone does not.
fn prefers_json(accept: Option<&[u8]>) -> bool {
    let Some(accept) = accept.and_then(|value| str::from_utf8(value).ok()) else { return false };
    let (mut json, mut text) = (0.0_f32, 0.0_f32);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or("").to_ascii_lowercase();
        let quality = parts
            .find_map(|part| part.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()))
            .unwrap_or(1.0);
        if kind == "application/json"
            || (kind.starts_with("application/") && kind.ends_with("+json"))
        {
            json = json.max(quality);
        } else if kind.starts_with("text/") {
            text = text.max(quality);
        }
    }
    json > text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_goes_to_those_who_prefer_it() {
        let prefers = |accept: &str| prefers_json(Some(accept.as_bytes()));
        for yes in [
            "application/json",
            "application/problem+json, */*",
            "text/html;q=0.5, application/json",
        ] {
            assert!(prefers(yes), "{yes}");
        }
        for no in
            ["*/*", "text/html,application/json;q=0.9", "text/plain", "application/json;q=0", ""]
        {
            assert!(!prefers(no), "{no}");
        }
        assert!(!prefers_json(None));
    }

    #[test]
    fn closing_bytes_are_a_whole_response() {
        let id = HeaderValue::from_static("id");
        let (head, body) = render(Answer::error(Reason::Overloaded), &id, true).unwrap();
        let text = String::from_utf8(closing(&head, &body)).unwrap();
        assert!(
            text.starts_with(
                "HTTP/1.1 503 Service Unavailable\r\ncache-control: no-store\r\nretry-after: 1\r\n"
            ),
            "{text}"
        );
        assert!(text.contains("\r\nConnection: close\r\n\r\n{\"error\":\"overloaded\""), "{text}");
    }
}

//! Answers of our own: errors, redirects and fixed responses.

use super::Reason;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora::http::ResponseHeader;
use std::io::Write as _;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What a client that meets a limit is told to wait, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// A response that no backend gave.
#[derive(Clone, Debug)]
pub struct Answer {
    pub(super) status: StatusCode,
    pub(super) reason: Reason,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// `None` for an error, whose body depends on what the client prefers.
    pub(super) body: Option<Bytes>,
}

impl Answer {
    /// The answer to a request that failed for `reason`.
    pub fn error(reason: Reason) -> Self {
        Self::refusal(reason.status(), reason)
    }

    /// An error whose status is more exact than its reason's own.
    pub fn refusal(status: StatusCode, reason: Reason) -> Self {
        let mut headers = vec![(header::CACHE_CONTROL, NO_STORE)];
        if reason == Reason::Overloaded {
            headers.push((header::RETRY_AFTER, RETRY_AFTER));
        }
        Self { status, reason, headers, body: None }
    }

    /// An answer that is as it should be.
    pub(super) fn fixed(
        status: StatusCode,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Bytes,
    ) -> Self {
        Self { status, reason: Reason::Ok, headers, body: Some(body) }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The reason code.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The header and body for a client that prefers JSON or does not.
    pub(super) fn render(
        self,
        request_id: &HeaderValue,
        prefers_json: bool,
    ) -> pingora::Result<(ResponseHeader, Bytes)> {
        let (kind, body) = match self.body {
            Some(body) => (None, body),
            None => error_body(self.status, self.reason, request_id, prefers_json),
        };
        let mut response = ResponseHeader::build(self.status, Some(self.headers.len() + 5))?;
        for (name, value) in self.headers {
            response.append_header(name, value)?;
        }
        if let Some(kind) = kind {
            response.insert_header(header::CONTENT_TYPE, kind)?;
        }
        response.insert_header(X_REQUEST_ID, request_id)?;
        if !matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            response.insert_header(header::CONTENT_LENGTH, body.len())?;
        }
        Ok((response, body))
    }

    /// The whole response as bytes, for a connection that is closed after it.
    pub fn to_closing_bytes(&self, request_id: &HeaderValue, prefers_json: bool) -> Vec<u8> {
        let (kind, body) = error_body(self.status, self.reason, request_id, prefers_json);
        let mut bytes = Vec::with_capacity(512);
        let phrase = self.status.canonical_reason().unwrap_or("Error");
        let mut line = |name: &[u8], value: &[u8]| {
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        };
        line(format!("HTTP/1.1 {} {phrase}", self.status.as_u16()).as_bytes(), b"");
        for (name, value) in &self.headers {
            line(format!("{name}: ").as_bytes(), value.as_bytes());
        }
        if let Some(kind) = kind {
            line(b"Content-Type: ", kind.as_bytes());
        }
        line(b"X-Request-Id: ", request_id.as_bytes());
        line(format!("Content-Length: {}", body.len()).as_bytes(), b"");
        line(b"Connection: close", b"");
        line(b"", b"");
        bytes.write_all(&body).expect("writing to a Vec cannot fail");
        bytes
    }
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
pub(super) fn prefers_json(accept: Option<&HeaderValue>) -> bool {
    let Some(accept) = accept.and_then(|value| value.to_str().ok()) else { return false };
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
        let prefers = |accept: &str| prefers_json(Some(&HeaderValue::from_str(accept).unwrap()));
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
        let answer = Answer::error(Reason::Overloaded);
        let text =
            String::from_utf8(answer.to_closing_bytes(&HeaderValue::from_static("id"), true))
                .unwrap();
        assert!(
            text.starts_with(
                "HTTP/1.1 503 Service Unavailable\r\ncache-control: no-store\r\nretry-after: 1\r\n"
            ),
            "{text}"
        );
        assert!(text.contains("\r\nConnection: close\r\n\r\n{\"error\":\"overloaded\""), "{text}");
    }
}

//! Answers, most of them JSON.

use super::Problem;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

/// A response with its whole body.
pub(super) type Answer = Response<Full<Bytes>>;

fn answer(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // It is about this moment, and for whoever asked.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// One line of text.
pub(super) fn text(status: StatusCode, text: &str) -> Answer {
    answer(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

/// A page for people.
pub(super) fn page(body: String) -> Answer {
    answer(StatusCode::OK, "text/html; charset=utf-8", body)
}

/// Metrics in Prometheus's text format.
pub(super) fn metrics(text: String) -> Answer {
    answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}

/// A value as JSON.
pub(super) fn json(status: StatusCode, value: &Value) -> Answer {
    answer(status, "application/json", format!("{value:#}\n"))
}

/// Nothing is there.
pub(super) fn not_found(message: &str) -> Answer {
    refusal(StatusCode::NOT_FOUND, "not_found", message)
}

/// A text that has errors, each with its place.
pub(super) fn invalid(error: &str, message: &str, problems: &[Problem]) -> Answer {
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    let code = status.as_u16();
    let refusal = json!({ "status": code, "error": error, "message": message, "errors": problems });
    json(status, &refusal)
}

/// What was to be changed has errors.
pub(super) fn unchanged(problems: &[Problem]) -> Box<Answer> {
    Box::new(invalid("invalid", "nothing has changed", problems))
}

/// A request that was refused: a code for programs, and what is wrong for people.
pub(super) fn refusal(status: StatusCode, error: &str, message: &str) -> Answer {
    json(status, &json!({ "status": status.as_u16(), "error": error, "message": message }))
}

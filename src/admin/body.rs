//! Reading a request's body, which is short.

use super::answer::{Answer, refusal};
use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use std::time::Duration;

/// The longest body, in bytes.
const LONGEST: usize = 64 * 1024;
/// How long it may take to arrive.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The body as text, whatever it says that it is.
pub(super) async fn read(body: Incoming) -> Result<String, Box<Answer>> {
    let refused = |status, error, message| Err(Box::new(refusal(status, error, message)));
    match tokio::time::timeout(TIMEOUT, Limited::new(body, LONGEST).collect()).await {
        Ok(Ok(body)) => String::from_utf8(body.to_bytes().into()).or_else(|_| {
            refused(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "the body is not UTF-8")
        }),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = "the body has more than 64 KiB";
            refused(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
        }
        Ok(Err(_)) => refused(StatusCode::BAD_REQUEST, "bad_request", "the body is broken"),
        Err(_) => refused(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not arrive"),
    }
}

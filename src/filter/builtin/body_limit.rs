//! `body_limit`: the longest body that a request may have.

use crate::filter::{
    Answer, Filter, Flow, Request, RequestBody, Result, SettingsError, Setup, settings::Size,
};
use http::{StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

/// How long the body of a request may be.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// The longest body that passes. With 0, none does.
    max: Size,
}

/// Refuses requests with longer bodies, with 413.
#[derive(Debug)]
pub(super) struct BodyLimit {
    /// In bytes.
    max: u64,
}

impl Filter for BodyLimit {
    const NAME: &'static str = "body_limit";
    type Settings = Settings;
    const HAS_SIDE_EFFECTS: bool = false;

    fn new(settings: Settings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Ok(Self { max: *settings.max })
    }

    /// A length that is said beforehand is judged beforehand: no backend is asked.
    async fn on_request(&self, request: &mut Request<'_>) -> Result {
        let length = request.header(header::CONTENT_LENGTH.as_str());
        // A length beyond all numbers was refused with the request's head.
        let length = length.and_then(|length| length.parse().ok());
        Ok(self.judge(length.unwrap_or(0)))
    }

    /// A chunked body is counted as it passes.
    async fn on_request_body(&self, piece: &mut RequestBody<'_>) -> Result {
        Ok(self.judge(piece.offset() + piece.data().len() as u64))
    }
}

impl BodyLimit {
    fn judge(&self, length: u64) -> Flow {
        if length > self.max {
            return Answer::new(StatusCode::PAYLOAD_TOO_LARGE).into();
        }
        Flow::Continue
    }
}

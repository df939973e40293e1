//! `redirect_https`: no clear text.

use crate::filter::{
    Answer, Filter, Flow, Reason, Request, Result, SettingsError, Setup,
    settings::{Port, Status},
};
use http::{HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;
use std::num::NonZeroU16;

const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];
const HTTPS_PORT: NonZeroU16 = NonZeroU16::new(443).expect("443 is not 0");

/// Where clients that use `http` are sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// The status of the redirect: 301, 302, 303, 307 or 308. 308 by default, which is for good and
    /// keeps the method.
    #[serde(default = "for_good")]
    status: Status,
    /// The port of the `https` address, 443 by default.
    #[serde(default = "https")]
    port: Port,
}

fn for_good() -> Status {
    Status(StatusCode::PERMANENT_REDIRECT)
}

fn https() -> Port {
    Port(HTTPS_PORT)
}

/// Sends clients that use `http` to the same address with `https`.
#[derive(Debug)]
pub(super) struct RedirectHttps {
    status: StatusCode,
    port: NonZeroU16,
}

impl Filter for RedirectHttps {
    const NAME: &'static str = "redirect_https";
    type Settings = Settings;
    const HAS_SIDE_EFFECTS: bool = false;

    fn new(settings: Settings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        let status = *settings.status;
        if !STATUSES.contains(&status.as_u16()) {
            let found = format!("found \"{}\"", status.as_str());
            return Err(SettingsError::new(found, "301, 302, 303, 307 or 308").at("status"));
        }
        Ok(Self { status, port: *settings.port })
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Result {
        if request.scheme() == "https" {
            return Ok(Flow::Continue);
        }
        let host = request.host();
        if host.is_empty() {
            // HTTP/1.0 needs no Host, but then there is nowhere to send the client.
            return Ok(Answer::new(StatusCode::BAD_REQUEST).because(Reason::BadRequest).into());
        }
        let location = HeaderValue::try_from(self.location(&host, &request.target()))?;
        Ok(Answer::new(self.status).header(header::LOCATION, location)?.into())
    }
}

impl RedirectHttps {
    fn location(&self, host: &str, target: &str) -> String {
        // `*` stands for the server as a whole.
        let target = if target == "*" { "/" } else { target };
        match self.port {
            HTTPS_PORT => format!("https://{host}{target}"),
            port => format!("https://{host}:{port}{target}"),
        }
    }
}

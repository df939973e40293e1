//! `/api/v1/log_level`: which messages are logged.

use super::{
    Admin,
    answer::{self, Answer},
    body,
};
use http::StatusCode;
use hyper::body::Incoming;
use serde_json::json;

pub(super) fn describe() -> Answer {
    let level = log::max_level().as_str().to_ascii_lowercase();
    answer::json(StatusCode::OK, &json!({ "level": level }))
}

pub(super) async fn set(admin: &Admin, text: Incoming) -> Answer {
    let text = match body::read(text).await {
        Ok(text) => text,
        Err(refusal) => return *refusal,
    };
    match admin.instance.read_log_level(&text) {
        Ok(level) => {
            // Said while it is still heard.
            log::info!("admin: the log level is {} from here on", level.as_str());
            admin.instance.set_log_level(level);
            describe()
        }
        Err(problems) => answer::invalid("invalid", "nothing has changed", &problems),
    }
}

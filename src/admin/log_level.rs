//! `/api/v1/log_level`: which messages are logged.

use super::{
    Admin,
    answer::{self, Answer},
};
use http::StatusCode;
use serde_json::json;

pub(super) fn describe() -> Answer {
    let level = log::max_level().as_str().to_ascii_lowercase();
    answer::json(StatusCode::OK, &json!({ "level": level }))
}

pub(super) fn set(admin: &Admin, text: &str) -> Result<Answer, Box<Answer>> {
    let level =
        admin.instance.read_log_level(text).map_err(|problems| answer::unchanged(&problems))?;
    // Said while it is still heard.
    log::info!("admin: the log level is {} from here on", level.as_str());
    admin.instance.set_log_level(level);
    Ok(describe())
}

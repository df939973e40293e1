//! `access_log:`, where and how requests are logged.

use super::reader::{Field, Keys, file_path};
use crate::model::{AccessLog, AccessLogFormat, LogTarget};

pub(super) const KEYS: Keys = Keys { section: "access_log", names: &["path", "format"] };

const FORMATS: [(&str, AccessLogFormat); 2] =
    [("json", AccessLogFormat::Json), ("combined", AccessLogFormat::Combined)];

/// Reads `access_log:`. The inner `None` is a log that is off.
#[allow(clippy::option_option, reason = "off, and unreadable, are two things")]
pub(super) fn read(field: &Field<'_>) -> Option<Option<AccessLog>> {
    if field.is_off() {
        return Some(None);
    }
    let section = field.section_if_on(&KEYS)?;
    Some(Some(AccessLog {
        path: section.or("path", LogTarget::Stdout, target),
        format: section.or("format", AccessLogFormat::Json, |field| field.word("format", &FORMATS)),
    }))
}

fn target(field: &Field<'_>) -> Option<LogTarget> {
    let base = field.context().base();
    field.scalar("stdout or the path of a file", |text| match text {
        "stdout" => Ok(LogTarget::Stdout),
        _ => file_path(text, base).map(LogTarget::File),
    })
}

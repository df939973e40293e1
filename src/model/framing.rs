//! The header fields that whoever sends a message sets.

use http::{HeaderName, header};

/// The fields that frame a message or belong to one connection.
const FRAMING: [HeaderName; 6] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
const FRAMING_TOO: [&str; 2] = ["keep-alive", "proxy-connection"];

/// Whether the field `name` frames a message or belongs to one connection; such a field is not for a
/// configuration or a filter to set.
pub(crate) fn frames_message(name: &HeaderName) -> bool {
    FRAMING.contains(name) || FRAMING_TOO.contains(&name.as_str())
}

//! Kinds of content, as settings name them.

use crate::filter::SettingsError;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

const EXPECTED: &str =
    "a media type without parameters, such as text/html, text/* or application/*+json";

/// What is compressed by default: text in its many forms, and the binary formats that are not
/// compressed themselves.
pub(super) const DEFAULT: [&str; 14] = [
    "text/*",
    "application/json",
    "application/*+json",
    "application/x-ndjson",
    "application/javascript",
    "application/x-javascript",
    "application/xml",
    "application/*+xml",
    "application/wasm",
    "application/vnd.ms-fontobject",
    "font/otf",
    "font/ttf",
    "image/svg+xml",
    "image/x-icon",
];

/// Streams of messages that somebody waits for, each of which has a form of its own.
const NEVER: [&str; 2] = ["text/event-stream", "application/grpc"];

/// Whether content of this type is never compressed.
pub(super) fn is_never_compressed(content_type: &str) -> bool {
    let essence = essence(content_type);
    // gRPC has its own compression, and its kinds a suffix each: grpc+proto, grpc-web.
    NEVER
        .iter()
        .any(|never| essence.get(..never.len()).is_some_and(|e| e.eq_ignore_ascii_case(never)))
}

/// A media type without its parameters.
fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or("").trim()
}

/// One entry of `types`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct MediaRange {
    /// `text` of `text/html`; `None` for any.
    main: Option<String>,
    subtype: Subtype,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subtype {
    Any,
    One(String),
    /// Those that end so: `+json`.
    Suffix(String),
}

impl MediaRange {
    /// Whether content of this type, parameters and all, is meant.
    pub(super) fn matches(&self, content_type: &str) -> bool {
        let Some((main, subtype)) = essence(content_type).split_once('/') else { return false };
        let is_main = self.main.as_ref().is_none_or(|own| own.eq_ignore_ascii_case(main));
        is_main && self.subtype.matches(subtype)
    }

    fn parse(text: &str) -> Option<Self> {
        let (main, subtype) = text.split_once('/')?;
        let subtype = match subtype.strip_prefix('*') {
            Some("") => Subtype::Any,
            Some(suffix) if suffix.strip_prefix('+').is_some_and(is_token) => {
                Subtype::Suffix(suffix.to_owned())
            }
            None if is_token(subtype) => Subtype::One(subtype.to_owned()),
            _ => return None,
        };
        match main {
            "*" if subtype == Subtype::Any => Some(Self { main: None, subtype }),
            main if is_token(main) => Some(Self { main: Some(main.to_owned()), subtype }),
            _ => None,
        }
    }
}

impl From<MediaRange> for String {
    fn from(range: MediaRange) -> Self {
        let main = range.main.as_deref().unwrap_or("*");
        match range.subtype {
            Subtype::Any => format!("{main}/*"),
            Subtype::One(subtype) => format!("{main}/{subtype}"),
            Subtype::Suffix(suffix) => format!("{main}/*{suffix}"),
        }
    }
}

impl Subtype {
    fn matches(&self, subtype: &str) -> bool {
        match self {
            Self::Any => true,
            Self::One(own) => own.eq_ignore_ascii_case(subtype),
            Self::Suffix(own) => {
                let start = subtype.len().saturating_sub(own.len());
                start > 0 && subtype.get(start..).is_some_and(|end| end.eq_ignore_ascii_case(own))
            }
        }
    }
}

impl TryFrom<String> for MediaRange {
    type Error = SettingsError;

    fn try_from(text: String) -> Result<Self, SettingsError> {
        let found = format!("found {text:?}");
        if is_never_compressed(&text) {
            return Err(SettingsError::new(
                found,
                "no streams of messages, which are never compressed",
            ));
        }
        Self::parse(&text).ok_or_else(|| {
            let error = SettingsError::new(found, EXPECTED);
            match nearest(&text) {
                Some(nearest) => error.suggest(&nearest),
                None => error,
            }
        })
    }
}

impl JsonSchema for MediaRange {
    fn schema_name() -> Cow<'static, str> {
        "MediaRange".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^([*]/[*]|[^*/;, ]+/([*]|[*][+][^*/;, ]+|[^*/;, ]+))$" })
    }
}

/// What was probably meant: without parameters, or with the type that a subtype belongs to.
fn nearest(text: &str) -> Option<String> {
    let plain = essence(text).to_ascii_lowercase();
    if MediaRange::parse(&plain).is_some() {
        return Some(plain);
    }
    let known = DEFAULT.iter().copied().chain(["text/html", "text/css", "text/plain"]);
    known.into_iter().find(|name| name.ends_with(&format!("/{plain}"))).map(str::to_owned)
}

fn is_token(text: &str) -> bool {
    let special = b"!#$&^_.+-";
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || special.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_match_by_type_subtype_or_suffix() {
        for (range, content_type, expected) in [
            ("text/*", "text/html; charset=utf-8", true),
            ("text/*", "TEXT/CSS", true),
            ("text/*", "application/text", false),
            ("application/json", "application/json", true),
            ("application/json", "Application/JSON;charset=utf-8", true),
            ("application/json", "application/json5", false),
            ("application/json", "application/ld+json", false),
            ("application/*+json", "application/ld+json", true),
            ("application/*+json", "application/problem+JSON; q", true),
            ("application/*+json", "application/+json", false),
            ("application/*+json", "application/json", false),
            ("application/*+json", "model/gltf+json", false),
            ("*/*", "image/png", true),
            ("*/*", "nonsense", false),
            ("text/*", "", false),
            ("application/*+json", "application/\u{e9}json", false),
        ] {
            let range = MediaRange::parse(range).unwrap_or_else(|| panic!("{range}"));
            assert_eq!(range.matches(content_type), expected, "{range:?} {content_type}");
        }
    }

    #[test]
    fn what_is_no_range_has_a_suggestion_where_there_is_one() {
        for (text, expected) in [
            ("text/html; charset=utf-8", Some("text/html")),
            ("json", Some("application/json")),
            ("html", Some("text/html")),
            ("text/", None),
            ("*/html", None),
            ("*", Some("text/*")),
            ("text/*html", None),
            ("", None),
            ("a b/c", None),
        ] {
            assert_eq!(MediaRange::parse(text), None, "{text}");
            assert_eq!(nearest(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn the_default_is_valid() {
        for text in DEFAULT {
            assert!(MediaRange::parse(text).is_some(), "{text}");
        }
    }

    #[test]
    fn streams_of_messages_are_left_alone() {
        for never in [
            "text/event-stream",
            "text/event-stream; charset=utf-8",
            "Application/gRPC",
            "application/grpc+proto",
            "application/grpc-web-text",
        ] {
            assert!(is_never_compressed(never), "{never}");
        }
        for other in ["text/html", "application/json", "text/event", ""] {
            assert!(!is_never_compressed(other), "{other}");
        }
    }
}

//! `rewrite`: another path for the backend.

use crate::{
    filter::{
        Answer, Filter, Flow, Reason, Request, Result, SettingsError, Setup,
        settings::{Pattern, Replacement},
    },
    model::{path_to_match, single_slashes},
};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

const CHANGES: &str = "strip_prefix, replace_prefix, or regex with to";

/// What becomes of the path: exactly one of the three. The query stays as it is, and a path that
/// does not match passes unchanged.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// A prefix that is taken off the path, on whole segments: `/api` makes `/api/x` to `/x` and
    /// `/api` to `/`.
    strip_prefix: Option<String>,
    /// A prefix in the place of which another one is put, on whole segments.
    replace_prefix: Option<Prefixes>,
    /// A regular expression. What it matches of the path is replaced by `to`, wherever it matches.
    regex: Option<Pattern>,
    /// What stands in the place of what `regex` matches. `$1` or `${1}` is its first group, `${name}`
    /// the group of that name and `$$` a dollar sign.
    to: Option<Replacement>,
}

/// A prefix and the one that takes its place.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Prefixes {
    /// The prefix of the path.
    from: String,
    /// The prefix in its place.
    to: String,
}

/// Gives the backend another path than the client sent.
#[derive(Debug)]
pub(super) struct Rewrite(Change);

#[derive(Debug)]
enum Change {
    Prefix { from: String, to: String },
    Regex { regex: Pattern, to: Replacement },
}

impl Filter for Rewrite {
    const NAME: &'static str = "rewrite";
    type Settings = Settings;
    const HAS_SIDE_EFFECTS: bool = false;

    fn new(settings: Settings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Change::new(settings).map(Self)
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Result {
        let Some(path) = self.0.apply(&request.path()) else { return Ok(Flow::Continue) };
        let target = match request.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        match request.set_target(target) {
            Ok(()) => Ok(Flow::Continue),
            // What the client sent has become a path that leaves the root.
            Err(_) => Ok(Answer::new(StatusCode::BAD_REQUEST).because(Reason::BadRequest).into()),
        }
    }
}

impl Change {
    fn new(settings: Settings) -> Result<Self, SettingsError> {
        let Settings { strip_prefix, replace_prefix, regex, to } = settings;
        match (strip_prefix, replace_prefix, regex, to) {
            (Some(prefix), None, None, None) => Self::strip(&prefix),
            (None, Some(prefixes), None, None) => Self::replace(prefixes),
            (None, None, Some(regex), Some(to)) => Self::regex(regex, to),
            (None, None, Some(_), None) => {
                Err(SettingsError::new("\"regex\" without \"to\"", "both").at("regex"))
            }
            (None, None, None, Some(_)) => {
                Err(SettingsError::new("\"to\" without \"regex\"", "both").at("to"))
            }
            (None, None, None, None) => Err(SettingsError::new("no change", CHANGES)),
            _ => {
                let expected = format!("only one of {CHANGES}");
                Err(SettingsError::new("more than one change", expected))
            }
        }
    }

    fn strip(prefix: &str) -> Result<Self, SettingsError> {
        let error = |error: SettingsError| error.at("strip_prefix");
        let prefix = prefix_of(prefix).map_err(error)?;
        if prefix == "/" {
            return Err(error(SettingsError::new("found \"/\"", "a prefix that is more than /")));
        }
        Ok(Self::Prefix { from: prefix, to: "/".to_owned() })
    }

    fn replace(Prefixes { from, to }: Prefixes) -> Result<Self, SettingsError> {
        let from = prefix_of(&from).map_err(|error| error.at("replace_prefix.from"))?;
        check_path(&to).map_err(|error| error.at("replace_prefix.to"))?;
        Ok(Self::Prefix { from, to })
    }

    fn regex(regex: Pattern, to: Replacement) -> Result<Self, SettingsError> {
        to.check(&regex).map_err(|error| error.at("to"))?;
        if let Some(text) = to.texts().find(|text| !is_path_text(text)) {
            return Err(not_a_path(text).at("to"));
        }
        Ok(Self::Regex { regex, to })
    }

    /// The new path; `None` if the old one does not match.
    fn apply(&self, path: &str) -> Option<String> {
        match self {
            Self::Prefix { from, to } => below(path, from).map(|rest| joined(to, rest)),
            // `*` is no path but stands for the server as a whole.
            Self::Regex { .. } if path == "*" => None,
            Self::Regex { regex, to } => {
                // As a route's `path_regex` has it, whose path this is.
                let path = single_slashes(path);
                if !regex.is_match(&path) {
                    return None;
                }
                let path = regex.replace_all(&path, to);
                Some(if path.starts_with('/') { path.into_owned() } else { format!("/{path}") })
            }
        }
    }
}

/// What follows `prefix` in `path`, on whole segments as in a route's `path_prefix`, and with several
/// slashes in a row as one.
fn below<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let mut rest = path;
    let mut segments = prefix.split('/');
    rest = rest.strip_prefix(segments.next()?)?;
    for segment in segments {
        rest = rest.strip_prefix('/')?.trim_start_matches('/').strip_prefix(segment)?;
    }
    (rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/')).then_some(rest)
}

/// A prefix and what follows it, with one slash between them.
fn joined(prefix: &str, rest: &str) -> String {
    match (prefix.strip_suffix('/'), rest.starts_with('/')) {
        (Some(bare), true) => format!("{bare}{rest}"),
        (None, false) if !rest.is_empty() => format!("{prefix}/{rest}"),
        _ => format!("{prefix}{rest}"),
    }
}

/// A prefix in the form of requests' paths.
fn prefix_of(text: &str) -> Result<String, SettingsError> {
    check_path(text)?;
    let expected = "a path in which % is followed by two hexadecimal digits";
    path_to_match(text).map_err(|_| SettingsError::new(format!("found {text:?}"), expected))
}

fn check_path(text: &str) -> Result<(), SettingsError> {
    if !text.starts_with('/') || !is_path_text(text) {
        return Err(not_a_path(text));
    }
    if text.split('/').any(|segment| segment == "." || segment == "..") {
        // Paths are rewritten in their normal form, which has none of these.
        return Err(SettingsError::new(
            format!("found {text:?}"),
            "a path without . and .. as segments",
        ));
    }
    Ok(())
}

fn not_a_path(text: &str) -> SettingsError {
    let expected = if text.starts_with('/') { "" } else { "a path that starts with /, " };
    let expected = format!("{expected}visible ASCII without ? and #; the query stays as it is");
    SettingsError::new(format!("found {text:?}"), expected)
}

/// Whether a path may have this in it.
fn is_path_text(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(from: &str, to: &str) -> Change {
        Change::Prefix { from: from.to_owned(), to: to.to_owned() }
    }

    #[test]
    fn prefixes_are_whole_segments() {
        for (from, to, path, expected) in [
            ("/api", "/", "/api/x", Some("/x")),
            ("/api", "/", "/api", Some("/")),
            ("/api", "/", "/api/", Some("/")),
            ("/api", "/", "/api//x", Some("//x")),
            ("/api", "/", "/apis", None),
            ("/api", "/", "/API/x", None),
            ("/api", "/", "/x/api", None),
            ("/api", "/", "*", None),
            ("/api/", "/", "/api/x", Some("/x")),
            ("/api/", "/", "/api/", Some("/")),
            ("/api/", "/", "/api", None),
            ("/a", "/b", "/a/x", Some("/b/x")),
            ("/a", "/b", "/a", Some("/b")),
            ("/a", "/b/", "/a", Some("/b/")),
            ("/a", "/b/", "/a/x", Some("/b/x")),
            ("/a/", "/b", "/a/x", Some("/b/x")),
            ("/a/", "/b", "/a/", Some("/b")),
            ("/", "/b", "/", Some("/b")),
            ("/", "/b", "/x", Some("/b/x")),
            ("/", "/b/", "/x", Some("/b/x")),
            ("/", "/b", "*", None),
            ("/a/b", "/", "//a///b//c", Some("//c")),
            ("/a/", "/", "/a///x", Some("/x")),
            ("/a", "/b", "//ax", None),
        ] {
            let change = prefix(from, to);
            assert_eq!(change.apply(path).as_deref(), expected, "{change:?} of {path}");
        }
    }
}

//! What is wrong with a value, in the one shape that all messages have.

use std::{error::Error, fmt};

/// The longest piece of a value that a message repeats, in characters.
const MAX_QUOTED: usize = 60;
/// The most names that a message lists.
const MAX_LISTED: usize = 16;

/// A place in the file: both numbers start at 1, columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

/// What was found, what was expected instead and, if there is one close by, the nearest valid
/// spelling. Every message about a configuration or a flag has this shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What was found.
    pub found: String,
    /// What is valid in its place.
    pub expected: String,
    /// A valid spelling close to what was found.
    pub nearest: Option<String>,
}

impl Fault {
    /// A fault without a nearest spelling.
    pub fn new(found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { found: found.into(), expected: expected.into(), nearest: None }
    }

    /// The fault with a nearest spelling.
    #[must_use]
    pub fn with_nearest(mut self, nearest: Option<String>) -> Self {
        self.nearest = nearest;
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; expected {}", self.found, self.expected)?;
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean {}?", quote(nearest)),
            None => Ok(()),
        }
    }
}

impl Error for Fault {}

/// `text` with its control characters escaped.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// `text` in quotes, on one line, cut when it is long.
pub(crate) fn quote(text: &str) -> String {
    let cut = text.char_indices().nth(MAX_QUOTED).map(|(end, _)| &text[..end]);
    let rest = if cut.is_some() { "..." } else { "" };
    let shown = one_line(cut.unwrap_or(text)).replace('"', "\\\"");
    format!("\"{shown}{rest}\"")
}

/// `a, b or c`; a long list is cut.
pub(crate) fn alternatives<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    if names.len() > MAX_LISTED {
        let rest = names.len() - MAX_LISTED;
        return format!("{} or {rest} more", names[..MAX_LISTED].join(", "));
    }
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// The candidate whose spelling is closest to `found`, if any is close enough to be meant: at most
/// a third of its letters differ. Case, and `-` for `_`, do not count.
pub(crate) fn nearest<'n>(
    found: &str,
    candidates: impl IntoIterator<Item = &'n str>,
) -> Option<String> {
    let found = plain(found);
    let distance = |candidate: &str| {
        let candidate = plain(candidate);
        let limit = (candidate.chars().count() / 3).max(1);
        if found.len().abs_diff(candidate.len()) > 4 * limit {
            // Four bytes a letter at most: too long to be close, and perhaps too long to compare.
            return None;
        }
        let distance = strsim::damerau_levenshtein(&found, &candidate);
        (distance <= limit).then_some(distance)
    };
    candidates
        .into_iter()
        .filter_map(|candidate| Some((distance(candidate)?, candidate)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.to_owned())
}

fn plain(text: &str) -> String {
    text.trim().to_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_what_is_close() {
        let keys = ["listeners", "routes", "pools", "health_check", "to"];
        for (found, expected) in [
            ("listner", Some("listeners")),
            ("Pools", Some("pools")),
            ("health-check", Some("health_check")),
            ("healthCheck", Some("health_check")),
            ("tp", Some("to")),
            ("filters", None),
            ("admin", None),
            ("tls", None),
            ("on", None),
            ("", None),
        ] {
            assert_eq!(nearest(found, keys).as_deref(), expected, "{found}");
        }
    }

    #[test]
    fn quotes_on_one_short_line() {
        assert_eq!(quote("a\"b\nc"), "\"a\\\"b\\nc\"");
        assert_eq!(quote(&"x".repeat(100)).len(), 65);
    }

    #[test]
    fn lists_alternatives() {
        assert_eq!(alternatives(["a"]), "a");
        assert_eq!(alternatives(["a", "b", "c"]), "a, b or c");
        assert_eq!(alternatives([]), "");
        assert!(alternatives(vec!["x"; 20]).ends_with(" or 4 more"));
    }
}

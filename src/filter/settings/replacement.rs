//! What stands in the place of what a regular expression matches.

use super::{
    Pattern,
    read::TEMPLATE,
    types::{FromText, TextVisitor},
};
use crate::{
    filter::SettingsError,
    model::{
        Fault,
        fault::{alternatives, nearest, quote},
        scalar,
    },
};
use regex::{Captures, Regex, Replacer};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer};
use std::{borrow::Cow, marker::PhantomData};

/// What stands in the place of what a [`Pattern`] matches: a text with groups of the expression in
/// it, `$1` or `${1}` by number and `$name` or `${name}` by name. `$$` is a dollar sign.
///
/// It is a `regex::Replacer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The number or the name of a group.
    Group(String),
}

impl Replacement {
    /// Whether every group that it names is one of `pattern`.
    ///
    /// # Errors
    /// About the first that is not.
    pub fn check(&self, pattern: &Pattern) -> Result<(), SettingsError> {
        let known = groups(&pattern.0);
        let names = || known.iter().map(String::as_str);
        let unknown = self.0.iter().find_map(|part| match part {
            Part::Group(name) if !known.contains(name) => Some(name),
            Part::Group(_) | Part::Text(_) => None,
        });
        let Some(name) = unknown else { return Ok(()) };
        let expected = format!("a group of the expression: {}", alternatives(names()));
        let fault = Fault::new(format!("unknown group {}", quote(name)), expected);
        // Which number is closest says nothing.
        let nearest = nearest(name, names()).filter(|_| name.parse::<usize>().is_err());
        Err(fault.with_nearest(nearest).into())
    }

    /// What stands in it beside the groups.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Group(_) => None,
        })
    }
}

/// The numbers and names of an expression's groups; 0 is the whole match.
fn groups(regex: &Regex) -> Vec<String> {
    let numbers = (0..regex.captures_len()).map(|number| number.to_string());
    numbers.chain(regex.capture_names().flatten().map(str::to_owned)).collect()
}

impl Replacer for &Replacement {
    fn replace_append(&mut self, captures: &Captures<'_>, text: &mut String) {
        for part in &self.0 {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Group(name) => text.push_str(group(captures, name)),
            }
        }
    }
}

/// What a group has matched; empty if it did not take part.
fn group<'t>(captures: &Captures<'t>, name: &str) -> &'t str {
    let found = match name.parse::<usize>() {
        Ok(number) => captures.get(number),
        Err(_) => captures.name(name),
    };
    found.map_or("", |found| found.as_str())
}

impl FromText for Replacement {
    const EXPECTED: &'static str = "a text, in which $1 and the like may stand";

    fn schema() -> Schema {
        json_schema!({ "type": "string" })
    }

    fn from_text(text: &str) -> Result<Self, scalar::Hint> {
        let mut parts = Parts::default();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            parts.text.push_str(before);
            rest = parts.take_dollar(after).ok_or_else(unclosed)?;
        }
        parts.text.push_str(rest);
        parts.end_text();
        Ok(Self(parts.done))
    }
}

fn unclosed() -> scalar::Hint {
    scalar::Hint {
        found: Some("${ without its }".to_owned()),
        ..scalar::Hint::expected("${1} or ${name}, or $$ for a dollar sign")
    }
}

/// The parts so far, and the text that is not one yet.
#[derive(Default)]
struct Parts {
    done: Vec<Part>,
    text: String,
}

impl Parts {
    /// Takes what a dollar sign begins; `rest` follows it. What is left is returned.
    fn take_dollar<'t>(&mut self, rest: &'t str) -> Option<&'t str> {
        if let Some(after) = rest.strip_prefix('$') {
            self.text.push('$');
            return Some(after);
        }
        if let Some(braced) = rest.strip_prefix('{') {
            let (name, after) = braced.split_once('}')?;
            self.take_group(name);
            return Some(after);
        }
        let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = rest.find(|c| !in_name(c)).unwrap_or(rest.len());
        if end == 0 {
            self.text.push('$');
        } else {
            self.take_group(&rest[..end]);
        }
        Some(&rest[end..])
    }

    fn take_group(&mut self, name: &str) {
        self.end_text();
        self.done.push(Part::Group(name.to_owned()));
    }

    fn end_text(&mut self) {
        if !self.text.is_empty() {
            self.done.push(Part::Text(std::mem::take(&mut self.text)));
        }
    }
}

impl<'de> Deserialize<'de> for Replacement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(TEMPLATE, TextVisitor(PhantomData))
    }
}

impl JsonSchema for Replacement {
    fn schema_name() -> Cow<'static, str> {
        "Replacement".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        <Self as FromText>::schema()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replacement(text: &str) -> Replacement {
        Replacement::from_text(text).unwrap_or_else(|hint| panic!("{}", hint.fault(text, "")))
    }

    fn pattern(text: &str) -> Pattern {
        Pattern(Regex::new(text).unwrap())
    }

    #[test]
    fn groups_stand_by_number_and_by_name() {
        let pattern = pattern("^/(?<kind>[a-z]+)/([0-9]+)(x)?$");
        for (to, expected) in [
            ("/$2/$1", "/7/user"),
            ("/${kind}s/$2", "/users/7"),
            ("/$kind-${2}0", "/user-70"),
            ("/$0$0", "//user/7/user/7"),
            ("[$3]", "[]"),
            ("/$$1/$-$", "/$1/$-$"),
            ("", ""),
        ] {
            let to = replacement(to);
            assert_eq!(to.check(&pattern), Ok(()));
            assert_eq!(pattern.replace_all("/user/7", &to), expected, "{to:?}");
        }
    }

    #[test]
    fn a_group_that_is_not_there_is_named() {
        let pattern = pattern("(?<kind>a)(b)");
        let said = |to: &str| replacement(to).check(&pattern).unwrap_err().to_string();
        assert_eq!(
            said("$3"),
            "unknown group \"3\"; expected a group of the expression: 0, 1, 2 or kind"
        );
        assert_eq!(
            said("/$1x"),
            "unknown group \"1x\"; expected a group of the expression: 0, 1, 2 or kind; \
             did you mean \"1\"?"
        );
        assert_eq!(
            said("${kinds}"),
            "unknown group \"kinds\"; expected a group of the expression: 0, 1, 2 or kind; \
             did you mean \"kind\"?"
        );
        assert!(Replacement::from_text("${1").is_err());
    }

    #[test]
    fn texts_are_what_stands_beside_the_groups() {
        let to = replacement("/a/$1$$b");
        assert_eq!(to.texts().collect::<Vec<_>>(), ["/a/", "$b"]);
    }
}

//! YAML text as a tree of scalars, lists and maps that know where they stand.
//!
//! Scalars stay texts: whether `off`, `503` or `1e3` is a switch, a number or a name is for the key
//! that takes it to say, not for YAML's guess.

use super::diagnostic::{Fault, Position, quote};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned, budget::BudgetBreach, options::AliasLimits};
use std::fmt;

/// The most scalars, lists and maps in a file: several times what 10,000 routes need.
const MAX_NODES: usize = 1_000_000;
/// How deep lists and maps may nest, the file itself included. Configurations nest six deep; each
/// level takes some 30 KiB of stack in a debug build, and threads may have as little as 2 MiB.
const MAX_DEPTH: usize = 16;
/// The most parser events that aliases may repeat, so that a small file stays a small tree.
const MAX_REPLAYED: usize = 100_000;

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) position: Position,
    pub(super) value: Value,
}

/// A value as YAML structures it.
#[derive(Debug)]
pub(super) enum Value {
    Null,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a map with its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) position: Position,
    pub(super) node: Node,
}

/// A text that is not YAML, or not the part of YAML we take.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) position: Option<Position>,
    pub(super) fault: Fault,
}

/// Reads the one document in `text`.
pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    // Byte positions count from after a byte order mark, so it goes first.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options())
        .map(|raw| node(raw, text))
        .map_err(|error| syntax_error(&error))
}

fn options() -> serde_saphyr::Options {
    let mut aliases = AliasLimits::default();
    aliases.max_total_replayed_events = MAX_REPLAYED;
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_depth: MAX_DEPTH,
        },
        alias_limits: aliases,
        // A tag would ask for a type that we do not give.
        reject_unsupported_tags: true,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    }
}

fn position(location: Location) -> Position {
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).max(1);
    Position { line: number(location.line()), column: number(location.column()) }
}

fn syntax_error(error: &serde_saphyr::Error) -> SyntaxError {
    use serde_saphyr::Error;
    let error = error.without_snippet();
    let location = error.location().filter(|location| location.line() > 0);
    let fault = match error {
        Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().map_or_else(String::new, |key| format!(" {}", quote(key)));
            Fault::new(format!("duplicate key{key}"), "each key once")
        }
        Error::MultipleDocuments { .. } => Fault::new("a second document", "one YAML document"),
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            Fault::new("lists and maps nested too deep", format!("at most {MAX_DEPTH} levels"))
        }
        Error::Budget { .. } => Fault::new(syntax_message(error), "a smaller file"),
        _ => Fault::new(syntax_message(error), "valid YAML"),
    };
    SyntaxError { position: location.map(position), fault }
}

/// The library's message up to the position, which the diagnostic gives already.
fn syntax_message(error: &serde_saphyr::Error) -> String {
    let message = error.to_string();
    let first = message.lines().next().unwrap_or("unreadable text");
    first.split(" at line ").next().unwrap_or(first).to_owned()
}

/// What the library hands us. `Guessed` is a plain scalar in which it saw another type than text;
/// its spelling is then taken from the source.
enum Raw {
    Null,
    Text(String),
    Guessed(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn node(raw: Spanned<Raw>, text: &str) -> Node {
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(scalar) => Value::Scalar(scalar),
        Raw::Guessed(guess) => {
            Value::Scalar(spelling(raw.defined, text).map_or(guess, str::to_owned))
        }
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(item, text)).collect()),
        Raw::Map(entries) => {
            Value::Map(entries.into_iter().map(|(key, value)| entry(key, value, text)).collect())
        }
    };
    Node { position: position(raw.referenced), value }
}

fn entry(key: Spanned<String>, value: Spanned<Raw>, text: &str) -> Entry {
    Entry { position: position(key.referenced), key: key.value, node: node(value, text) }
}

/// A plain scalar as it is written. `None` when its bytes are not known, or are not the scalar's
/// alone because it is quoted and tagged.
fn spelling(location: Location, text: &str) -> Option<&str> {
    let span = location.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let length = usize::try_from(span.byte_len()?).ok()?;
    let spelling = text.get(start..start.checked_add(length)?)?.trim();
    let quoted = spelling.starts_with(['"', '\'', '|', '>', '!', '&', '*']);
    (!quoted && !spelling.is_empty()).then_some(spelling)
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a list or a map")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Guessed(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Guessed(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Guessed(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Guessed(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Guessed(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Guessed(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(Self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    fn scalars(text: &str) -> Vec<String> {
        fn collect(node: &Node, found: &mut Vec<String>) {
            match &node.value {
                Value::Null => found.push("<null>".to_owned()),
                Value::Scalar(scalar) => found.push(scalar.clone()),
                Value::List(items) => items.iter().for_each(|item| collect(item, found)),
                Value::Map(entries) => entries.iter().for_each(|entry| collect(&entry.node, found)),
            }
        }
        let mut found = Vec::new();
        collect(&parse(text).unwrap(), &mut found);
        found
    }

    fn error(text: &str) -> String {
        let error = parse(text).unwrap_err();
        let position = error.position.map_or((0, 0), |at| (at.line, at.column));
        format!("{}:{}: {}", position.0, position.1, error.fault)
    }

    #[test]
    fn scalars_keep_their_spelling() {
        let text = "[x, '12', off, 0x10, 1_000, 007, 1e3, .inf, 1e999, -5, True, 1.50, \"on\"]";
        let expected = "x 12 off 0x10 1_000 007 1e3 .inf 1e999 -5 True 1.50 on";
        assert_eq!(scalars(text).join(" "), expected);
        assert_eq!(scalars("\u{feff}a: 1.50\n"), ["1.50"]);
        assert_eq!(scalars("é: [ü, 1.50]\nb: !!int \"12\"\n"), ["ü", "1.50", "12"]);
        assert_eq!(
            scalars("99999999999999999999999999999999999999999999"),
            ["99999999999999999999999999999999999999999999"]
        );
    }

    #[test]
    fn scalars_keep_their_spelling_through_aliases_and_merges() {
        let text = "a: &a {n: 1.50}\nb: *a\nc:\n  <<: *a\n";
        assert_eq!(scalars(text), ["1.50", "1.50", "1.50"]);
    }

    #[test]
    fn only_null_is_null() {
        assert_eq!(scalars("[~, null, '', \"~\", 'null']"), ["<null>", "<null>", "", "~", "null"]);
    }

    #[test]
    fn syntax_errors_are_placed_and_stand_alone() {
        for (text, expected) in [
            ("a: 1\na: 2\n", "2:1: duplicate key \"a\"; expected each key once"),
            ("---\na: 1\n---\nb: 2\n", "4:1: a second document; expected one YAML document"),
            ("a: [1\nb: 2", "2:2: illegal placement of ':' indicator; expected valid YAML"),
            (
                &nested("[", "]", 17),
                "1:17: lists and maps nested too deep; expected at most 16 levels",
            ),
            ("a: *b", "1:4: alias references unknown anchor; expected valid YAML"),
        ] {
            assert_eq!(error(text), expected, "{text}");
        }
        assert!(error("a: !foo bar").starts_with("1:9: "), "{}", error("a: !foo bar"));
    }

    fn nested(open: &str, close: &str, depth: usize) -> String {
        format!("{}x{}", open.repeat(depth), close.repeat(depth))
    }

    #[test]
    fn alias_bombs_and_deep_nesting_are_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let alias = format!("*a{}, ", level - 1).repeat(10);
            writeln!(bomb, "a{level}: &a{level} [{alias}]").unwrap();
        }
        assert!(parse(&bomb).is_err());
        for depth in [15, 16, 17, 30, 100, 1000, 100_000] {
            assert_eq!(parse(&nested("[", "]", depth)).is_ok(), depth <= 16, "{depth}");
            assert_eq!(parse(&nested("{a: ", "}", depth)).is_ok(), depth <= 16, "{depth}");
            assert_eq!(parse(&nested("- ", "", depth)).is_ok(), depth <= 16, "{depth}");
            assert!(parse(&"[".repeat(depth)).is_err(), "{depth}");
        }
    }

    #[test]
    fn aliases_do_not_nest_deeper_than_the_text_may() {
        for depth in [5, 16, 17, 60, 2000] {
            let mut chain = String::from("a0: &a0 x\n");
            for level in 1..depth {
                writeln!(chain, "a{level}: &a{level} [*a{}]", level - 1).unwrap();
            }
            assert_eq!(parse(&chain).is_ok(), depth <= 16, "{depth}");
        }
    }
}

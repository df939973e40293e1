//! YAML text as a tree of scalars, lists and maps that know where they stand.
//!
//! Scalars stay texts: whether `off`, `503` or `1e3` is a switch, a number or a name is for the key
//! that takes it to say, not for YAML's guess.

use super::diagnostic::{Fault, Position, quote};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{
    Location, Spanned, Tagged,
    budget::BudgetBreach,
    options::{AliasLimits, MergeKeyPolicy},
};
use std::{collections::HashSet, fmt};

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
    let raw = serde_saphyr::from_str_with_options::<Placed>(text, options());
    node(raw.map_err(|error| syntax_error(&error, text))?, text)
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
        ignore_binary_tag_for_string: true,
        // We merge ourselves, so that two merge keys in a map are as much of a duplicate as any two.
        merge_keys: MergeKeyPolicy::AsOrdinary,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    }
}

fn position(location: Location) -> Position {
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).max(1);
    Position { line: number(location.line()), column: number(location.column()) }
}

fn syntax_error(error: &serde_saphyr::Error, text: &str) -> SyntaxError {
    use serde_saphyr::Error;
    let error = error.without_snippet();
    let location = error.location().filter(|location| location.line() > 0);
    let fault = match error {
        Error::DuplicateMappingKey { key, .. } => duplicate_key(key.as_deref().unwrap_or_default()),
        Error::UnsupportedTag { tag, .. } => unknown_tag(tag),
        Error::RecursiveReferencesRequireWeakTypes { .. } => inside_of_itself(),
        Error::MultipleDocuments { .. } => Fault::new("a second document", "one YAML document"),
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            Fault::new("lists and maps nested too deep", format!("at most {MAX_DEPTH} levels"))
        }
        Error::Budget { .. } => Fault::new(syntax_message(error), "a smaller file"),
        _ if location.is_some_and(|location| has_bare_variable(line(text, location))) => {
            Fault::new(
                syntax_message(error),
                "valid YAML, in which ${...} stands in quotes inside of {} and []",
            )
        }
        _ => Fault::new(syntax_message(error), "valid YAML"),
    };
    SyntaxError { position: location.map(position), fault }
}

fn duplicate_key(key: &str) -> Fault {
    Fault::new(format!("duplicate key {}", quote(key)), "each key once")
}

fn unknown_tag(tag: &str) -> Fault {
    let tag = tag.replace("tag:yaml.org,2002:", "!!");
    Fault::new(format!("unknown tag {}", quote(&tag)), "a value without a tag")
}

fn inside_of_itself() -> Fault {
    Fault::new("an alias inside of what it stands for", "an alias of something else")
}

fn line(text: &str, location: Location) -> &str {
    let index = usize::try_from(location.line()).unwrap_or(usize::MAX).saturating_sub(1);
    text.lines().nth(index).unwrap_or_default()
}

/// Whether a `${` stands in a line outside of quotes, where its brace is one of YAML's in a map or list
/// in one line.
fn has_bare_variable(line: &str) -> bool {
    let mut quote = None;
    let mut before = ' ';
    for c in line.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            None if before == '$' && c == '{' => return true,
            // Within a word it is an apostrophe.
            None if ['\'', '"'].contains(&c) && !before.is_alphanumeric() => quote = Some(c),
            _ => {}
        }
        before = c;
    }
    false
}

/// The library's message up to the position, which the diagnostic gives already.
fn syntax_message(error: &serde_saphyr::Error) -> String {
    let message = error.to_string();
    let first = message.lines().next().unwrap_or("unreadable text");
    first.split(" at line ").next().unwrap_or(first).to_owned()
}

/// A value with its place and its tag.
type Placed = Spanned<Tagged<Raw>>;

/// What the library hands us. `Guessed` is a plain scalar in which it saw another type than text;
/// its spelling is then taken from the source.
enum Raw {
    Null,
    Text(String),
    Guessed(String),
    List(Vec<Placed>),
    Map(Vec<(Placed, Placed)>),
}

fn node(raw: Placed, text: &str) -> Result<Node, SyntaxError> {
    let at = position(raw.referenced);
    let Tagged(value, tag) = raw.value;
    // The library would read it, as bytes.
    if let Some(tag) = tag.filter(|tag| tag.ends_with("binary")) {
        return Err(SyntaxError { position: Some(at), fault: unknown_tag(&tag) });
    }
    let value = match value {
        Raw::Null => Value::Null,
        Raw::Text(scalar) => Value::Scalar(scalar),
        Raw::Guessed(guess) => {
            Value::Scalar(spelling(raw.defined, text).map_or(guess, str::to_owned))
        }
        Raw::List(items) => {
            let items = items.into_iter().map(|item| node(item, text));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        Raw::Map(entries) => Value::Map(map(entries, text)?),
    };
    Ok(Node { position: at, value })
}

/// The entries of a map: its own, and then those of the maps that it merges and has not itself. The
/// library compares keys by their types, so that a number and the same in quotes are two to it.
fn map(raw: Vec<(Placed, Placed)>, text: &str) -> Result<Vec<Entry>, SyntaxError> {
    let mut entries = Vec::with_capacity(raw.len());
    let mut merged = Vec::new();
    let mut seen = HashSet::with_capacity(raw.len());
    for (key, value) in raw {
        let is_merge_key = is_merge(&key, text);
        let entry = entry(key, value, text)?;
        if !seen.insert(entry.key.clone()) {
            let fault = duplicate_key(&entry.key);
            return Err(SyntaxError { position: Some(entry.position), fault });
        }
        if is_merge_key {
            merged.extend(maps_of(entry)?);
        } else {
            entries.push(entry);
        }
    }
    for entry in merged {
        if seen.insert(entry.key.clone()) {
            entries.push(entry);
        }
    }
    Ok(entries)
}

/// Whether this is YAML's merge key, rather than a text in quotes that looks like it.
fn is_merge(key: &Placed, text: &str) -> bool {
    let Tagged(Raw::Text(value), _) = &key.value else { return false };
    value == "<<" && spelling(key.defined, text).is_some()
}

/// The entries of the map, or the list of maps, that a merge key has.
fn maps_of(entry: Entry) -> Result<Vec<Entry>, SyntaxError> {
    let (key, position) = (entry.key, entry.position);
    let wrong = || SyntaxError {
        position: Some(position),
        fault: Fault::new(format!("{} of what is no map", quote(&key)), "a map, or a list of maps"),
    };
    match entry.node.value {
        Value::Map(entries) => Ok(entries),
        Value::List(items) => {
            let entries = items.into_iter().map(|item| match item.value {
                Value::Map(entries) => Ok(entries),
                _ => Err(wrong()),
            });
            Ok(entries.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        }
        Value::Null | Value::Scalar(_) => Err(wrong()),
    }
}

fn entry(key: Placed, value: Placed, text: &str) -> Result<Entry, SyntaxError> {
    let Node { position, value: name } = node(key, text)?;
    let found = match name {
        Value::Scalar(key) => return Ok(Entry { position, key, node: node(value, text)? }),
        Value::Null => "null as a key",
        Value::List(_) => "a list as a key",
        Value::Map(_) => "a map as a key",
    };
    Err(SyntaxError { position: Some(position), fault: Fault::new(found, "a text as a key") })
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
    }

    #[test]
    fn tags_of_types_that_we_do_not_give_are_unknown() {
        for (text, tag) in [
            ("a: !foo bar", "!foo"),
            ("a: !!binary NXM=", "!!binary"),
            ("a: !!binary {}", "!!binary"),
        ] {
            let error = error(text);
            let expected = format!("unknown tag \"{tag}\"; expected a value without a tag");
            assert!(error.starts_with("1:") && error.ends_with(&expected), "{error}");
        }
    }

    #[test]
    fn keys_are_texts_and_occur_once_however_they_are_spelled() {
        for (text, expected) in [
            ("{5: a, \"5\": b}", "1:8: duplicate key \"5\"; expected each key once"),
            ("'404': a\n404: b", "2:1: duplicate key \"404\"; expected each key once"),
            ("on: a\n\"on\": b", "2:1: duplicate key \"on\"; expected each key once"),
            (
                "a: &a {x: 1}\nb: &b {y: 1}\nc:\n  <<: *a\n  <<: *b\n",
                "5:3: duplicate key \"<<\"; expected each key once",
            ),
            ("~: a", "1:1: null as a key; expected a text as a key"),
            ("? [a, b]\n: c", "1:3: a list as a key; expected a text as a key"),
            ("<<: a", "1:1: \"<<\" of what is no map; expected a map, or a list of maps"),
            ("<<: [{a: b}, c]", "1:1: \"<<\" of what is no map; expected a map, or a list of maps"),
        ] {
            assert_eq!(error(text), expected, "{text}");
        }
        assert_eq!(scalars("a: {on: 1, On: 2, 5: 3, 05: 4}"), ["1", "2", "3", "4"]);
    }

    #[test]
    fn merges_add_what_a_map_has_not_itself() {
        let text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {y: 5, <<: [*a, *b]}\n";
        assert_eq!(scalars(text), ["1", "2", "3", "4", "5", "1", "4"]);
        assert_eq!(scalars("a: {\"<<\": 1}"), ["1"]);
        assert_eq!(scalars("a: &a {5: 1}\nb: {<<: *a, '5': 2}"), ["1", "2"]);
    }

    #[test]
    fn an_alias_inside_of_what_it_stands_for_is_refused() {
        let expected = "an alias inside of what it stands for; expected an alias of something else";
        for (text, place) in
            [("a: &a {b: 1, c: *a}", "1:17"), ("a: &a\n  - *a", "2:5"), ("&a {b: *a}", "1:8")]
        {
            assert_eq!(error(text), format!("{place}: {expected}"), "{text}");
        }
    }

    #[test]
    fn a_variable_without_quotes_in_a_flow_is_told() {
        let told = "in which ${...} stands in quotes inside of {} and []";
        for text in ["a: {b: ${C}}", "a:\n- [${C}, x]", "a: {b: 'x', c: ${C:-1}}"] {
            assert!(error(text).ends_with(told), "{}", error(text));
        }
        for text in ["a: {b: 'it''s ${C}', c: }}", "a: [1\nb: 2", "a: {b: \"${C}\"}}"] {
            assert!(!error(text).ends_with(told), "{}", error(text));
        }
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

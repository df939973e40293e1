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
mod tests;

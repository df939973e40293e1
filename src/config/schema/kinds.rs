//! Kinds of values, and sections made of keys.

use crate::config::reader::Keys;
use serde_json::{Map, Value, json};

/// A key of a section.
pub(super) struct Key {
    name: &'static str,
    schema: Value,
    required: bool,
}

/// A key called `name` that takes what `schema` says.
pub(super) fn key(name: &'static str, mut schema: Value, description: &str) -> Key {
    schema["description"] = json!(description);
    Key { name, schema, required: false }
}

impl Key {
    /// The key with what leaving it out means.
    pub(super) fn default(mut self, value: impl Into<Value>) -> Self {
        self.schema["default"] = value.into();
        self
    }

    /// The key, which must be given.
    pub(super) fn required(mut self) -> Self {
        self.required = true;
        self
    }
}

/// A map with the keys of `names`, each of which is among `keys`.
pub(super) fn section(names: &Keys, keys: Vec<Key>) -> Value {
    debug_assert!(
        names.names.iter().all(|name| keys.iter().any(|key| key.name == *name))
            && keys.len() == names.names.len(),
        "the schema of {} has other keys than its reader",
        names.section
    );
    let required: Vec<&str> = keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    let properties: Map<String, Value> =
        keys.into_iter().map(|key| (key.name.to_owned(), key.schema)).collect();
    let mut section =
        json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if !required.is_empty() {
        section["required"] = json!(required);
    }
    section
}

/// A map of names of the user's to values.
pub(super) fn map_of(schema: &Value) -> Value {
    json!({ "type": "object", "additionalProperties": schema, "minProperties": 1 })
}

/// A list of values, at least `least` of them.
pub(super) fn list_of(schema: &Value, least: u64) -> Value {
    json!({ "type": "array", "items": schema, "minItems": least })
}

/// One of several forms.
pub(super) fn any_of(schemas: &[Value]) -> Value {
    json!({ "anyOf": schemas })
}

/// `off`, or what `schema` says.
pub(super) fn unless_off(schema: Value) -> Value {
    any_of(&[words(&["off"]), json!({ "const": false }), schema])
}

pub(super) fn text() -> Value {
    json!({ "type": "string" })
}

pub(super) fn matching(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}

pub(super) fn regex() -> Value {
    json!({ "type": "string", "format": "regex" })
}

pub(super) fn switch() -> Value {
    json!({ "type": "boolean" })
}

pub(super) fn integer(least: u64, most: u64) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": most })
}

/// A number of which 0 is no limit.
pub(super) fn count() -> Value {
    integer(0, 1_000_000_000)
}

pub(super) fn duration() -> Value {
    matching("^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$")
}

pub(super) fn size() -> Value {
    json!({ "type": "integer", "minimum": 0, "pattern": "^[0-9]+(B|KiB|MiB|GiB)?$" })
}

pub(super) fn percent() -> Value {
    matching(r"^[0-9]+([.][0-9]+)?%$")
}

pub(super) fn words(words: &[&str]) -> Value {
    json!({ "enum": words })
}

/// A text with an environment variable in it.
pub(super) fn variable() -> Value {
    json!({ "type": "string", "pattern": r"\$\{" })
}

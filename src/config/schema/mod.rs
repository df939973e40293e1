//! The JSON Schema of the configuration file, for editors.
//!
//! It is written beside the readers and held to them by tests: each section has exactly the keys
//! that its reader takes, each default is what leaving the key out means, and every example is
//! valid. What the schema lets through may still be an error; what it marks is one.

mod kinds;
mod pools;
mod routes;
pub(super) mod sections;

#[cfg(test)]
mod tests;

use crate::filter::Registry;
use serde_json::{Value, json};

/// The dialect of the schema, which editors know.
const DIALECT: &str = "http://json-schema.org/draft-07/schema#";

/// The JSON Schema of a configuration file whose routes may name these filters.
///
/// ```
/// let filters = pingora_lb::filter::Registry::default();
/// let schema = pingora_lb::config::schema(&filters);
/// assert_eq!(schema["properties"]["server"]["properties"]["threads"]["minimum"], 1);
/// ```
pub fn schema(filters: &Registry) -> Value {
    let mut schema = sections::file(filters);
    loosen(&mut schema);
    schema["$schema"] = json!(DIALECT);
    schema["title"] = json!("pingora-lb configuration");
    schema
}

/// Lets the schema take what the file may hold in the place of any single value: a text with
/// environment variables in it, and for the rest of the scalars, the same in quotes.
fn loosen(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            for (key, value) in object.iter_mut() {
                // A default and an example are values, not schemas.
                if key != "default" && key != "const" && key != "enum" {
                    loosen(value);
                }
            }
            let pattern = object.get("pattern").and_then(Value::as_str);
            if let Some(pattern) = pattern.map(|pattern| format!(r"{pattern}|\$\{{")) {
                // What has to look like something is no number.
                object.insert("pattern".to_owned(), pattern.into());
                if object["type"] == "string" {
                    return;
                }
            }
            if let Some(Value::Array(mut words)) = object.remove("enum") {
                let numbers = words.iter().filter(|word| word.is_number());
                let quoted: Vec<Value> = numbers.map(|word| word.to_string().into()).collect();
                words.extend(quoted);
                object.remove("type");
                object.insert("anyOf".to_owned(), json!([{ "enum": words }, kinds::variable()]));
            }
            if let Some(kind) = object.get_mut("type") {
                *kind = loose(kind);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(loosen),
        _ => {}
    }
}

/// The JSON types that a scalar of a type may have in the file.
fn loose(kind: &Value) -> Value {
    if let Some(kinds) = kind.as_array() {
        // Of a filter's key that may be left out, which is another thing than null.
        let kinds: Vec<&Value> = kinds.iter().filter(|kind| *kind != "null").collect();
        return if let [kind] = kinds[..] { loose(kind) } else { json!(kinds) };
    }
    match kind.as_str() {
        Some("string") => json!(["string", "number", "boolean"]),
        Some("integer" | "number" | "boolean") => json!([kind, "string"]),
        _ => kind.clone(),
    }
}

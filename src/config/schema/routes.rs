//! Routes, and the filters on them.

use super::{
    kinds::{
        any_of, duration, integer, key, list_of, map_of, matching, regex, section, switch, text,
    },
    sections::{fields, status},
};
use crate::{
    config::{action, matches, route},
    filter::Registry,
};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

pub(super) fn route(filters: &Registry) -> Value {
    let mut route = section(
        &route::KEYS,
        vec![
            key("name", text(), "Appears in the access log. Default: route-1, route-2, ..."),
            key("listeners", list_of(&text(), 1), "The listeners it applies to. Default: all."),
            key("match", matches(), "The conditions, all of which must hold."),
            key(
                "filters",
                list_of(&filter(filters), 0),
                "The steps that its requests and their responses pass.",
            )
            .default(json!([])),
            key("pool", text(), "The pool that serves the request."),
            key(
                "split",
                map_of(&integer(0, 1_000_000)),
                "Pools with their shares; each request goes to one at random.",
            ),
            key("redirect", redirect(), "Where the client is sent."),
            key("respond", respond(), "The answer, at once."),
            key(
                "timeout",
                duration(),
                "Until the response's headers, retries included. Default: none.",
            ),
            key(
                "allow_upgrade",
                list_of(&text(), 0),
                "The protocols that a connection may change to by an Upgrade field.",
            )
            .default(json!(["websocket"])),
        ],
    );
    let actions = ["pool", "split", "redirect", "respond"];
    let one = actions.map(|action| json!({ "required": [action] }));
    route["oneOf"] = json!(one);
    route
}

fn matches() -> Value {
    let host = matching(r"^[^/: ]+$|^\[");
    let path = matching("^/[^?#]*$");
    section(
        &matches::KEYS,
        vec![
            key(
                "host",
                any_of(&[host.clone(), list_of(&host, 1)]),
                "The request's host, or several; *.example.com is any name below example.com.",
            ),
            key("path", path.clone(), "Exactly this path."),
            key("path_prefix", path, "This path and all below it, on whole segments."),
            key("path_regex", regex(), "A regular expression found in the path."),
            key("methods", list_of(&text(), 1), "The methods, in upper case."),
            key("headers", map_of(&value(&matches::VALUE)), "Header fields with their values."),
            key(
                "query",
                map_of(&value(&matches::QUERY_VALUE)),
                "Query parameters with their values.",
            ),
        ],
    )
}

/// A condition on a value.
fn value(keys: &crate::config::reader::Keys) -> Value {
    let condition = section(
        keys,
        vec![
            key("regex", regex(), "A regular expression found in the value."),
            key("present", switch(), "Whether there must be a value, or none."),
        ],
    );
    any_of(&[text(), condition])
}

fn redirect() -> Value {
    section(
        &action::REDIRECT,
        vec![
            key("to", matching(r"^\S+$"), "The Location, in which ${path} and the like may stand.")
                .required(),
            key("status", json!({ "enum": [301, 302, 303, 307, 308] }), "The status.").default(308),
        ],
    )
}

fn respond() -> Value {
    section(
        &action::RESPOND,
        vec![
            key("status", status(200, 599), "The status.").required(),
            key("headers", fields(), "Header fields with their values."),
            key("body", text(), "The body.").default(""),
        ],
    )
}

/// One filter: a map with its name as the only key, or its name alone.
fn filter(filters: &Registry) -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut generator = settings.into_generator();
    let mut properties = Map::new();
    for name in filters.names() {
        let schema = filters.schema(name, &mut generator).map(Value::from);
        let mut schema = schema.unwrap_or_else(|| json!({}));
        if let Some(object) = schema.as_object_mut() {
            // The name of a Rust type says nothing to the writer of a file.
            object.remove("title");
        }
        properties.insert(name.to_owned(), schema);
    }
    let names: Vec<&str> = filters.names().collect();
    any_of(&[
        json!({
            "type": "object",
            "additionalProperties": false,
            "minProperties": 1,
            "maxProperties": 1,
            "properties": properties,
        }),
        json!({ "enum": names }),
    ])
}

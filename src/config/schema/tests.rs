//! The schema says what the readers do.

use super::schema;
use crate::{
    config::{parse, tree},
    filter::Registry,
};
use serde_json::{Map, Value, json};
use std::{fs, path::Path};

fn read(text: &str) -> Result<String, String> {
    let checked = parse(text, "lb.yaml", Path::new("/"), &|_| None, &Registry::default());
    checked.map(|checked| format!("{:?}", checked.config)).map_err(|errors| errors.to_string())
}

/// A file's tree as the JSON that an editor would see.
fn json_of(node: &tree::Node) -> Value {
    match &node.value {
        tree::Value::Null => Value::Null,
        tree::Value::Scalar(text) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
        tree::Value::List(items) => items.iter().map(json_of).collect(),
        tree::Value::Map(entries) => Value::Object(
            entries.iter().map(|entry| (entry.key.clone(), json_of(&entry.node))).collect(),
        ),
    }
}

/// What the schema says is wrong with a file: the place and the problem.
fn complaints(text: &str) -> Vec<String> {
    complaints_of(&json_of(&tree::parse(text).unwrap()))
}

/// The same for an editor that knows a number in quotes from one without.
fn complaints_as_written(text: &str) -> Vec<String> {
    complaints_of(&serde_saphyr::from_str(text).unwrap())
}

fn complaints_of(file: &Value) -> Vec<String> {
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.add_resource("lb", schema(&Registry::default())).unwrap();
    let index = compiler.compile("lb", &mut schemas).expect("the schema is a schema");
    let mut found = Vec::new();
    if let Err(error) = schemas.validate(file, index) {
        collect(&error, &mut found);
    }
    found
}

fn collect(error: &boon::ValidationError<'_, '_>, found: &mut Vec<String>) {
    found.push(format!("{}: {}", error.instance_location, error.kind));
    error.causes.iter().for_each(|cause| collect(cause, found));
}

#[test]
fn every_example_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["conf/lb.yaml", "conf/full.yaml"] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        assert_eq!(complaints(&text), [""; 0], "{file}");
    }
    let reference = fs::read_to_string(root.join("docs/configuration.md")).unwrap();
    for block in reference.split("```yaml\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let text = if block.contains("listeners:\n") {
            block.to_owned()
        } else {
            format!("listeners: {{ web: {{ address: 0.0.0.0:8080 }} }}\n{block}")
        };
        assert_eq!(complaints(&text), [""; 0], "{text}");
    }
}

#[test]
fn what_the_program_takes_is_not_marked() {
    let route = |filter: &str| {
        format!(
            "listeners: {{ web: {{ address: 0.0.0.0:8080 }} }}\n\
             pools: {{ app: {{ backends: [a:1] }} }}\n\
             routes: [{{ pool: app, filters: [{filter}] }}]\n"
        )
    };
    for filter in [
        "redirect_https: { status: \"308\", port: \"443\" }",
        "redirect_https: { status: 308, port: 443 }",
        "rate_limit: { requests: \"5\", burst: \"6\", per: 1m }",
        "cors: { origins: [\"*\"], credentials: off, max_age: \"5s\" }",
        "compress: { min_size: \"5\" }",
    ] {
        read(&route(filter)).unwrap();
        assert_eq!(complaints_as_written(&route(filter)), [""; 0], "{filter}");
    }
}

#[test]
fn mistakes_are_marked() {
    let web = "listeners: { web: { address: 0.0.0.0:8080 } }\n";
    for (text, place) in [
        ("pools: { app: { backends: [127.0.0.1:9001], balnce: p2c } }", "/pools/app"),
        ("pools: { app: { backends: [127.0.0.1:9001], slow_start: 5 } }", "/pools/app/slow_start"),
        ("server: { threads: many }\npools: { app: { backends: [a:1] } }", ""),
        ("routes: [{ match: { path: robots } , pool: app }]", "/routes/0/match/path"),
        ("routes: [{ pool: app, respond: { status: 200 } }]", "/routes/0"),
        (
            "routes: [{ pool: app, filters: [{ request_headers: { sett: {} } }] }]",
            "/routes/0/filters/0",
        ),
        ("routes: [{ pool: app, filters: [nothing] }]", "/routes/0/filters/0"),
    ] {
        let complaints = complaints(&format!("{web}{text}"));
        if place.is_empty() {
            // A text may be a number in quotes, so this one is left to the reader.
            assert_eq!(complaints, [""; 0], "{text}");
        } else {
            let found = complaints.iter().any(|line| line.starts_with(&format!("{place}:")));
            assert!(found, "{text}: {complaints:?}");
        }
    }
}

/// A file in which `path` leads to the map that a section's key stands in.
fn file_with(path: &[String], inner: Value) -> String {
    let mut value = inner;
    for step in path.iter().rev() {
        value = match step.as_str() {
            "[]" => json!([value]),
            step => Value::Object(Map::from_iter([(step.to_owned(), value)])),
        };
    }
    let mut file = json!({
        "listeners": { "x": { "address": "127.0.0.1:80" } },
        "pools": { "x": { "backends": ["127.0.0.1:1"] } },
        "routes": [{ "pool": "x" }],
    });
    merge(&mut file, value);
    if path.iter().any(|step| step == "redirect" || step == "respond") {
        file["routes"][0].as_object_mut().unwrap().remove("pool");
    }
    file.to_string()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) if into.len() == 1 && from.len() == 1 => {
            for (into, from) in into.iter_mut().zip(from) {
                merge(into, from);
            }
        }
        (into, from) => *into = from,
    }
}

/// What a section cannot do without, for the sections that have such keys.
fn needed(path: &[String]) -> Value {
    match path.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["pools", "x", "backends", "[]"] => json!({ "address": "127.0.0.1:1" }),
        ["admin"] => json!({ "address": "127.0.0.1:9901" }),
        ["pools", "x", "sticky"] => json!({ "cookie": "c", "secret": "0123456789abcdef" }),
        ["pools", "x", "limits"] => json!({ "connections_per_backend": 1 }),
        ["routes", "[]", "redirect"] => json!({ "to": "/" }),
        ["routes", "[]", "respond"] => json!({ "status": 200 }),
        _ => json!({}),
    }
}

fn check_defaults(schema: &Value, path: &[String], checked: &mut usize) {
    for form in schema["anyOf"].as_array().into_iter().flatten() {
        check_defaults(form, path, checked);
    }
    if let Some(items) = schema.get("items") {
        check_defaults(items, &[path, &["[]".to_owned()]].concat(), checked);
    }
    if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
        check_defaults(values, &[path, &["x".to_owned()]].concat(), checked);
    }
    for (name, key) in schema["properties"].as_object().into_iter().flatten() {
        if path.iter().any(|step| step == "filters") {
            continue;
        }
        if let Some(default) = key.get("default") {
            let without = needed(path);
            let mut with = without.clone();
            if with.get(name).is_none() {
                with[name.as_str()] = default.clone();
                let (without, with) = (file_with(path, without), file_with(path, with));
                assert_eq!(read(&with), read(&without), "{path:?} {name}: {default}");
                *checked += 1;
            }
        }
        check_defaults(key, &[path, std::slice::from_ref(name)].concat(), checked);
    }
}

/// Giving a key its default is the same as leaving it out.
#[test]
fn defaults_are_what_leaving_a_key_out_means() {
    let mut checked = 0;
    check_defaults(&schema(&Registry::default()), &[], &mut checked);
    assert!(checked > 50, "{checked}");
}

#[test]
fn every_key_has_a_description() {
    fn walk(schema: &Value, path: &str) {
        for (name, key) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            let exempt = path.ends_with(".filters") || path.contains(".filters.");
            assert!(exempt || key["description"].is_string(), "{path} has no description");
            walk(key, &path);
        }
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                walk(&schema[inner], path);
            }
        }
        for form in schema["anyOf"].as_array().into_iter().flatten() {
            walk(form, path);
        }
    }
    walk(&schema(&Registry::default()), "");
}

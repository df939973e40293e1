//! The configuration as it is in force: what the file says, and what it leaves out.

use super::{changes::Outline, health_check::PROBES, schema::sections, secrets::MASK};
use crate::{
    filter::Registry,
    model::{Server, Settings, SettingsValue},
};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value as Schema;
use sha2::{Digest, Sha256};

/// Defaults that follow another key of their section once that is given.
const FOLLOWERS: [(&str, &str); 3] =
    [("uri_bytes", "header_bytes"), ("max", "base"), ("max_time", "base_time")];

/// The effective configuration as YAML: environment variables replaced, defaults filled in, secrets
/// masked. The keys of the file come first, in its order.
pub(super) fn yaml(outline: &Outline, server: &Server, filters: &Registry) -> String {
    let tree = tree(outline, server, filters);
    tree.as_ref().map(written).unwrap_or_default()
}

/// The same as JSON; `null` where there is no file.
pub(super) fn json(outline: &Outline, server: &Server, filters: &Registry) -> Schema {
    tree(outline, server, filters).map_or(Schema::Null, |tree| {
        serde_json::to_value(tree).expect("a tree of texts, lists and maps can always be written")
    })
}

/// What is in force; `None` where there is no file.
fn tree(outline: &Outline, server: &Server, filters: &Registry) -> Option<Value> {
    let Value::Map(mut file) = fill(&sections::file(filters), Some(outline.root())) else {
        return None;
    };
    complete_server(&mut file, server);
    fit_listeners(&mut file, outline.root());
    name_checks(&mut file);
    Some(Value::Map(file))
}

/// A number of 48 bits that tells whether two files mean the same, secrets aside.
pub(super) fn hash(outline: &Outline, filters: &Registry) -> u64 {
    let tree = fill(&sections::file(filters), Some(outline.root()));
    let digest = Sha256::digest(written(&tree));
    digest.iter().take(6).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn written(tree: &Value) -> String {
    serde_saphyr::to_string(tree).expect("a tree of texts, lists and maps can always be written")
}

/// A value to be written.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Text(String),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => match text.parse::<i64>() {
                Ok(number) if number.to_string() == *text => serializer.serialize_i64(number),
                _ if text == "true" || text == "false" => serializer.serialize_bool(text == "true"),
                _ => serializer.serialize_str(text),
            },
            Self::List(items) => serializer.collect_seq(items),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

/// What the process decides where the file does not.
fn complete_server(file: &mut [(String, Value)], server: &Server) {
    let Some((_, Value::Map(section))) = file.iter_mut().find(|(key, _)| key == "server") else {
        return;
    };
    for (key, value) in [
        ("threads", server.threads.to_string()),
        ("pid_file", server.pid_file.display().to_string()),
        ("upgrade_sock", server.upgrade_sock.display().to_string()),
    ] {
        if !section.iter().any(|(given, _)| given == key) {
            section.push((key.to_owned(), Value::Text(value)));
        }
    }
}

/// Takes the defaults of http listeners off those that pass connections on, for which they are
/// errors.
fn fit_listeners(file: &mut [(String, Value)], given: &Settings) {
    let listeners = file.iter_mut().find(|(key, _)| key == "listeners");
    let Some((_, Value::Map(listeners))) = listeners else { return };
    for (name, listener) in listeners {
        let Value::Map(keys) = listener else { continue };
        let protocol = keys.iter().find(|(key, _)| key == "protocol");
        if !protocol.is_some_and(|(_, value)| *value == Value::Text("tcp".to_owned())) {
            continue;
        }
        keys.retain(|(key, _)| key != "limits" && key != "h2c");
        if !keys.iter().any(|(key, _)| key == "idle_timeout") {
            keys.push(("idle_timeout".to_owned(), Value::Text("1h".to_owned())));
        }
        let tls = keys.iter_mut().find(|(key, _)| key == "tls");
        let decrypts = tls.is_some();
        if let Some((_, Value::Map(tls))) = tls {
            let is_given = at(given, &["listeners", name, "tls", "alpn"]).is_some();
            tls.retain(|(key, _)| key != "alpn" || is_given);
        }
        let timeouts = keys.iter_mut().find(|(key, _)| key == "timeouts");
        if let Some((_, Value::Map(timeouts))) = timeouts {
            timeouts.retain(|(key, _)| key == "header" || key == "tls_handshake" && decrypts);
        }
    }
}

/// Says of pools that are checked, but do not say how, that it is by connecting.
fn name_checks(file: &mut [(String, Value)]) {
    let pools = file.iter_mut().find(|(key, _)| key == "pools");
    let Some((_, Value::Map(pools))) = pools else { return };
    for (_, pool) in pools {
        let Value::Map(keys) = pool else { continue };
        let check = keys.iter_mut().find(|(key, _)| key == "health_check");
        if let Some((_, Value::Map(check))) = check
            && !check.iter().any(|(key, _)| PROBES.contains(&key.as_str()))
        {
            check.insert(0, ("tcp".to_owned(), Value::Map(Vec::new())));
        }
    }
}

/// What the file has at this path.
fn at<'s>(settings: &'s Settings, path: &[&str]) -> Option<&'s Settings> {
    path.iter().try_fold(settings, |settings, step| match &settings.value {
        SettingsValue::Map(entries) => {
            entries.iter().find(|(key, _)| key == step).map(|(_, value)| value)
        }
        _ => None,
    })
}

/// A value with what its schema has for what is left out.
fn fill(schema: &Schema, value: Option<&Settings>) -> Value {
    let Some(settings) = value else { return section(schema, &[]) };
    match &settings.value {
        SettingsValue::Null => Value::Text("null".to_owned()),
        SettingsValue::Text(_) if settings.secret => Value::Text(MASK.to_owned()),
        SettingsValue::Text(text) => word(schema, text),
        SettingsValue::List(items) => {
            let schema = form(schema, "items").map_or(&Schema::Null, |form| &form["items"]);
            Value::List(items.iter().map(|item| fill(schema, Some(item))).collect())
        }
        SettingsValue::Map(entries) => section(schema, entries),
    }
}

/// A word, which may stand for a map of the one key that it is, with nothing given: a filter by its name
/// alone. It is written as that map where there is something to tell.
fn word(schema: &Schema, word: &str) -> Value {
    let written = Value::Text(word.to_owned());
    let Some(form) = form(schema, "properties").filter(|form| form["maxProperties"] == 1) else {
        return written;
    };
    let Some(settings) = form["properties"].get(word) else { return written };
    match section(settings, &[]) {
        Value::Map(entries) if entries.is_empty() => written,
        settings => Value::Map(vec![(word.to_owned(), settings)]),
    }
}

/// A map with the keys that are given, and the defaults of those that are not.
fn section(schema: &Schema, given: &[(String, Settings)]) -> Value {
    let form = form(schema, "properties").or_else(|| self::form(schema, "additionalProperties"));
    let form = form.unwrap_or(&Schema::Null);
    let properties = form["properties"].as_object();
    let of = |key: &str| {
        let known = properties.and_then(|properties| properties.get(key));
        known.unwrap_or(&form["additionalProperties"])
    };
    let mut map: Vec<_> =
        given.iter().map(|(key, value)| (key.clone(), fill(of(key), Some(value)))).collect();
    let is_given = |key: &str| given.iter().any(|(name, _)| name == key);
    let follows =
        |key: &str| FOLLOWERS.iter().any(|(follower, leader)| *follower == key && is_given(leader));
    for (key, schema) in properties.into_iter().flatten() {
        if is_given(key) || follows(key) {
            continue;
        }
        match &schema["default"] {
            Schema::Null => {}
            Schema::Object(default) if default.is_empty() => {
                map.push((key.clone(), fill(schema, None)));
            }
            default => map.push((key.clone(), literal(default))),
        }
    }
    Value::Map(map)
}

/// The form of a value that has `part`: the schema itself, or one of its alternatives.
fn form<'s>(schema: &'s Schema, part: &str) -> Option<&'s Schema> {
    let has = |schema: &&Schema| schema.get(part).is_some_and(Schema::is_object);
    let alternatives = schema["anyOf"].as_array().into_iter().flatten();
    std::iter::once(schema).chain(alternatives).find(has)
}

fn literal(default: &Schema) -> Value {
    match default {
        Schema::String(text) => Value::Text(text.clone()),
        Schema::Array(items) => Value::List(items.iter().map(literal).collect()),
        Schema::Object(entries) => {
            Value::Map(entries.iter().map(|(key, value)| (key.clone(), literal(value))).collect())
        }
        other => Value::Text(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use crate::{config::parse, filter::Registry};
    use std::{fs, path::Path};

    fn read(text: &str) -> crate::config::Checked {
        let env = |name: &str| (name == "SECRET").then(|| "a-secret-of-enough-bytes".to_owned());
        // The files that the examples name lie beside the shipped ones.
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
        parse(text, "lb.yaml", &base, &env, &Registry::default())
            .unwrap_or_else(|errors| panic!("{errors}\n{text}"))
    }

    fn effective(text: &str) -> String {
        read(text).effective(&Registry::default())
    }

    #[test]
    fn it_means_the_same_as_the_file() {
        let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/full.yaml");
        let full = fs::read_to_string(full).unwrap();
        for text in [
            &*full,
            "listeners: { web: { address: 0.0.0.0:80, limits: { header_bytes: 2KiB } } }\n\
             pools: { app: { backends: [a:1], ejection: { base_time: 400s }, \
             retry: { backoff: { base: 1s } }, sticky: { cookie: c } } }",
            "listeners: { pg: { address: 0.0.0.0:80, protocol: tcp, pool: app } }\n\
             pools: { app: { backends: [a:1] } }",
            "listeners: { pg: { address: 0.0.0.0:80, protocol: tcp, pool: app, tls: { \
             certificates: [{ cert: certs/example.pem, key: certs/example.key }] } } }\n\
             pools: { app: { backends: [a:1] } }",
            "listeners: { pg: { address: 0.0.0.0:80, protocol: tcp, pool: app, tls: { \
             certificates: [{ cert: certs/example.pem, key: certs/example.key }], alpn: [x] } } }\n\
             pools: { app: { backends: [a:1] } }",
        ] {
            let yaml = effective(text);
            // A mask is as long as a secret has to be for this.
            let again = yaml.replace("(secret)", "a-secret-of-enough-bytes");
            let text = text
                .replace("${LB_STICKY_SECRET:-only for this example}", "a-secret-of-enough-bytes");
            let (before, after) = (read(&text).config, read(&again).config);
            assert_eq!(format!("{before:?}"), format!("{after:?}"), "{yaml}");
        }
    }

    #[test]
    fn a_filter_by_its_name_alone_has_its_defaults_as_with_nothing_given() {
        let with = |filter: &str| {
            effective(&format!(
                "listeners: {{ web: {{ address: 0.0.0.0:80 }} }}\n\
                 routes: [{{ pool: app, filters: [{filter}] }}]\n\
                 pools: {{ app: {{ backends: [a:1] }} }}"
            ))
        };
        let bare = with("compress");
        assert_eq!(bare, with("compress: {}"));
        assert!(bare.contains("min_size: 1KiB"), "{bare}");
        // And it means the same.
        let (before, after) = (read(&bare), read(&effective(&bare)));
        assert_eq!(format!("{:?}", before.config), format!("{:?}", after.config));
    }

    #[test]
    fn defaults_are_filled_in_and_secrets_masked() {
        let yaml = effective(
            "listeners: { web: { address: 0.0.0.0:80 } }\n\
             pools: { app: { backends: [a:1], sticky: { cookie: c, secret: \"${SECRET}\" } } }",
        );
        for line in [
            "drain_timeout: 30s",
            "keepalive: 75s",
            "consecutive_failures: 5",
            "min_per_second: 3",
            "secret: (secret)",
            "same_site: lax",
            "tcp: {}",
            "interval: 5s",
            "threads: ",
        ] {
            assert!(yaml.contains(line), "{line} is not in\n{yaml}");
        }
        let other = yaml.replace("tcp: {}", "grpc: {}");
        assert!(!effective(&other.replace("(secret)", "${SECRET}")).contains("tcp: "), "{other}");
        assert!(!yaml.contains("a-secret"), "{yaml}");
    }
}

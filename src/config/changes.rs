//! What a file says otherwise than another, in lines for people.

use super::{diagnostic::quote, secrets::MASK};
use crate::model::{Position, Settings, SettingsValue};
use std::{collections::HashMap, fmt::Write as _};

/// What stands for a key that is not given.
const ABSENT: &str = "default";
/// The longest value that is shown, in characters.
const LONGEST: usize = 80;

/// What a file says, to be compared with another.
#[derive(Clone, Debug)]
pub struct Outline(Settings);

impl Outline {
    pub(super) fn new(root: Settings) -> Self {
        Self(root)
    }

    pub(super) fn root(&self) -> &Settings {
        &self.0
    }

    /// What `self` says otherwise than `before`, one change or group of changes a line, such as
    /// `pool app: +127.0.0.1:9004, weight of app-2 1 -> 3`.
    pub fn changes_from(&self, before: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (key, before, after) in pairs(Some(&before.0), Some(&self.0)) {
            match key {
                "pools" => named("pool", before, after, pool, &mut lines),
                "listeners" => named("listener", before, after, plain, &mut lines),
                "routes" => routes(before, after, &mut lines),
                _ => {
                    let mut changes = Vec::new();
                    compare(key, before, after, &mut changes);
                    lines.extend(changes);
                }
            }
        }
        lines
    }

    /// What the file has at this path.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Settings> {
        path.iter().try_fold(&self.0, |settings, step| entry(Some(settings), step))
    }

    /// The same without what is secret.
    #[must_use]
    pub fn masked(&self) -> Self {
        Self(masked(&self.0))
    }

    /// What the file says as JSON, without what is secret.
    pub(super) fn to_json(&self) -> serde_json::Value {
        to_json(&masked(&self.0))
    }

    /// What a file says according to [`Checked::to_json`](super::Checked::to_json).
    pub fn from_json(json: &serde_json::Value) -> Self {
        Self(from_json(json))
    }
}

/// The settings with a word in the place of each secret.
fn masked(settings: &Settings) -> Settings {
    let value = match &settings.value {
        SettingsValue::Text(_) if settings.secret => SettingsValue::Text(MASK.to_owned()),
        SettingsValue::List(items) => SettingsValue::List(items.iter().map(masked).collect()),
        SettingsValue::Map(entries) => {
            let one = |(key, value): &(String, Settings)| (key.clone(), masked(value));
            SettingsValue::Map(entries.iter().map(one).collect())
        }
        value => value.clone(),
    };
    Settings { value, secret: false, ..settings.clone() }
}

/// JSON of texts, lists and maps. A map is a list of pairs, as the order of keys is to be kept.
fn to_json(settings: &Settings) -> serde_json::Value {
    match &settings.value {
        SettingsValue::Null => serde_json::Value::Null,
        SettingsValue::Text(text) => text.as_str().into(),
        SettingsValue::List(items) => items.iter().map(to_json).collect(),
        SettingsValue::Map(entries) => {
            let pairs = entries.iter().map(|(key, value)| serde_json::json!([key, to_json(value)]));
            serde_json::json!({ "map": pairs.collect::<Vec<_>>() })
        }
    }
}

fn from_json(json: &serde_json::Value) -> Settings {
    let value = match json {
        serde_json::Value::Array(items) => {
            SettingsValue::List(items.iter().map(from_json).collect())
        }
        serde_json::Value::Object(map) => {
            let pairs = map.get("map").and_then(serde_json::Value::as_array);
            let pair = |pair: &serde_json::Value| {
                let key = pair.get(0)?.as_str()?.to_owned();
                Some((key, from_json(pair.get(1)?)))
            };
            SettingsValue::Map(pairs.into_iter().flatten().filter_map(pair).collect())
        }
        serde_json::Value::String(text) => SettingsValue::Text(text.clone()),
        _ => SettingsValue::Null,
    };
    Settings { value, ..Settings::none(Position { line: 1, column: 1 }) }
}

type Value<'s> = Option<&'s Settings>;

fn entries(value: Value<'_>) -> &[(String, Settings)] {
    match value.map(|settings| &settings.value) {
        Some(SettingsValue::Map(entries)) => entries,
        _ => &[],
    }
}

fn items(value: Value<'_>) -> &[Settings] {
    match value.map(|settings| &settings.value) {
        Some(SettingsValue::List(items)) => items,
        _ => &[],
    }
}

fn entry<'s>(value: Value<'s>, key: &str) -> Value<'s> {
    entries(value).iter().find(|(name, _)| name == key).map(|(_, value)| value)
}

/// The keys of two maps with their values in each, those of the first first.
fn pairs<'s>(before: Value<'s>, after: Value<'s>) -> Vec<(&'s str, Value<'s>, Value<'s>)> {
    let by_key = |value| -> HashMap<&'s str, &'s Settings> {
        entries(value).iter().map(|(key, value)| (key.as_str(), value)).collect()
    };
    let (old, new) = (by_key(before), by_key(after));
    let find = |key: &str| new.get(key).copied();
    let first = entries(before).iter().map(|(key, value)| (key.as_str(), Some(value), find(key)));
    let second = entries(after).iter().filter(|(key, _)| !old.contains_key(key.as_str()));
    first.chain(second.map(|(key, value)| (key.as_str(), None, Some(value)))).collect()
}

/// Whether both mean the same, secrets included.
fn same(before: Value<'_>, after: Value<'_>) -> bool {
    let (Some(before), Some(after)) = (before, after) else {
        return before.is_none() && after.is_none();
    };
    match (&before.value, &after.value) {
        (SettingsValue::Null, SettingsValue::Null) => true,
        (SettingsValue::Text(before), SettingsValue::Text(after)) => before == after,
        (SettingsValue::List(before), SettingsValue::List(after)) => {
            let mut items = before.iter().zip(after);
            before.len() == after.len() && items.all(|(a, b)| same(Some(a), Some(b)))
        }
        (SettingsValue::Map(before), SettingsValue::Map(after)) => {
            let mut entries = before.iter().zip(after);
            let is_same = |(a, b): (&(String, Settings), &(String, Settings))| {
                a.0 == b.0 && same(Some(&a.1), Some(&b.1))
            };
            before.len() == after.len() && entries.all(is_same)
        }
        _ => false,
    }
}

/// Each of what has names of the user's: a line for what came, went or changed.
fn named(
    kind: &str,
    before: Value<'_>,
    after: Value<'_>,
    changes: fn(Value<'_>, Value<'_>) -> Vec<String>,
    lines: &mut Vec<String>,
) {
    for (name, before, after) in pairs(before, after) {
        match (before, after) {
            (None, _) => lines.push(format!("+{kind} {name}")),
            (_, None) => lines.push(format!("-{kind} {name}")),
            _ => {
                let changes = changes(before, after);
                if !changes.is_empty() {
                    lines.push(format!("{kind} {name}: {}", changes.join(", ")));
                }
            }
        }
    }
}

fn plain(before: Value<'_>, after: Value<'_>) -> Vec<String> {
    let mut changes = Vec::new();
    compare("", before, after, &mut changes);
    changes
}

fn pool(before: Value<'_>, after: Value<'_>) -> Vec<String> {
    let mut changes = Vec::new();
    for (key, before, after) in pairs(before, after) {
        if key == "backends" {
            backends(items(before), items(after), &mut changes);
        } else {
            compare(key, before, after, &mut changes);
        }
    }
    changes
}

/// A backend's name, or its address if it has no other.
fn backend_name(backend: &Settings) -> String {
    let named = entry(Some(backend), "name").or_else(|| entry(Some(backend), "address"));
    text(Some(named.unwrap_or(backend)))
}

fn with_names(backends: &[Settings]) -> Vec<(String, &Settings)> {
    backends.iter().map(|backend| (backend_name(backend), backend)).collect()
}

fn backends(before: &[Settings], after: &[Settings], changes: &mut Vec<String>) {
    let (before, after) = (with_names(before), with_names(after));
    let (old, new) = (index(&before), index(&after));
    for (name, before) in &before {
        match new.get(name.as_str()) {
            None => changes.push(format!("-{name}")),
            Some(after) => backend(name, before, after, changes),
        }
    }
    let came = after.iter().filter(|(name, _)| !old.contains_key(name.as_str()));
    changes.extend(came.map(|(name, _)| format!("+{name}")));
}

/// To find among thousands by name: what is asked of each must not take longer the more there are.
fn index<'l, 's>(list: &'l [(String, &'s Settings)]) -> HashMap<&'l str, &'s Settings> {
    list.iter().map(|(name, value)| (name.as_str(), *value)).collect()
}

fn backend(name: &str, before: &Settings, after: &Settings, changes: &mut Vec<String>) {
    let value = |backend: &Settings, key: &str, default: &str| {
        let short = matches!(backend.value, SettingsValue::Text(_));
        match entry(Some(backend), key) {
            Some(value) => text(Some(value)),
            None if short && key == "address" => text(Some(backend)),
            None => default.to_owned(),
        }
    };
    for (key, default) in
        [("address", ""), ("weight", "1"), ("backup", "false"), ("state", "active")]
    {
        let (before, after) = (value(before, key, default), value(after, key, default));
        if before != after {
            changes.push(format!("{key} of {name} {before} -> {after}"));
        }
    }
}

/// A route's name, or that of its place.
fn route_name(route: &Settings, index: usize) -> String {
    entry(Some(route), "name")
        .map_or_else(|| format!("route-{}", index + 1), |name| text(Some(name)))
}

fn routes(before: Value<'_>, after: Value<'_>, lines: &mut Vec<String>) {
    let list = |value| {
        let items = items(value).iter().enumerate();
        items.map(|(index, route)| (route_name(route, index), route)).collect::<Vec<_>>()
    };
    let (before, after) = (list(before), list(after));
    let (old, new) = (index(&before), index(&after));
    for (name, before) in &before {
        let Some(after) = new.get(name.as_str()) else {
            lines.push(format!("-route {name}"));
            continue;
        };
        let changes = plain(Some(before), Some(after));
        if !changes.is_empty() {
            lines.push(format!("route {name}: {}", changes.join(", ")));
        }
    }
    let came = after.iter().filter(|(name, _)| !old.contains_key(name.as_str()));
    lines.extend(came.map(|(name, _)| format!("+route {name}")));
    let order = |list: &[(String, &Settings)], other: &HashMap<&str, &Settings>| {
        let kept = list.iter().filter(|(name, _)| other.contains_key(name.as_str()));
        kept.map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let now = order(&after, &old);
    if now != order(&before, &new) {
        lines.push(format!("routes: now in the order {}", now.join(", ")));
    }
}

/// The changes at `path` and below.
fn compare(path: &str, before: Value<'_>, after: Value<'_>, changes: &mut Vec<String>) {
    let is_map = |value: Value<'_>| {
        value.is_none_or(|settings| matches!(settings.value, SettingsValue::Map(_)))
    };
    if (before.is_some() || after.is_some()) && is_map(before) && is_map(after) {
        for (key, before, after) in pairs(before, after) {
            let separator = if path.is_empty() { "" } else { "." };
            compare(&format!("{path}{separator}{key}"), before, after, changes);
        }
        return;
    }
    if same(before, after) {
        return;
    }
    let secret = |value: Value<'_>| value.is_some_and(|settings| settings.secret);
    let (old, new) = (short(before), short(after));
    // What differs may be a secret inside of a list, or behind the end of what is shown.
    changes.push(if secret(before) || secret(after) || old == new {
        format!("{path} changed")
    } else {
        format!("{path} {old} -> {new}")
    });
}

fn short(value: Value<'_>) -> String {
    let whole = text(value);
    match whole.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &whole[..end]),
        None => whole,
    }
}

/// Settings as YAML in one line, without what is secret; empty if there are none.
pub(super) fn line(settings: &Settings) -> String {
    match &settings.value {
        SettingsValue::Null => String::new(),
        SettingsValue::Map(entries) if entries.is_empty() => String::new(),
        _ => text(Some(settings)),
    }
}

/// A value as YAML in one line, without what is secret.
fn text(value: Value<'_>) -> String {
    let Some(settings) = value else { return ABSENT.to_owned() };
    match &settings.value {
        SettingsValue::Null => "null".to_owned(),
        SettingsValue::Text(_) if settings.secret => MASK.to_owned(),
        SettingsValue::Text(text) => {
            let plain = !text.is_empty() && !text.contains([' ', ',', '"', '\n', '{', '[']);
            if plain { text.clone() } else { quote(text) }
        }
        SettingsValue::List(list) => {
            let list: Vec<_> = list.iter().map(|item| text(Some(item))).collect();
            format!("[{}]", list.join(", "))
        }
        SettingsValue::Map(map) => {
            let mut line = String::from("{");
            for (index, (key, value)) in map.iter().enumerate() {
                let separator = if index == 0 { " " } else { ", " };
                write!(line, "{separator}{key}: {}", text(Some(value)))
                    .expect("writing to a String cannot fail");
            }
            format!("{line} }}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Outline, Settings, SettingsValue};
    use crate::{config::Checked, filter::Registry, model::Position};
    use std::{
        path::Path,
        time::{Duration, Instant},
    };

    fn read(text: &str) -> Checked {
        let text = format!("listeners: {{ web: {{ address: 0.0.0.0:80 }} }}\n{text}");
        crate::config::parse(&text, "lb.yaml", Path::new("/"), &|_| None, &Registry::default())
            .unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn changes(before: &str, after: &str) -> Vec<String> {
        read(after).outline.changes_from(&read(before).outline)
    }

    #[test]
    fn backends_come_and_go_and_change_their_weight() {
        let before = "pools: { app: { backends: [a:1, { address: b:1, name: app-2 }, c:1] } }";
        let after =
            "pools: { app: { backends: [a:1, { address: b:1, name: app-2, weight: 3 }, d:1] } }";
        assert_eq!(changes(before, after), ["pool app: weight of app-2 1 -> 3, -c:1, +d:1"]);
        assert_eq!(changes(before, before), [""; 0]);
    }

    fn value(value: SettingsValue) -> Settings {
        Settings { value, ..Settings::none(Position { line: 1, column: 1 }) }
    }

    fn map(entries: impl IntoIterator<Item = (&'static str, Settings)>) -> Settings {
        let entries = entries.into_iter().map(|(key, value)| (key.to_owned(), value));
        value(SettingsValue::Map(entries.collect()))
    }

    /// A file with many backends and routes, of which `what` is said.
    fn large(what: &str) -> Outline {
        let text = |text: &str| value(SettingsValue::Text(text.to_owned()));
        let list = |key, count, name: &'static str| {
            let item = |at| map([(name, text(&format!("{name}-{at}"))), (key, text(what))]);
            value(SettingsValue::List((0..count).map(item).collect()))
        };
        let app = map([("backends", list("weight", 20_000, "address"))]);
        Outline::new(map([
            ("pools", map([("app", app)])),
            ("routes", list("timeout", 10_000, "name")),
        ]))
    }

    /// The comparison holds up the requests of the thread that it runs on.
    #[test]
    fn thousands_are_compared_at_once() {
        let (before, after) = (large("1"), large("2"));
        let began = Instant::now();
        assert_eq!(after.changes_from(&before).len(), 10_001);
        // One by one it is tenths of a second. Each with each was minutes.
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }

    #[test]
    fn settings_are_shown_with_what_they_were() {
        let before = "pools: { app: { backends: [a:1], timeouts: { read: 5s } } }";
        let after = "pools: { app: { backends: [a:1], timeouts: { read: 6s, write: 1s } } }";
        assert_eq!(
            changes(before, after),
            ["pool app: timeouts.read 5s -> 6s, timeouts.write default -> 1s"]
        );
        let with_log = format!("{before}\naccess_log: {{ path: stdout }}");
        assert_eq!(changes(before, &with_log), ["access_log.path default -> stdout"]);
    }

    #[test]
    fn routes_are_known_by_their_names() {
        let pools = "pools: { app: { backends: [a:1] } }\n";
        let before = format!(
            "{pools}routes: [{{ name: a, pool: app, match: {{ host: a }} }}, {{ name: b, match: {{ path: /b }}, pool: app }}, {{ name: c, pool: app }}]"
        );
        let after = format!(
            "{pools}routes: [{{ name: b, match: {{ path: /b }}, pool: app, timeout: 3s }}, {{ name: a, pool: app, match: {{ host: [a, x] }} }}, {{ name: d, pool: app }}]"
        );
        assert_eq!(
            changes(&before, &after),
            [
                "route a: match.host a -> [a, x]",
                "route b: timeout default -> 3s",
                "-route c",
                "+route d",
                "routes: now in the order b, a"
            ]
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let pool = |secret: &str| {
            format!(
                "pools: {{ app: {{ backends: [a:1], sticky: {{ cookie: c, secret: {secret} }} }} }}"
            )
        };
        let changes = changes(&pool("0123456789abcdef"), &pool("fedcba9876543210"));
        assert_eq!(changes, ["pool app: sticky.secret changed"]);
    }

    #[test]
    fn secrets_inside_of_lists_are_changes_that_are_not_shown() {
        let route = |field: &str| {
            format!(
                "pools: {{ app: {{ backends: [a:1] }} }}\n\
                 routes: [{{ name: a, pool: app, filters: [{{ request_headers: {{ set: {{ {field} }} }} }}] }}]"
            )
        };
        let (one, two) = (route("Authorization: one"), route("Authorization: two"));
        assert_eq!(changes(&one, &two), ["route a: filters changed"]);
        assert_eq!(changes(&one, &one), [""; 0]);
        let other = changes(&one, &route("X-Env: two"));
        assert_eq!(
            other,
            ["route a: filters [{ request_headers: { set: { Authorization: (secret) } } }] -> \
              [{ request_headers: { set: { X-Env: two } } }]"]
        );
    }
}

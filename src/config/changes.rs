//! What a file says otherwise than another, in lines for people.

use super::diagnostic::quote;
use crate::model::{Settings, SettingsValue};
use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
};

/// What stands for a key that is not given.
const ABSENT: &str = "default";
/// Keys whose values are nobody's business.
pub(super) const SECRETS: [&str; 2] = ["secret", "token"];
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

    /// The keys under `section` of which the two say something else, such as `server.threads`.
    pub fn changed_keys(&self, before: &Self, section: &str) -> Vec<String> {
        let (before, after) = (entry(Some(&before.0), section), entry(Some(&self.0), section));
        let changed = pairs(before, after).into_iter().filter(|(_, a, b)| !same(*a, *b));
        changed.map(|(key, _, _)| format!("{section}.{key}")).collect()
    }
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
    let gone = |key: &str| entry(before, key).is_none();
    let first =
        entries(before).iter().map(|(key, value)| (key.as_str(), Some(value), entry(after, key)));
    let second = entries(after).iter().filter(|(key, _)| gone(key));
    first.chain(second.map(|(key, value)| (key.as_str(), None, Some(value)))).collect()
}

fn same(before: Value<'_>, after: Value<'_>) -> bool {
    text("", before) == text("", after)
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
    text("", Some(named.unwrap_or(backend)))
}

fn backends(before: &[Settings], after: &[Settings], changes: &mut Vec<String>) {
    // There may be thousands of them, so they are looked up.
    let named = |list: &'_ [Settings]| list.iter().map(backend_name).collect::<Vec<_>>();
    let (old_names, new_names) = (named(before), named(after));
    let after_by_name: HashMap<&str, &Settings> =
        new_names.iter().map(String::as_str).zip(after).collect();
    for (name, old) in old_names.iter().zip(before) {
        match after_by_name.get(name.as_str()) {
            None => changes.push(format!("-{name}")),
            Some(new) => backend(name, old, new, changes),
        }
    }
    let was: HashSet<&str> = old_names.iter().map(String::as_str).collect();
    let come = new_names.iter().filter(|name| !was.contains(name.as_str()));
    changes.extend(come.map(|name| format!("+{name}")));
}

fn backend(name: &str, before: &Settings, after: &Settings, changes: &mut Vec<String>) {
    let value = |backend: &Settings, key: &str, default: &str| {
        let short = matches!(backend.value, SettingsValue::Text(_));
        match entry(Some(backend), key) {
            Some(value) => text(key, Some(value)),
            None if short && key == "address" => text(key, Some(backend)),
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
        .map_or_else(|| format!("route-{}", index + 1), |name| text("", Some(name)))
}

fn routes(before: Value<'_>, after: Value<'_>, lines: &mut Vec<String>) {
    let list = |value| {
        let items = items(value).iter().enumerate();
        items.map(|(index, route)| (route_name(route, index), route)).collect::<Vec<_>>()
    };
    let (before, after) = (list(before), list(after));
    let find = |among: &[(String, &Settings)], name: &str| {
        among.iter().position(|(other, _)| other == name)
    };
    for (name, old) in &before {
        let Some(index) = find(&after, name) else {
            lines.push(format!("-route {name}"));
            continue;
        };
        let changes = plain(Some(old), Some(after[index].1));
        if !changes.is_empty() {
            lines.push(format!("route {name}: {}", changes.join(", ")));
        }
    }
    let new = after.iter().filter(|(name, _)| find(&before, name).is_none());
    lines.extend(new.map(|(name, _)| format!("+route {name}")));
    let order = |list: &[(String, &Settings)], other: &[(String, &Settings)]| {
        let kept = list.iter().filter(|(name, _)| find(other, name).is_some());
        kept.map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let now = order(&after, &before);
    if now != order(&before, &after) {
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
    let key = path.rsplit('.').next().unwrap_or(path);
    changes.push(if SECRETS.contains(&key) {
        format!("{path} changed")
    } else {
        format!("{path} {} -> {}", short(key, before), short(key, after))
    });
}

fn short(key: &str, value: Value<'_>) -> String {
    let whole = text(key, value);
    match whole.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &whole[..end]),
        None => whole,
    }
}

/// A value as YAML in one line, without what is secret.
fn text(key: &str, value: Value<'_>) -> String {
    let Some(settings) = value else { return ABSENT.to_owned() };
    match &settings.value {
        SettingsValue::Null => "null".to_owned(),
        SettingsValue::Text(_) if SECRETS.contains(&key) => "(secret)".to_owned(),
        SettingsValue::Text(text) => {
            let plain = !text.is_empty() && !text.contains([' ', ',', '"', '\n', '{', '[']);
            if plain { text.clone() } else { quote(text) }
        }
        SettingsValue::List(list) => {
            let list: Vec<_> = list.iter().map(|item| text("", Some(item))).collect();
            format!("[{}]", list.join(", "))
        }
        SettingsValue::Map(map) => {
            let mut line = String::from("{");
            for (index, (key, value)) in map.iter().enumerate() {
                let separator = if index == 0 { " " } else { ", " };
                write!(line, "{separator}{key}: {}", text(key, Some(value)))
                    .expect("writing to a String cannot fail");
            }
            format!("{line} }}")
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{config::Checked, filter::Registry};
    use std::path::Path;

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
}

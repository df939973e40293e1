//! What cannot change while a process runs, each value in one spelling.

use super::{Checked, changes::Outline, secrets::MASK};
use crate::model::{Config, Listener, Server, Settings, scalar::duration_text};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::{collections::BTreeMap, path::Path};

/// The key under which a running instance tells of it, beside what its file says.
const KEY: &str = "fixed";
/// The keys of a listener that cannot change.
const OF_LISTENERS: [&str; 2] = ["address", "protocol"];

/// The keys whose values cannot change while a process runs, with these values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixed(BTreeMap<String, Value>);

/// A value in the one spelling that there is of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Value {
    value: String,
    /// Whether the file gives it. Defaults that depend on the machine or the user change nothing.
    given: bool,
}

impl Fixed {
    /// What cannot change of this configuration.
    pub fn of(checked: &Checked) -> Self {
        let Checked { config: Config { server, admin, listeners, .. }, outline, .. } = checked;
        let admin = admin.iter().map(|admin| (vec!["admin", "address"], admin.address.to_string()));
        let values = of_server(server).into_iter().chain(admin);
        let values = values.chain(listeners.iter().flat_map(of_listener));
        let value = |(path, value): (Vec<&str>, String)| {
            (path.join("."), Value { value, given: outline.at(&path).is_some() })
        };
        Self(values.map(value).collect())
    }

    /// The same without what is secret.
    #[must_use]
    pub fn masked(mut self, outline: &Outline) -> Self {
        for (key, value) in &mut self.0 {
            if outline.at(&path(key)).is_some_and(Settings::has_secret) {
                MASK.clone_into(&mut value.value);
            }
        }
        self
    }

    /// The keys that have another value than before, those of what came or went without their last step.
    pub fn changed_from(&self, before: &Self) -> Vec<String> {
        let gone = before.0.keys().filter(|key| !self.0.contains_key(*key));
        let mut changed: Vec<String> = gone.map(|key| whole(key)).collect();
        for (key, value) in &self.0 {
            match before.0.get(key) {
                None => changed.push(whole(key)),
                Some(before) if is_same(before, value) => {}
                Some(_) => changed.push(key.clone()),
            }
        }
        changed.sort_by_key(|key| place(key));
        changed.dedup();
        changed
    }

    /// What a running instance tells of it; `None` if it does not.
    pub fn from_json(json: &Json) -> Option<Self> {
        json.get(KEY).and_then(|fixed| Self::deserialize(fixed).ok())
    }

    /// Adds it to what an instance tells of its file.
    pub(super) fn add_to(&self, json: &mut Json) {
        json[KEY] = serde_json::to_value(self).expect("a map of texts can always be written");
    }
}

fn is_same(before: &Value, after: &Value) -> bool {
    before.value == after.value || !(before.given || after.given)
}

fn of_server(server: &Server) -> Vec<(Vec<&'static str>, String)> {
    let Server {
        threads,
        daemon,
        pid_file,
        upgrade_sock,
        error_log,
        user,
        group,
        drain_timeout,
        shutdown_delay,
        log_level,
        watch,
    } = server;
    let file = |path: &Path| path.display().to_string();
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    let values = [
        ("threads", threads.to_string()),
        ("daemon", daemon.to_string()),
        ("pid_file", file(pid_file)),
        ("upgrade_sock", file(upgrade_sock)),
        ("error_log", error_log.as_deref().map(file).unwrap_or_default()),
        ("user", name(user)),
        ("group", name(group)),
        ("drain_timeout", duration_text(*drain_timeout)),
        ("shutdown_delay", duration_text(*shutdown_delay)),
        ("log_level", log_level.to_string().to_lowercase()),
        ("watch", watch.to_string()),
    ];
    values.into_iter().map(|(key, value)| (vec!["server", key], value)).collect()
}

fn of_listener(listener: &Listener) -> Vec<(Vec<&str>, String)> {
    let protocol = if listener.is_http() { "http" } else { "tcp" };
    let values = [listener.address.to_string(), protocol.to_owned()];
    let name = listener.name.as_str();
    let one = |(key, value)| (vec!["listeners", name, key], value);
    OF_LISTENERS.into_iter().zip(values).map(one).collect()
}

/// The steps of a key. The name of a listener may have dots in it.
fn path(key: &str) -> Vec<&str> {
    match key.strip_prefix("listeners.").and_then(|rest| rest.rsplit_once('.')) {
        Some((name, last)) => vec!["listeners", name, last],
        None => key.split('.').collect(),
    }
}

/// What came or went with this key: a listener as a whole, or the key itself.
fn whole(key: &str) -> String {
    match path(key).as_slice() {
        ["listeners", name, _] => format!("listeners.{name}"),
        _ => key.to_owned(),
    }
}

/// Keys are told in the order of the reference.
fn place(key: &str) -> usize {
    ["server.", "admin.", "listeners."]
        .iter()
        .position(|section| key.starts_with(section))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Registry;

    fn read(text: &str) -> Checked {
        let text = format!("pools: {{ app: {{ backends: [a:1] }} }}\n{text}");
        crate::config::parse(&text, "lb.yaml", Path::new("/"), &|_| None, &Registry::default())
            .unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// What of the second file a reload would refuse, found with the configurations at hand, and found
    /// with what an instance tells of its own.
    fn changed(before: &str, after: &str) -> Vec<String> {
        let (before, after) = (read(before), read(after));
        let known = Fixed::of(&after).changed_from(&Fixed::of(&before));
        let told = Fixed::from_json(&before.to_json()).unwrap();
        assert_eq!(Fixed::of(&after).masked(&after.outline).changed_from(&told), known);
        known
    }

    #[test]
    fn another_spelling_is_no_change() {
        let before = "listeners: { web: { address: \"[::]:8080\" } }\n\
                      server: { drain_timeout: 30s, pid_file: /a/b }\n\
                      admin: { address: \"unix:/run/./a.sock\" }";
        let after = "server: { daemon: off, drain_timeout: 30000ms, pid_file: /a/b, watch: false, log_level: info }\n\
                     listeners: { web: { protocol: http, address: \"[::0]:8080\" } }\n\
                     admin: { address: \"unix:/run/a.sock\" }";
        assert_eq!(changed(before, after), [""; 0]);
        assert_eq!(changed(after, before), [""; 0]);
    }

    #[test]
    fn what_cannot_change_is_named() {
        let before = "server: { threads: 2 }\n\
                      listeners: { web: { address: 0.0.0.0:1 }, a.b: { address: 0.0.0.0:2 } }";
        for (after, expected) in [
            (
                "server: { threads: 3, log_level: warn }\n\
                 listeners: { web: { address: 0.0.0.0:1 }, a.b: { address: 0.0.0.0:3 } }",
                &["server.log_level", "server.threads", "listeners.a.b.address"][..],
            ),
            (
                "server: { threads: 2 }\nadmin: { address: 127.0.0.1:9 }\n\
                 listeners: { web: { address: 0.0.0.0:1, protocol: tcp, pool: app }, c: { address: 0.0.0.0:2 } }",
                &["admin.address", "listeners.a.b", "listeners.c", "listeners.web.protocol"],
            ),
        ] {
            assert_eq!(changed(before, after), expected, "{after}");
        }
    }
}

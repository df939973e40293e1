//! What a reload would change, and what only a hand-over can.

use super::App;
use crate::{
    config::{Checked, Outline},
    model::{Config, Listener},
};

/// What one configuration says otherwise than another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// What a reload logs, one change or group of changes a line.
    pub changes: Vec<String>,
    /// The keys that cannot change while a process runs, so that a reload is refused.
    pub fixed: Vec<String>,
}

impl App {
    /// What `after` says otherwise than `before`.
    pub fn difference(&self, before: &Checked, after: &Checked) -> Difference {
        let fixed = fixed_keys(before, after);
        Difference { changes: after.outline.changes_from(&before.outline), fixed }
    }

    /// The same where only what the files say is known, without the secrets in them.
    pub fn difference_of_outlines(&self, before: &Outline, after: &Outline) -> Difference {
        let fixed = after.fixed_keys(before);
        Difference { changes: after.changes_from(before), fixed }
    }
}

/// The keys that say something else and cannot change while the process runs.
pub(super) fn fixed_keys(before: &Checked, after: &Checked) -> Vec<String> {
    let mut fixed = Vec::new();
    if before.config.server != after.config.server {
        let keys = after.outline.changed_keys(&before.outline, "server");
        // A default that depends on the environment may have changed without the file.
        fixed.extend(if keys.is_empty() { vec!["server".to_owned()] } else { keys });
    }
    let admin = |checked: &Checked| checked.config.admin.as_ref().map(|it| it.address.clone());
    if admin(before) != admin(after) {
        fixed.push("admin.address".to_owned());
    }
    fixed.extend(fixed_listeners(&before.config, &after.config));
    fixed
}

fn fixed_listeners(before: &Config, after: &Config) -> Vec<String> {
    let find = |among: &[Listener], name| among.iter().position(|other| other.name == name);
    let mut fixed = Vec::new();
    for old in &before.listeners {
        match find(&after.listeners, old.name.clone()).map(|index| &after.listeners[index]) {
            None => fixed.push(format!("listeners.{}", old.name)),
            Some(new) if new.address != old.address => {
                fixed.push(format!("listeners.{}.address", old.name));
            }
            Some(new) if new.is_http() != old.is_http() => {
                fixed.push(format!("listeners.{}.protocol", old.name));
            }
            Some(_) => {}
        }
    }
    let new = after.listeners.iter();
    let new = new.filter(|listener| find(&before.listeners, listener.name.clone()).is_none());
    fixed.extend(new.map(|listener| format!("listeners.{}", listener.name)));
    fixed
}

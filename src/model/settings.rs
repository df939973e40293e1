//! Settings that are not read yet: a filter's, whose type only the filter knows.

use super::Position;

/// What stands in the place of a secret.
pub const MASK: &str = "(secret)";

/// A value of a filter's settings, and where it stands in the file. Environment variables are
/// replaced already.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the value is.
    pub at: Position,
    /// Where its key is, if it has one.
    pub key: Option<Position>,
    /// Whether it is a secret, by its key or by the variable that it comes from. It must not be shown.
    pub secret: bool,
    /// The value.
    pub value: SettingsValue,
}

/// A value as YAML structures it.
#[derive(Clone, Debug)]
pub enum SettingsValue {
    /// Nothing.
    Null,
    /// A text, in the form that a [`Template`](super::Template) is read from: `$$` is a dollar sign,
    /// and request variables stand in it, or the groups of a regular expression.
    Text(String),
    /// A list.
    List(Vec<Settings>),
    /// A map.
    Map(Vec<(String, Settings)>),
}

impl Settings {
    /// An empty map.
    pub fn none(at: Position) -> Self {
        Self { at, key: None, secret: false, value: SettingsValue::Map(Vec::new()) }
    }

    /// Whether this or what is in it is a secret.
    pub fn has_secret(&self) -> bool {
        let within = match &self.value {
            SettingsValue::Null | SettingsValue::Text(_) => false,
            SettingsValue::List(items) => items.iter().any(Self::has_secret),
            SettingsValue::Map(entries) => entries.iter().any(|(_, value)| value.has_secret()),
        };
        self.secret || within
    }

    /// Where a message about this value points: to a scalar, else to the key if there is one.
    pub fn position(&self) -> Position {
        match self.value {
            SettingsValue::Text(_) | SettingsValue::Null => self.at,
            SettingsValue::List(_) | SettingsValue::Map(_) => self.key.unwrap_or(self.at),
        }
    }

    /// The value at a path such as `keys[1].name`, to be changed.
    pub fn find_mut(&mut self, path: &str) -> Option<&mut Self> {
        let mut found = self;
        let steps = path.split(['.', '[']).map(|step| step.trim_end_matches(']'));
        for step in steps.filter(|step| !step.is_empty()) {
            found = match &mut found.value {
                SettingsValue::Map(entries) => {
                    entries.iter_mut().find(|(key, _)| key == step).map(|(_, value)| value)?
                }
                SettingsValue::List(items) => items.get_mut(step.parse::<usize>().ok()?)?,
                SettingsValue::Null | SettingsValue::Text(_) => return None,
            };
        }
        Some(found)
    }

    /// The value at a path such as `keys[1].name`, or as far as it leads.
    pub fn find(&self, path: &str) -> &Self {
        let mut found = self;
        for step in path.split(['.', '[']).map(|step| step.trim_end_matches(']')) {
            let next = match &found.value {
                SettingsValue::Map(entries) => {
                    entries.iter().find(|(key, _)| key == step).map(|(_, value)| value)
                }
                SettingsValue::List(items) => {
                    step.parse::<usize>().ok().and_then(|index| items.get(index))
                }
                SettingsValue::Null | SettingsValue::Text(_) => None,
            };
            let Some(next) = next else { break };
            found = next;
        }
        found
    }
}

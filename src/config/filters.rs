//! `filters:`, the steps of a route. Their settings are read by the filters themselves.

use super::{changes, diagnostic::Fault, reader::Field, secrets};
use crate::{
    filter::{Instance, Setup, Shown},
    model::{PoolName, Settings, SettingsValue},
};

const FILTERS: &str = "a list of filters";
const FILTER: &str = "one filter: its name and its settings, { name: { ... } }, or its name alone";

/// Reads the filters of a route and makes them. They may send requests to these `pools`.
pub(super) fn read(field: &Field<'_>, pools: &[PoolName]) -> Option<Vec<Instance>> {
    let items = field.items(FILTERS)?;
    // All are read, and so reported, before one that failed takes the list with it.
    let made: Vec<_> = items.iter().map(|item| make(item, pools)).collect();
    made.into_iter().collect()
}

fn make(item: &Field<'_>, pools: &[PoolName]) -> Option<Instance> {
    if item.is_scalar() {
        let name = item.text()?;
        return build(item, &name, &Settings::none(item.position()), pools);
    }
    let entries = item.entries(FILTER)?;
    let [(name, field)] = entries.as_slice() else {
        let found = format!("found a map with {} keys", entries.len());
        item.error(&Fault::new(found, FILTER));
        return None;
    };
    build(field, name, &field.settings()?, pools)
}

fn build(
    field: &Field<'_>,
    name: &str,
    settings: &Settings,
    pools: &[PoolName],
) -> Option<Instance> {
    let context = field.context();
    let mut setup = Setup::new(context.base(), pools);
    match context.filters().build(name, settings, &mut setup) {
        Ok(instance) => {
            let line = changes::line(settings);
            let shown = Shown { line, hides: settings.has_secret() };
            Some(Instance { settings: shown, ..instance })
        }
        Err(error) => {
            let position = error.position.unwrap_or_else(|| field.key_position());
            let message = shown(error.message, settings.find(&error.path));
            field.error_below(&error.path, position, &message);
            None
        }
    }
}

/// What a filter says of a value, without the value should it be a secret.
fn shown(message: String, about: &Settings) -> String {
    match &about.value {
        SettingsValue::Text(text) if about.secret => secrets::hide(&message, text),
        _ => message,
    }
}

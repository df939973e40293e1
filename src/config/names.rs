//! Names the user chose: of listeners, routes and pools, and references to them.

use super::{
    diagnostic::{alternatives, nearest, quote},
    reader::Field,
    scalar::Hint,
};
use crate::model::{InvalidName, Listener, ListenerName, PoolName};
use std::collections::HashSet;

/// What a name looks like, for messages.
pub(super) const NAME: &str =
    "a name of 1 to 128 visible ASCII characters without quotes, commas or backslashes";

/// The names that routes may refer to, all of them, whether or not what they name is in order: a
/// mistake inside a pool is no reason to call the pool unknown.
pub(super) struct Names<'a> {
    listeners: Known<'a>,
    /// The listeners that know no requests.
    tcp: HashSet<ListenerName>,
    pools: Known<'a>,
    /// Those of the pools, in file order, that are valid.
    valid_pools: Vec<PoolName>,
}

struct Known<'a> {
    in_order: Vec<&'a str>,
    set: HashSet<&'a str>,
}

impl<'a> Known<'a> {
    fn of(field: Option<&Field<'a>>) -> Self {
        let entries = field.filter(|field| field.is_map()).and_then(|field| field.entries(""));
        let in_order: Vec<&str> = entries.into_iter().flatten().map(|(name, _)| name).collect();
        let set = in_order.iter().copied().collect();
        Self { in_order, set }
    }

    fn hint(&self, text: &str, what: &str) -> Hint {
        let expected = match self.in_order.as_slice() {
            [] => format!("the name of a {what}, of which there are none"),
            names => alternatives(names.iter().copied()),
        };
        Hint {
            found: Some(format!("unknown {what} {}", quote(text))),
            expected: Some(expected),
            nearest: nearest(text, self.in_order.iter().copied()),
        }
    }
}

impl<'a> Names<'a> {
    pub(super) fn of(listeners: Option<&Field<'a>>, pools: Option<&Field<'a>>) -> Self {
        let (listeners, pools) = (Known::of(listeners), Known::of(pools));
        let valid_pools = pools.in_order.iter().filter_map(|name| PoolName::try_new(name).ok());
        Self { listeners, tcp: HashSet::new(), valid_pools: valid_pools.collect(), pools }
    }

    /// Learns which of the listeners speak no HTTP.
    pub(super) fn learn(&mut self, listeners: &[Listener]) {
        let tcp = listeners.iter().filter(|listener| !listener.is_http());
        self.tcp = tcp.map(|listener| listener.name.clone()).collect();
    }

    /// The only pool there is.
    pub(super) fn only_pool(&self) -> Option<&'a str> {
        match self.pools.in_order[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// How many pools there are.
    pub(super) fn pool_count(&self) -> usize {
        self.pools.in_order.len()
    }

    /// The pools, in file order.
    pub(super) fn pools(&self) -> &[PoolName] {
        &self.valid_pools
    }

    /// The pool called `text`.
    pub(super) fn pool(&self, text: &str) -> Result<PoolName, Hint> {
        if !self.pools.set.contains(text) {
            return Err(self.pools.hint(text, "pool"));
        }
        PoolName::try_new(text).map_err(|InvalidName| Hint::expected(NAME))
    }

    /// The listener called `text`, whose requests a route may match.
    pub(super) fn listener(&self, text: &str) -> Result<ListenerName, Hint> {
        if !self.listeners.set.contains(text) {
            return Err(self.listeners.hint(text, "listener"));
        }
        let name = ListenerName::try_new(text).map_err(|InvalidName| Hint::expected(NAME))?;
        if self.tcp.contains(&name) {
            let found =
                format!("listener {} with protocol tcp, which knows no requests", quote(text));
            return Err(Hint {
                found: Some(found),
                ..Hint::expected("a listener with protocol http")
            });
        }
        Ok(name)
    }
}

/// The key of `field` as a name.
pub(super) fn key_name<T>(
    key: &str,
    field: &Field<'_>,
    new: impl FnOnce(&str) -> Result<T, InvalidName>,
) -> Option<T> {
    let name = new(key);
    if name.is_err() {
        field.key_error(&Hint::default().fault(key, NAME));
    }
    name.ok()
}

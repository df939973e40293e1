//! The filters that are known, by name.

use super::{
    Filter, builtin,
    chain::{Instance, Shown},
    flow::Result,
    settings,
};
use crate::model::{
    Fault, PoolName, Position, Settings, Source,
    fault::{nearest, quote},
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use std::{cell::RefCell, collections::BTreeMap};

/// The filters that are known, by name: the built-in ones, and those that an application adds.
#[derive(Clone, Debug)]
pub struct Registry {
    kinds: BTreeMap<&'static str, Kind>,
    /// What is wrong with the filters that were added.
    faults: Vec<Fault>,
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    build: fn(&Settings, &mut Setup<'_>) -> Result<Instance, SettingsError>,
    schema: fn(&mut SchemaGenerator) -> Schema,
}

impl Default for Registry {
    /// The built-in filters.
    fn default() -> Self {
        let mut registry = Self { kinds: BTreeMap::new(), faults: Vec::new() };
        builtin::add_to(&mut registry);
        registry
    }
}

impl Registry {
    /// Makes the filter `F` known. A name that is taken or is none becomes an error of every
    /// configuration that is read with this registry.
    pub fn add<F: Filter>(&mut self) {
        if let Err(fault) = self.check::<F>() {
            self.faults.push(fault);
            return;
        }
        let kind = Kind { build: build::<F>, schema: F::Settings::json_schema };
        self.kinds.insert(F::NAME, kind);
    }

    fn check<F: Filter>(&self) -> Result<(), Fault> {
        let name = F::NAME;
        if !is_name(name) {
            let expected = "lower-case letters, digits and underscores, a letter first";
            return Err(Fault::new(format!("a filter called {}", quote(name)), expected));
        }
        if self.kinds.contains_key(name) {
            let found = format!("a second filter called {}", quote(name));
            return Err(Fault::new(found, format!("another name than {}", self.list())));
        }
        if settings::takes_unknown_keys::<F::Settings>() {
            let found = format!("the settings of filter {name} take any key");
            return Err(Fault::new(found, "#[serde(deny_unknown_fields)] on them"));
        }
        Ok(())
    }

    /// What is wrong with the filters that were added: two of one name, or a name that is none.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// The names of all filters, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.kinds.keys().copied()
    }

    fn list(&self) -> String {
        let names: Vec<&str> = self.names().collect();
        match names.split_last() {
            Some((last, others)) if !others.is_empty() => {
                format!("{} or {last}", others.join(", "))
            }
            _ => names.join(""),
        }
    }

    /// The JSON Schema of the settings of the filter `name`.
    pub fn schema(&self, name: &str, generator: &mut SchemaGenerator) -> Option<Schema> {
        Some((self.kinds.get(name)?.schema)(generator))
    }

    /// Makes a filter from its settings.
    pub(crate) fn build(
        &self,
        name: &str,
        settings: &Settings,
        setup: &mut Setup<'_>,
    ) -> Result<Instance, SettingsError> {
        match self.kinds.get(name) {
            Some(kind) => (kind.build)(settings, setup),
            None => Err(self.unknown(name).into()),
        }
    }

    fn unknown(&self, name: &str) -> Fault {
        Fault::new(format!("unknown filter {}", quote(name)), self.list())
            .with_nearest(nearest(name, self.names()))
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn build<F: Filter>(node: &Settings, setup: &mut Setup<'_>) -> Result<Instance, SettingsError> {
    let settings = settings::read::<F::Settings>(node, setup.base, &setup.files)?;
    instance::<F>(settings, setup).map_err(|error| error.locate(node))
}

/// Makes the filter `F` from settings that were read.
pub(crate) fn instance<F: Filter>(
    settings: F::Settings,
    setup: &mut Setup<'_>,
) -> Result<Instance, SettingsError> {
    let filter = F::new(settings, setup)?;
    let pools = std::mem::take(&mut setup.used);
    let files = setup.files.take();
    Ok(Instance { filter: Box::new(filter), pools, files, settings: Shown::default() })
}

/// What a constructor may ask of the configuration that its filter is in.
#[derive(Debug)]
pub struct Setup<'s> {
    /// Relative paths start from here.
    base: &'s std::path::Path,
    /// The pools, in file order.
    pools: &'s [PoolName],
    /// The pools that were asked for.
    used: Vec<PoolName>,
    /// The files that the settings name.
    files: RefCell<Vec<Source>>,
}

impl<'s> Setup<'s> {
    pub(crate) fn new(base: &'s std::path::Path, pools: &'s [PoolName]) -> Self {
        Self { base, pools, used: Vec::new(), files: RefCell::default() }
    }

    /// The pool called `name`, for [`Request::set_pool`](super::Request::set_pool).
    ///
    /// # Errors
    /// When there is none.
    pub fn pool(&mut self, name: &str) -> Result<PoolRef, SettingsError> {
        let Some(index) = self.pools.iter().position(|pool| pool.as_str() == name) else {
            let names = || self.pools.iter().map(PoolName::as_str);
            let fault = Fault::new(
                format!("unknown pool {}", quote(name)),
                crate::model::fault::alternatives(names()),
            );
            return Err(fault.with_nearest(nearest(name, names())).into());
        };
        self.used.push(self.pools[index].clone());
        Ok(PoolRef { index, name: self.pools[index].clone() })
    }
}

/// A pool of the configuration that a filter is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRef {
    /// Its place in the file.
    pub(crate) index: usize,
    name: PoolName,
}

impl PoolRef {
    /// The pool's name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }
}

/// What is wrong with a filter's settings, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// The key path below the filter's name, such as `keys[1]`; empty for the filter as a whole.
    pub(crate) path: String,
    /// Where that is in the file; `None` until it was looked up.
    pub(crate) position: Option<Position>,
    pub(crate) message: String,
}

impl SettingsError {
    /// Something was `found` where something else was `expected`.
    pub fn new(found: impl Into<String>, expected: impl Into<String>) -> Self {
        Fault::new(found, expected).into()
    }

    /// The error with the key that it is about, such as `keys[1]` or `limits.max`.
    #[must_use]
    pub fn at(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// The error with a valid spelling that was probably meant.
    #[must_use]
    pub fn suggest(mut self, nearest: &str) -> Self {
        self.message = format!("{}; did you mean {}?", self.message, quote(nearest));
        self
    }

    /// Looks up where the path is.
    fn locate(mut self, settings: &Settings) -> Self {
        self.position = Some(settings.find(&self.path).position());
        self
    }
}

impl From<Fault> for SettingsError {
    fn from(fault: Fault) -> Self {
        Self { path: String::new(), position: None, message: fault.to_string() }
    }
}

impl std::fmt::Display for SettingsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for SettingsError {}

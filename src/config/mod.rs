//! Configuration: from a file's text to the validated model, with all errors at once.
//!
//! This is the only place that reads configuration. It goes in two steps. `tree` turns YAML into
//! scalars, lists and maps that know their place, and leaves every scalar a text. Then one module a
//! section reads those into the model with the accumulating readers of `reader`: an unknown key, a
//! wrong type, a value out of range or a dangling reference is reported and reading goes on, so
//! that one run shows every mistake. Whatever is reported has the shape of a [`Fault`]: what was
//! found, what was expected, and the nearest valid spelling.
//!
//! Keys are those that work. A key that is not in its section's `KEYS` is unknown, whatever the
//! future holds for it.

mod access_log;
mod action;
mod admin;
mod backend;
mod balance;
mod changes;
mod diagnostic;
mod document;
mod effective;
mod ejection;
mod env;
mod filters;
mod fixed;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod health_check;
mod http;
mod listener;
mod matches;
mod names;
mod pool;
mod quick;
mod reader;
mod retry;
mod route;
mod schema;
mod secrets;
mod server;
mod sticky;
mod streams;
mod tls;
mod tree;
mod trusted_proxies;
mod unused;
mod warnings;

#[cfg(test)]
mod tests;

pub use crate::model::{
    Fault, Position,
    scalar::{parse_duration, parse_percent},
};
pub use changes::Outline;
pub use diagnostic::{ConfigErrors, Diagnostic};
pub use fixed::Fixed;
#[cfg(any(test, fuzzing))]
pub(crate) use fuzz::fuzz;
pub use quick::{Quick, quick};
pub use schema::schema;

use crate::{
    filter::{Chain, Instance, Registry},
    model::{Amendment, Backend, Config, PoolName, Settings, Source, Stamp, scalar},
};
use log::LevelFilter;
use reader::{Context, Field};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    string::FromUtf8Error,
};

/// The largest file that is read, in bytes: far above any configuration, far below what hurts.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// A configuration without errors, and what about it looks like a mistake.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// The filters of each of its routes, in the order of the routes.
    pub filters: Vec<Chain>,
    /// What the file says, to be compared with another.
    pub outline: Outline,
    /// The file, if it is one.
    pub source: Option<PathBuf>,
    /// The file, and those that it names and that are read once with it, as they were then. Those of
    /// certificates are followed by what is made of them.
    pub files: Vec<Source>,
    /// What is legal but surely a mistake, in file order.
    pub warnings: Vec<Diagnostic>,
}

impl Checked {
    /// The effective configuration as YAML: environment variables replaced, defaults filled in,
    /// secrets masked.
    pub fn effective(&self, filters: &Registry) -> String {
        effective::yaml(&self.outline, &self.config.server, filters)
    }

    /// The same as JSON.
    pub fn effective_json(&self, filters: &Registry) -> serde_json::Value {
        effective::json(&self.outline, &self.config.server, filters)
    }

    /// What the file says as JSON, without what is secret, and in the same way what of it cannot change
    /// while a process runs.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = self.outline.to_json();
        if json.is_object() {
            Fixed::of(self).masked(&self.outline).add_to(&mut json);
        }
        json
    }

    /// A number of 48 bits, so that any float can hold it, that differs where the effective
    /// configuration does, secrets and what the machine decides aside.
    pub fn hash(&self, filters: &Registry) -> u64 {
        effective::hash(&self.outline, filters)
    }
}

impl From<Config> for Checked {
    /// A configuration that comes from no file and has no filters.
    fn from(config: Config) -> Self {
        let nowhere = Settings::none(Position { line: 1, column: 1 });
        let outline = Outline::new(nowhere);
        let (filters, files, warnings) = (Vec::new(), Vec::new(), Vec::new());
        Self { config, filters, outline, source: None, files, warnings }
    }
}

/// Reads the configuration in the file at `path`. Environment variables are those of the process,
/// and relative paths in the file start from its folder. `filters` are those that routes may name.
///
/// # Errors
/// Every error in the file, or that the file cannot be read.
pub fn load(path: &Path, filters: &Registry) -> Result<Checked, ConfigErrors> {
    let file = path.display().to_string();
    let unreadable = |error: io::Error| {
        let fault = Fault::new(format!("cannot read the file: {error}"), "a readable YAML file");
        ConfigErrors::single(&file, None, &fault)
    };
    let (bytes, stamp) = read_bytes(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|error| not_utf_8(&file, &error))?;
    let absolute = std::path::absolute(path).map_err(unreadable)?;
    let base = absolute.parent().unwrap_or(Path::new("/"));
    let checked = parse(&text, &file, base, &|name| std::env::var(name).ok(), filters)?;
    let own = Source { path: absolute.clone(), stamp };
    let files = std::iter::once(own).chain(checked.files).collect();
    Ok(Checked { source: Some(absolute), files, ..checked })
}

fn read_bytes(path: &Path) -> io::Result<(Vec<u8>, Stamp)> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 64MiB"));
    }
    Ok((bytes, stamp))
}

/// The error of a file that is no text, at the first byte that is none.
fn not_utf_8(file: &str, error: &FromUtf8Error) -> ConfigErrors {
    let (before, _) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
    let before = String::from_utf8_lossy(before);
    let last = before.rsplit('\n').next().unwrap_or_default();
    let number = |count: usize| u32::try_from(count + 1).unwrap_or(u32::MAX);
    let position = Position {
        line: number(before.matches('\n').count()),
        column: number(last.chars().count()),
    };
    ConfigErrors::single(
        file,
        Some(position),
        &Fault::new("a byte that is not UTF-8", "text in UTF-8"),
    )
}

/// Reads the configuration in `text`. Messages call it `file`, relative paths start from `base`,
/// `env` looks environment variables up, and `filters` are those that routes may name.
///
/// # Errors
/// Every error in the text; an error of YAML syntax stands alone.
///
/// ```
/// use std::path::Path;
///
/// let text = "
/// listeners: { web: { address: 0.0.0.0:8080 } }
/// pools: { app: { backends: [127.0.0.1:9001], balance: roundrobin } }
/// ";
/// let filters = pingora_lb::filter::Registry::default();
/// let errors = pingora_lb::config::parse(text, "lb.yaml", Path::new("/"), &|_| None, &filters)
///     .unwrap_err();
/// assert_eq!(
///     errors.to_string(),
///     "lb.yaml:3:54: pools.app.balance: unknown policy \"roundrobin\"; \
///      expected round_robin, random, least_connections, p2c, peak_ewma, ring_hash or maglev; \
///      did you mean \"round_robin\"?"
/// );
/// ```
pub fn parse(
    text: &str,
    file: &str,
    base: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    filters: &Registry,
) -> Result<Checked, ConfigErrors> {
    let context = Context::new(file, base, env, filters);
    let (((config, filters), outline), warnings) = read_tree(text, context, |root| {
        let read = document::read(root);
        // Where something is wrong, it was reported already.
        let outline = if root.context().has_errors() { None } else { root.settings() };
        read.zip(Some(outline.unwrap_or_else(|| Settings::none(root.position()))))
    })?;
    let files = filters.iter().flat_map(|chain: &Chain| chain.files().to_vec()).collect();
    let outline = Outline::new(outline);
    Ok(Checked { config, filters, outline, source: None, files, warnings })
}

/// Reads a list of filters alone, as a route has it, with the names of the pools that they may send
/// requests to. Messages call the text `filters`; the rest is as for [`parse`].
pub(crate) fn parse_filters(
    text: &str,
    base: &Path,
    filters: &Registry,
    pools: &[PoolName],
) -> Result<Vec<Instance>, ConfigErrors> {
    let env = |name: &str| std::env::var(name).ok();
    let context = Context::new("filters", base, &env, filters);
    let read = |field: &Field<'_>| self::filters::read(field, pools);
    read_tree(text, context, read).map(|(instances, _)| instances)
}

/// Reads a backend as a pool has it, from YAML or JSON. Messages call the text `request`; relative paths
/// start from `base`. Environment variables are nobody's business here.
///
/// # Errors
/// Every error in the text.
pub fn parse_backend(text: &str, base: &Path) -> Result<Backend, ConfigErrors> {
    parse_request(text, base, backend::read_one)
}

/// Reads what is decided of a backend at run time, in the same way.
///
/// # Errors
/// Every error in the text.
pub fn parse_amendment(text: &str) -> Result<Amendment, ConfigErrors> {
    parse_request(text, Path::new("/"), backend::read_amendment)
}

/// Reads which messages are to be logged, as `level`, in the same way.
///
/// # Errors
/// Every error in the text.
pub fn parse_log_level(text: &str) -> Result<LevelFilter, ConfigErrors> {
    parse_request(text, Path::new("/"), server::read_log_level)
}

fn parse_request<T>(
    text: &str,
    base: &Path,
    read: impl FnOnce(&Field<'_>) -> Option<T>,
) -> Result<T, ConfigErrors> {
    let filters = Registry::default();
    let context = Context::new("request", base, &|_| None, &filters);
    read_tree(text, context, read).map(|(value, _)| value)
}

/// Reads the YAML in `text` with `read`; its value and the warnings, or all errors.
fn read_tree<T>(
    text: &str,
    context: Context<'_>,
    read: impl FnOnce(&Field<'_>) -> Option<T>,
) -> Result<(T, Vec<Diagnostic>), ConfigErrors> {
    let file = context.file();
    if !context.filters().faults().is_empty() {
        return Err(ConfigErrors::general(file, context.filters().faults()));
    }
    let root = tree::parse(text)
        .map_err(|error| ConfigErrors::single(file, error.position, &error.fault))?;
    let value = read(&Field::root(&context, &root));
    let warnings = context.finish()?;
    // Whatever yields no value has reported why, so this is not reached.
    let nothing = || Fault::new("nothing", "a configuration");
    let value = value.ok_or_else(|| ConfigErrors::single(file, None, &nothing()))?;
    Ok((value, warnings))
}

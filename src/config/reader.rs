//! Reading the tree without stopping at the first error.
//!
//! A [`Field`] is a value with its key path; a [`Section`] is a field that is a map with known keys.
//! Each reader reports what is wrong and then yields nothing, so its caller reads on with a default
//! or without the value. Any report makes the whole configuration an error, so what was read in the
//! place of a wrong value is never used.

use super::{
    diagnostic::{ConfigErrors, Diagnostic, Fault, Position, alternatives, quote},
    env::{self, Environment, RequestVariables},
    scalar::{self, Hint},
    secrets,
    tree::{Entry, Node, Value},
};
use crate::{
    filter::Registry,
    model::{Percent, Settings, SettingsValue},
};
use std::{
    cell::RefCell,
    collections::HashMap,
    num::NonZeroUsize,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

/// The most of anything that is counted: connections, or requests on one.
const MAX_COUNT: u64 = 1_000_000_000;

/// The keys of one kind of section.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Keys {
    /// The path of the section, `*` for a name or an index; empty at the top.
    pub(super) section: &'static str,
    /// The keys in the order of the documentation.
    pub(super) names: &'static [&'static str],
}

/// What all readers of one file share.
pub(super) struct Context<'a> {
    file: &'a str,
    base: &'a Path,
    env: Environment<'a>,
    filters: &'a Registry,
    errors: RefCell<Vec<Diagnostic>>,
    warnings: RefCell<Vec<Diagnostic>>,
}

impl<'a> Context<'a> {
    pub(super) fn new(
        file: &'a str,
        base: &'a Path,
        env: Environment<'a>,
        filters: &'a Registry,
    ) -> Self {
        let (errors, warnings) = (RefCell::default(), RefCell::default());
        Self { file, base, env, filters, errors, warnings }
    }

    /// What messages call the file.
    pub(super) fn file(&self) -> &'a str {
        self.file
    }

    /// The filters that are known.
    pub(super) fn filters(&self) -> &'a Registry {
        self.filters
    }

    /// The folder that relative paths start from.
    pub(super) fn base(&self) -> &Path {
        self.base
    }

    /// An environment variable.
    pub(super) fn env(&self, name: &str) -> Option<String> {
        (self.env)(name)
    }

    /// Whether an error was reported.
    pub(super) fn has_errors(&self) -> bool {
        !self.errors.borrow().is_empty()
    }

    /// The warnings if there was no error, else all errors.
    pub(super) fn finish(self) -> Result<Vec<Diagnostic>, ConfigErrors> {
        let errors = self.errors.into_inner();
        if !errors.is_empty() {
            return Err(ConfigErrors::sorted(errors));
        }
        let mut warnings = self.warnings.into_inner();
        warnings.sort_by_key(|warning| warning.position);
        Ok(warnings)
    }

    fn diagnostic(&self, position: Position, path: &str, fault: &Fault) -> Diagnostic {
        Diagnostic::new(self.file, Some(position), path, fault)
    }
}

/// A value with its key path.
#[derive(Clone)]
pub(super) struct Field<'a> {
    context: &'a Context<'a>,
    path: String,
    node: &'a Node,
    /// Where the key is, if the value has one.
    key: Option<Position>,
}

impl<'a> Field<'a> {
    /// The whole file.
    pub(super) fn root(context: &'a Context<'a>, node: &'a Node) -> Self {
        Self { context, path: String::new(), node, key: None }
    }

    /// What all readers share.
    pub(super) fn context(&self) -> &'a Context<'a> {
        self.context
    }

    /// The path of its key.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Where a message about this value points: to a scalar, else to the key if there is one.
    pub(super) fn position(&self) -> Position {
        match self.node.value {
            Value::Scalar(_) => self.node.position,
            _ => self.key.unwrap_or(self.node.position),
        }
    }

    /// Where the key of this value is, or the value if it has none.
    pub(super) fn key_position(&self) -> Position {
        self.key.unwrap_or(self.node.position)
    }

    /// The value of the key `entry` in this map.
    fn under(&self, entry: &'a Entry) -> Self {
        let separator = if self.path.is_empty() { "" } else { "." };
        let path = format!("{}{separator}{}", self.path, entry.key);
        Self { context: self.context, path, node: &entry.node, key: Some(entry.position) }
    }

    /// Reports an error about this value.
    pub(super) fn error(&self, fault: &Fault) {
        let diagnostic = self.context.diagnostic(self.position(), &self.path, &self.hidden(fault));
        self.context.errors.borrow_mut().push(diagnostic);
    }

    /// The fault without this value, should it be a secret.
    fn hidden(&self, fault: &Fault) -> Fault {
        let Some(secret) = self.secret() else { return fault.clone() };
        Fault { found: secrets::hide(&fault.found, &secret), nearest: None, ..fault.clone() }
    }

    /// The value if it is a single one and a secret.
    fn secret(&self) -> Option<String> {
        let Value::Scalar(text) = &self.node.value else { return None };
        if !secrets::is_named(&self.path) && !secrets::has_secret_variable(text) {
            return None;
        }
        let value = env::expand(text, RequestVariables::Kept, self.context.env).ok()?;
        secrets::hides(&value).then(|| value.into_owned())
    }

    /// Whether this or what is in it is a secret.
    pub(super) fn has_secret(&self) -> bool {
        match &self.node.value {
            Value::Null => false,
            Value::Scalar(_) => self.secret().is_some(),
            Value::List(nodes) => {
                let mut items = nodes.iter().enumerate();
                items.any(|(index, node)| self.item(index, node).has_secret())
            }
            Value::Map(entries) => entries.iter().any(|entry| self.under(entry).has_secret()),
        }
    }

    /// The item at `index` of this list.
    fn item(&self, index: usize, node: &'a Node) -> Self {
        let path = format!("{}[{index}]", self.path);
        Self { context: self.context, path, node, key: None }
    }

    /// Reports an error about what is at `path` below this value, in words that are put together
    /// already.
    pub(super) fn error_below(&self, path: &str, position: Position, message: &str) {
        let separator = if path.is_empty() || path.starts_with('[') { "" } else { "." };
        let path = format!("{}{separator}{path}", self.path);
        let diagnostic = Diagnostic::said(self.context.file, Some(position), &path, message);
        self.context.errors.borrow_mut().push(diagnostic);
    }

    /// The value as settings that somebody else reads. What is wrong with its variables is
    /// reported.
    pub(super) fn settings(&self) -> Option<Settings> {
        let value = match &self.node.value {
            Value::Null => SettingsValue::Null,
            Value::Scalar(_) => SettingsValue::Text(self.expanded("", RequestVariables::Kept)?),
            Value::List(_) => {
                let items: Vec<_> = self.items("")?.iter().map(Self::settings).collect();
                SettingsValue::List(items.into_iter().collect::<Option<_>>()?)
            }
            Value::Map(_) => {
                let entry = |(key, field): (&str, Self)| Some((key.to_owned(), field.settings()?));
                let entries: Vec<_> = self.entries("")?.into_iter().map(entry).collect();
                SettingsValue::Map(entries.into_iter().collect::<Option<_>>()?)
            }
        };
        let secret = self.secret().is_some();
        Some(Settings { at: self.node.position, key: self.key, secret, value })
    }

    /// Reports an error about the key of this value. The spelling that was probably meant is that of
    /// a key, and so says nothing of the value, be that a secret.
    pub(super) fn key_error(&self, fault: &Fault) {
        let fault = Fault { nearest: fault.nearest.clone(), ..self.hidden(fault) };
        let diagnostic = self.context.diagnostic(self.key_position(), &self.path, &fault);
        self.context.errors.borrow_mut().push(diagnostic);
    }

    /// Reports something that is legal but surely a mistake.
    pub(super) fn warning(&self, fault: &Fault) {
        let position = self.position();
        let diagnostic = self.context.diagnostic(position, &self.path, &self.hidden(fault));
        self.context.warnings.borrow_mut().push(diagnostic);
    }

    fn wrong_type(&self, expected: &str) {
        let found = match &self.node.value {
            Value::Null => "found null".to_owned(),
            Value::List(_) => "found a list".to_owned(),
            Value::Map(_) => "found a map".to_owned(),
            Value::Scalar(text) => {
                match env::expand(text, RequestVariables::Refused, self.context.env) {
                    Ok(text) => format!("found {}", quote(&text)),
                    Err(fault) => return self.error(&fault),
                }
            }
        };
        self.error(&Fault::new(found, expected));
    }

    /// Whether this is a single value rather than a list or a map.
    pub(super) fn is_scalar(&self) -> bool {
        matches!(self.node.value, Value::Scalar(_))
    }

    /// Whether this is a list without items.
    pub(super) fn is_empty_list(&self) -> bool {
        matches!(&self.node.value, Value::List(items) if items.is_empty())
    }

    /// Whether this is a map.
    pub(super) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    /// Whether this is a list.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    /// Whether this is `off` or `false`.
    pub(super) fn is_off(&self) -> bool {
        self.is_one_of(&["off", "false"])
    }

    /// Whether this is one of these words. Nothing is reported.
    pub(super) fn is_one_of(&self, words: &[&str]) -> bool {
        let Value::Scalar(text) = &self.node.value else { return false };
        let text = env::expand(text, RequestVariables::Refused, self.context.env);
        text.is_ok_and(|text| words.contains(&text.as_ref()))
    }

    fn expanded(&self, expected: &str, variables: RequestVariables) -> Option<String> {
        let Value::Scalar(text) = &self.node.value else {
            self.wrong_type(expected);
            return None;
        };
        match env::expand(text, variables, self.context.env) {
            Ok(text) => Some(text.into_owned()),
            Err(fault) => {
                self.error(&fault);
                None
            }
        }
    }

    /// A scalar that `parse` accepts, its environment variables replaced.
    pub(super) fn scalar<T>(
        &self,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, Hint>,
    ) -> Option<T> {
        let text = self.expanded(expected, RequestVariables::Refused)?;
        self.accept(&text, expected, parse)
    }

    /// A scalar that may have request variables in it.
    pub(super) fn template<T>(
        &self,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, Hint>,
    ) -> Option<T> {
        let text = self.expanded(expected, RequestVariables::Kept)?;
        self.accept(&text, expected, parse)
    }

    fn accept<T>(
        &self,
        text: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, Hint>,
    ) -> Option<T> {
        parse(text).map_err(|hint| self.error(&hint.fault(text, expected))).ok()
    }

    /// Any text, empty or not.
    pub(super) fn text(&self) -> Option<String> {
        self.scalar("a text", |text| Ok(text.to_owned()))
    }

    /// A whole number in `range`.
    pub(super) fn integer(&self, range: RangeInclusive<u64>) -> Option<u64> {
        self.scalar(&scalar::integer_in(&range), |text| scalar::integer(text, &range))
    }

    /// A number of which 0 is no limit.
    #[allow(clippy::option_option, reason = "no limit, and unreadable, are two things")]
    pub(super) fn count(&self) -> Option<Option<NonZeroUsize>> {
        let count = self.integer(0..=MAX_COUNT)?;
        Some(usize::try_from(count).ok().and_then(NonZeroUsize::new))
    }

    /// A percentage, 0% and 100% included.
    pub(super) fn percent(&self) -> Option<Percent> {
        self.scalar(scalar::PERCENT, scalar::percent)
    }

    /// `true` or `false`.
    pub(super) fn switch(&self) -> Option<bool> {
        self.scalar(scalar::SWITCH, scalar::switch)
    }

    /// A duration, `0s` included.
    pub(super) fn duration(&self) -> Option<Duration> {
        self.scalar(scalar::DURATION, scalar::duration)
    }

    /// A duration above zero.
    pub(super) fn positive_duration(&self) -> Option<Duration> {
        self.scalar(scalar::DURATION, scalar::positive_duration)
    }

    /// A duration of at least `least`, which is the value of the key `name`.
    pub(super) fn duration_from(&self, least: Duration, name: &str) -> Option<Duration> {
        self.scalar(scalar::DURATION, |text| match scalar::duration(text)? {
            duration if duration >= least => Ok(duration),
            _ => Err(Hint::expected(format!(
                "a duration of at least that of {name}, {}",
                scalar::duration_text(least)
            ))),
        })
    }

    /// A size in `range`, which `expected` describes.
    pub(super) fn size(&self, range: &RangeInclusive<u64>, expected: &str) -> Option<u64> {
        self.scalar(scalar::SIZE, |text| match scalar::size(text) {
            Ok(size) if range.contains(&size) => Ok(size),
            Ok(_) => Err(Hint::expected(expected)),
            Err(hint) => Err(hint),
        })
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, what: &str, words: &[(&str, T)]) -> Option<T> {
        let expected = alternatives(words.iter().map(|(word, _)| *word));
        self.scalar(&expected, |text| scalar::word(text, what, words))
    }

    /// A path in the file system; a relative one starts from the configuration file's folder.
    pub(super) fn file(&self) -> Option<PathBuf> {
        self.scalar("the path of a file", |text| file_path(text, self.context.base))
    }

    /// The items of a list, which may be empty.
    pub(super) fn items(&self, expected: &str) -> Option<Vec<Self>> {
        let Value::List(nodes) = &self.node.value else {
            self.wrong_type(expected);
            return None;
        };
        Some(nodes.iter().enumerate().map(|(index, node)| self.item(index, node)).collect())
    }

    /// The items of a list that has at least one.
    pub(super) fn some_items(&self, expected: &str) -> Option<Vec<Self>> {
        let items = self.items(expected)?;
        if items.is_empty() {
            self.error(&Fault::new("found an empty list", expected));
            return None;
        }
        Some(items)
    }

    /// Each item of a list that has at least one, as `read` reads it.
    pub(super) fn some_list<T>(
        &self,
        expected: &str,
        read: impl Fn(&Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let items = self.some_items(expected)?;
        // All items are read, and so reported, before one that failed takes the list with it.
        let values: Vec<Option<T>> = items.iter().map(read).collect();
        values.into_iter().collect()
    }

    /// The entries of a map whose keys are names of the user's.
    pub(super) fn entries(&self, expected: &str) -> Option<Vec<(&'a str, Self)>> {
        let Value::Map(entries) = &self.node.value else {
            self.wrong_type(expected);
            return None;
        };
        Some(entries.iter().map(|entry| (entry.key.as_str(), self.under(entry))).collect())
    }

    /// The value of `key` if this is a map that has it.
    pub(super) fn find(&self, key: &str) -> Option<Self> {
        let Value::Map(entries) = &self.node.value else { return None };
        entries.iter().find(|entry| entry.key == key).map(|entry| self.under(entry))
    }

    /// A map with known keys. Unknown ones are reported here.
    pub(super) fn section(&self, keys: &'static Keys) -> Option<Section<'a>> {
        self.section_where(keys, || expected_section(keys))
    }

    /// A map with known keys in a place where `off` may stand too, which the caller has looked for.
    pub(super) fn section_if_on(&self, keys: &'static Keys) -> Option<Section<'a>> {
        self.section_where(keys, || format!("off, or {}", expected_section(keys)))
    }

    fn section_where(
        &self,
        keys: &'static Keys,
        expected: impl FnOnce() -> String,
    ) -> Option<Section<'a>> {
        let Value::Map(entries) = &self.node.value else {
            self.wrong_type(&expected());
            return None;
        };
        for entry in entries.iter().filter(|entry| !keys.names.contains(&entry.key.as_str())) {
            self.unknown_key(entry, keys);
        }
        Some(Section { field: self.clone(), entries, keys })
    }

    fn unknown_key(&self, entry: &'a Entry, keys: &Keys) {
        let expected = match keys.names {
            [] => "no key here".to_owned(),
            names => alternatives(names.iter().copied()),
        };
        let fault = Fault::new(format!("unknown key {}", quote(&entry.key)), expected)
            .with_nearest(scalar::meant(&entry.key, keys.names.iter().copied()));
        self.under(entry).key_error(&fault);
    }
}

/// The path of a file, made absolute with `base`.
pub(super) fn file_path(text: &str, base: &Path) -> Result<PathBuf, Hint> {
    if text.is_empty() || text.contains('\0') { Err(Hint::default()) } else { Ok(base.join(text)) }
}

fn expected_section(keys: &Keys) -> String {
    match keys.names {
        [] => "an empty map, {}".to_owned(),
        names => format!("a map with {}", alternatives(names.iter().copied())),
    }
}

/// A map with known keys.
pub(super) struct Section<'a> {
    field: Field<'a>,
    entries: &'a [Entry],
    keys: &'static Keys,
}

impl<'a> Section<'a> {
    /// The section as a value.
    pub(super) fn field(&self) -> &Field<'a> {
        &self.field
    }

    /// The value of `key` if it is given.
    pub(super) fn get(&self, key: &str) -> Option<Field<'a>> {
        debug_assert!(self.keys.names.contains(&key), "{key} is no key of {}", self.keys.section);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(self.field.under(entry))
    }

    /// The value of `key`, which is an error if it is missing.
    pub(super) fn require(&self, key: &str, expected: &str) -> Option<Field<'a>> {
        let value = self.get(key);
        if value.is_none() {
            self.field.error(&Fault::new(format!("missing key {}", quote(key)), expected));
        }
        value
    }

    /// What `read` makes of the value of `key`; `default` if it is not given.
    pub(super) fn or<T>(
        &self,
        key: &str,
        default: T,
        read: impl FnOnce(&Field<'a>) -> Option<T>,
    ) -> T {
        self.optional(key, read).unwrap_or(default)
    }

    /// The same, and `None` if the value is wrong, for what another key is compared with.
    pub(super) fn try_or<T>(
        &self,
        key: &str,
        default: T,
        read: impl FnOnce(&Field<'a>) -> Option<T>,
    ) -> Option<T> {
        self.get(key).map_or(Some(default), |field| read(&field))
    }

    /// What `read` makes of the value of `key`; `None` if it is not given.
    pub(super) fn optional<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Field<'a>) -> Option<T>,
    ) -> Option<T> {
        self.get(key).and_then(|field| read(&field))
    }

    /// The keys among `names` that are given; more than one is an error.
    pub(super) fn at_most_one<'n>(&self, names: &[&'n str]) -> Option<(&'n str, Field<'a>)> {
        let mut given = names.iter().filter_map(|name| Some((*name, self.get(name)?)));
        let first = given.next()?;
        for (name, field) in given {
            let fault = Fault::new(
                format!("{} beside {}", quote(name), quote(first.0)),
                format!("only one of {}", alternatives(names.iter().copied())),
            );
            field.key_error(&fault);
        }
        Some(first)
    }
}

/// Values that may occur once, with where each was seen first.
#[derive(Default)]
pub(super) struct Once(HashMap<String, (String, Position)>);

impl Once {
    /// Reports `value` at `field` if it was seen before. `what` says what kind of value it is.
    pub(super) fn check(&mut self, value: &str, what: &str, field: &Field<'_>) -> bool {
        let Some((path, position)) = self.0.get(value) else {
            self.0.insert(value.to_owned(), (field.path.clone(), field.position()));
            return true;
        };
        let fault = Fault::new(
            format!("duplicate {what} {}", quote(value)),
            format!("each {what} once; the first, {path}, is on line {}", position.line),
        );
        field.error(&fault);
        false
    }
}

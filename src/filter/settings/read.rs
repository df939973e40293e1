//! Reading settings with serde, so that every error knows its place in the file.

use crate::{
    filter::SettingsError,
    model::{
        Fault, Position, Settings, SettingsValue, Source, Stamp, Template, Variable,
        fault::{alternatives, quote},
        scalar,
    },
};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer,
    MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor, value::StrDeserializer,
};
use std::{
    borrow::Cow,
    cell::RefCell,
    fmt,
    fs::{self, Metadata},
    path::{Path, PathBuf},
};

/// The name by which a type asks for a text with its request variables.
pub(super) const TEMPLATE: &str = "pingora_lb::Template";
/// The name by which a type asks for the path of a file, made absolute.
pub(super) const FILE_PATH: &str = "pingora_lb::FilePath";

/// Where relative paths start from, and which files the settings name.
#[derive(Clone, Copy)]
struct Base<'s> {
    folder: &'s Path,
    files: &'s RefCell<Vec<Source>>,
}

impl Base<'_> {
    /// The path of a file. What the file is like is noted before anybody reads it.
    fn file(self, text: &str) -> PathBuf {
        let path = self.folder.join(text);
        if let Some(metadata) = fs::metadata(&path).ok().filter(Metadata::is_file) {
            let stamp = Stamp::of(&metadata);
            self.files.borrow_mut().push(Source { path: path.clone(), stamp });
        }
        path
    }
}

/// Reads settings into the type that a filter has for them. Relative paths start from `folder`. The
/// files that they name are added to `files`.
pub(crate) fn read<T: DeserializeOwned>(
    node: &Settings,
    folder: &Path,
    files: &RefCell<Vec<Source>>,
) -> Result<T, SettingsError> {
    let base = Base { folder, files };
    T::deserialize(Value { node, base }).map_err(|error| {
        let wanted = error.missing.and_then(|key| wanted::<T>(node, &error.path, key, folder));
        SettingsError {
            path: error.path,
            position: Some(error.position.unwrap_or_else(|| node.position())),
            message: wanted.unwrap_or(error.message),
        }
    })
}

/// What is said of a missing key with what is expected there. Serde does not say what that is, but whoever
/// reads a null in its place does.
fn wanted<T: DeserializeOwned>(
    node: &Settings,
    path: &str,
    key: &'static str,
    folder: &Path,
) -> Option<String> {
    let mut node = node.clone();
    let SettingsValue::Map(entries) = &mut node.find_mut(path)?.value else { return None };
    let at = Position { line: 1, column: 1 };
    let null = Settings { value: SettingsValue::Null, ..Settings::none(at) };
    entries.push((key.to_owned(), null));
    let base = Base { folder, files: &RefCell::default() };
    let error = T::deserialize(Value { node: &node, base }).err()?;
    let expected = error.message.strip_prefix("found null; expected ")?;
    Some(Fault::new(format!("missing key {}", quote(key)), expected).to_string())
}

/// Whether settings of this type take a key that nobody knows: misspelt keys would be ignored.
pub(crate) fn takes_unknown_keys<T: DeserializeOwned>() -> bool {
    const NOBODYS: &str = "a key of nobody's";
    let at = Position { line: 1, column: 1 };
    let value = Settings { key: Some(at), value: SettingsValue::Null, ..Settings::none(at) };
    let map = SettingsValue::Map(vec![(NOBODYS.to_owned(), value)]);
    let node = Settings { value: map, ..Settings::none(at) };
    // Whoever refuses unknown keys does so before anything that is missing.
    match read::<T>(&node, Path::new("/"), &RefCell::default()) {
        Ok(_) => true,
        Err(error) => !error.message.contains(NOBODYS),
    }
}

/// What is wrong, and the way to it from the place where it is handled.
#[derive(Debug)]
struct Error {
    message: String,
    path: String,
    position: Option<Position>,
    /// The key that is missing, if that is what is wrong.
    missing: Option<&'static str>,
}

impl Error {
    fn at(mut self, position: Position) -> Self {
        self.position.get_or_insert(position);
        self
    }

    /// The error seen from one level up.
    fn under(mut self, step: &str) -> Self {
        let separator = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{step}{separator}{}", self.path);
        self
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self { message: fault.to_string(), path: String::new(), position: None, missing: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), path: String::new(), position: None, missing: None }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Fault::new(what(found), expected.to_string()).into()
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Fault::new(what(found), expected.to_string()).into()
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Fault::new(format!("found {length} of them"), expected.to_string()).into()
    }

    fn unknown_variant(found: &str, expected: &'static [&'static str]) -> Self {
        let names = || expected.iter().copied();
        Fault::new(format!("found {}", quote(found)), alternatives(names()))
            .with_nearest(scalar::meant(found, names()))
            .into()
    }

    fn unknown_field(found: &str, expected: &'static [&'static str]) -> Self {
        let names = || expected.iter().copied();
        let allowed =
            if expected.is_empty() { "no key here".to_owned() } else { alternatives(names()) };
        Fault::new(format!("unknown key {}", quote(found)), allowed)
            .with_nearest(scalar::meant(found, names()))
            .into()
    }

    fn missing_field(field: &'static str) -> Self {
        let fault = Fault::new(format!("missing key {}", quote(field)), "a value for it");
        Self { missing: Some(field), ..fault.into() }
    }

    fn duplicate_field(field: &'static str) -> Self {
        Fault::new(format!("duplicate key {}", quote(field)), "each key once").into()
    }
}

fn what(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Str(text) => format!("found {}", quote(text)),
        Unexpected::Map => "found a map".to_owned(),
        Unexpected::Seq => "found a list".to_owned(),
        Unexpected::Unit | Unexpected::Option => "found null".to_owned(),
        other => format!("found {other}"),
    }
}

/// A value that is being read.
#[derive(Clone, Copy)]
struct Value<'s> {
    node: &'s Settings,
    base: Base<'s>,
}

impl<'s> Value<'s> {
    fn wrong(self, expected: &str) -> Error {
        let found = match &self.node.value {
            SettingsValue::Null => "found null".to_owned(),
            SettingsValue::Text(text) => format!("found {}", quote(text)),
            SettingsValue::List(_) => "found a list".to_owned(),
            SettingsValue::Map(_) => "found a map".to_owned(),
        };
        Error::from(Fault::new(found, expected)).at(self.node.position())
    }

    /// A text with its request variables, as it stands.
    fn template(self, expected: &str) -> Result<&'s str, Error> {
        match &self.node.value {
            SettingsValue::Text(text) => Ok(text),
            _ => Err(self.wrong(expected)),
        }
    }

    /// A text without request variables.
    fn text(self, expected: &str) -> Result<Cow<'s, str>, Error> {
        let text = self.template(expected)?;
        if !text.contains('$') {
            return Ok(Cow::Borrowed(text));
        }
        let name = |variable: Variable| format!("request variable ${{{}}}", variable.as_str());
        let found = match text.parse::<Template>() {
            Ok(template) => match template.variables().next() {
                None => return Ok(Cow::Owned(template.render(|_, _| ()))),
                Some(variable) => name(variable),
            },
            Err(error) => error.to_string(),
        };
        let expected = "no request variable here; environment variables are in upper case";
        Err(Error::from(Fault::new(found, expected)).at(self.node.at))
    }

    fn number<T>(self, kind: &str) -> Result<T, Error>
    where
        T: std::str::FromStr,
    {
        let text = self.text(kind)?;
        let plain = text.strip_prefix('-').unwrap_or(&text);
        let digits = !plain.is_empty()
            && plain.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
            && (plain.len() == 1 || !plain.starts_with('0') || plain.starts_with("0."));
        let number = text.parse().ok().filter(|_| digits);
        number.ok_or_else(|| self.wrong(kind))
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty, $kind:expr;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let number: $type = self.number($kind.as_ref())?;
            visitor.$visit(number).map_err(|error: Error| error.at(self.node.at))
        })*
    };
}

/// What a type that is read from a text says that it expects.
fn expected_by(expected: &dyn Expected) -> String {
    match expected.to_string().as_str() {
        // Serde's word for it.
        "a string" => "a text".to_owned(),
        other => other.to_owned(),
    }
}

fn whole<T: fmt::Display>(least: T, most: T) -> String {
    format!("a whole number from {least} to {most}")
}

impl<'de> Deserializer<'de> for Value<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            SettingsValue::Null => visitor.visit_unit(),
            SettingsValue::Text(_) => visitor.visit_str(&self.text("a text")?),
            SettingsValue::List(items) => {
                visitor.visit_seq(Items { items: items.iter().enumerate(), base: self.base })
            }
            SettingsValue::Map(entries) => {
                let rest = entries.iter();
                visitor.visit_map(Entries { rest, current: None, base: self.base })
            }
        }
        .map_err(|error: Error| error.at(self.node.position()))
    }

    numbers! {
        deserialize_u8 visit_u8 u8, whole(u8::MIN, u8::MAX);
        deserialize_u16 visit_u16 u16, whole(u16::MIN, u16::MAX);
        deserialize_u32 visit_u32 u32, whole(u32::MIN, u32::MAX);
        deserialize_u64 visit_u64 u64, whole(u64::MIN, u64::MAX);
        deserialize_i8 visit_i8 i8, whole(i8::MIN, i8::MAX);
        deserialize_i16 visit_i16 i16, whole(i16::MIN, i16::MAX);
        deserialize_i32 visit_i32 i32, whole(i32::MIN, i32::MAX);
        deserialize_i64 visit_i64 i64, whole(i64::MIN, i64::MAX);
        deserialize_f32 visit_f32 f32, "a number";
        deserialize_f64 visit_f64 f64, "a number";
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = self.text(scalar::SWITCH)?;
        match scalar::switch(&text) {
            Ok(switch) => visitor.visit_bool(switch),
            Err(hint) => {
                Err(Error::from(hint.fault(&text, scalar::SWITCH)).at(self.node.position()))
            }
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = self.text(&expected_by(&visitor))?;
        visitor.visit_str(&text).map_err(|error: Error| error.at(self.node.at))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // A key without a value is an error here as everywhere; its absence is what means nothing.
        match self.node.value {
            SettingsValue::Null => Err(self.wrong("a value; leave the key out to have none")),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let text = match name {
            TEMPLATE => Cow::Borrowed(self.template("a text")?),
            FILE_PATH => {
                let text = self.text("the path of a file")?;
                if text.is_empty() || text.contains('\0') {
                    return Err(self.wrong("the path of a file"));
                }
                Cow::Owned(self.base.file(&text).to_string_lossy().into_owned())
            }
            _ => return visitor.visit_newtype_struct(self),
        };
        let text: StrDeserializer<'_, Error> = (&*text).into_deserializer();
        visitor.visit_newtype_struct(text).map_err(|error| error.at(self.node.at))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let choice = match &self.node.value {
            SettingsValue::Text(_) => Choice { name: self.text("a word")?, value: None },
            SettingsValue::Map(entries) if entries.len() == 1 => {
                let (name, node) = &entries[0];
                let value = Some(Value { node, base: self.base });
                Choice { name: Cow::Borrowed(name.as_str()), value }
            }
            _ => return Err(self.wrong(&alternatives(variants.iter().copied()))),
        };
        visitor.visit_enum(choice).map_err(|error| error.at(self.node.position()))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            SettingsValue::List(_) => self.deserialize_any(visitor),
            SettingsValue::Text(text) => Err(self.wrong(&format!("a list, [{}]", quote(text)))),
            _ => Err(self.wrong("a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            SettingsValue::Map(_) => self.deserialize_any(visitor),
            _ => Err(self.wrong("a map")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match (&self.node.value, fields) {
            (SettingsValue::Map(_), _) => self.deserialize_any(visitor),
            (_, []) => Err(self.wrong("an empty map, {}")),
            _ => {
                let fields = alternatives(fields.iter().copied());
                Err(self.wrong(&format!("a map with {fields}")))
            }
        }
    }

    serde::forward_to_deserialize_any! {
        bytes byte_buf unit unit_struct tuple tuple_struct ignored_any
    }
}

struct Items<'s> {
    items: std::iter::Enumerate<std::slice::Iter<'s, Settings>>,
    base: Base<'s>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        let item = seed.deserialize(Value { node, base: self.base });
        item.map(Some).map_err(|error| error.at(node.position()).under(&format!("[{index}]")))
    }
}

struct Entries<'s> {
    rest: std::slice::Iter<'s, (String, Settings)>,
    current: Option<&'s (String, Settings)>,
    base: Base<'s>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        self.current = self.rest.next();
        let Some((key, node)) = self.current else { return Ok(None) };
        let text: StrDeserializer<'_, Error> = key.as_str().into_deserializer();
        let position = node.key.unwrap_or(node.at);
        seed.deserialize(text).map(Some).map_err(|error| error.at(position).under(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, node) = self.current.expect("serde asks for a value after its key");
        let value = seed.deserialize(Value { node, base: self.base });
        value.map_err(|error| error.at(node.position()).under(key))
    }
}

/// An enum's variant: a word, or a map with one key.
struct Choice<'s> {
    name: Cow<'s, str>,
    value: Option<Value<'s>>,
}

impl<'de, 's> EnumAccess<'de> for Choice<'s> {
    type Error = Error;
    type Variant = Chosen<'s>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Chosen<'s>), Error> {
        let text: StrDeserializer<'_, Error> = (&*self.name).into_deserializer();
        let variant = seed.deserialize(text)?;
        Ok((variant, Chosen { name: self.name.into_owned(), value: self.value }))
    }
}

struct Chosen<'s> {
    name: String,
    value: Option<Value<'s>>,
}

impl Chosen<'_> {
    fn read<T>(&self, read: impl FnOnce(Value<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let Some(value) = self.value else {
            let found = format!("found {}", quote(&self.name));
            return Err(Fault::new(found, format!("a map, {{ {}: ... }}", self.name)).into());
        };
        read(value).map_err(|error| error.at(value.node.position()).under(&self.name))
    }
}

impl<'de> VariantAccess<'de> for Chosen<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.value {
            None => Ok(()),
            Some(value) => {
                let expected = format!("the word {} alone", quote(&self.name));
                Err(Error::from(Fault::new("found a map", expected)).at(value.node.position()))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        self.read(|value| seed.deserialize(value))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.read(|value| value.deserialize_seq(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.read(|value| value.deserialize_struct("", fields, visitor))
    }
}

//! Types for common values in settings.

use super::read::{FILE_PATH, TEMPLATE};
use crate::model::{self, frames_message, scalar};
use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};
use std::{
    borrow::Cow, fmt, marker::PhantomData, net::IpAddr, num::NonZeroU16, ops::Deref, path::PathBuf,
    time::Duration,
};

/// Settings of a filter that has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

/// A duration such as `250ms`, `5s` or `1m30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// A size in bytes, such as `512B`, `64KiB` or `10MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// The path of a file. A relative one starts from the folder of the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePath(pub PathBuf);

/// A text with request variables such as `${client_ip}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(pub(crate) model::Template);

/// A network such as `10.0.0.0/8`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNet);

/// The name of a header field that does not frame the message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldName(pub HeaderName);

/// The value of a header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldValue(pub HeaderValue);

/// The name of a cookie.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CookieName(pub String);

/// A whole number of something, at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u32);

/// A port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port(pub NonZeroU16);

/// A status from 200 to 599.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub StatusCode);

/// A regular expression, in the syntax of the `regex` crate.
#[derive(Clone, Debug)]
pub struct Pattern(pub regex::Regex);

/// A value that is made from a text.
pub(super) trait FromText: Sized {
    /// What the text looks like, for messages.
    const EXPECTED: &'static str;
    /// The same as a JSON Schema.
    fn schema() -> Schema;
    /// The error says what is wrong in the words of a fault.
    fn from_text(text: &str) -> Result<Self, scalar::Hint>;
}

pub(super) struct TextVisitor<T>(pub(super) PhantomData<T>);

impl<'de, T: FromText> Visitor<'de> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(|hint| E::custom(hint.fault(text, T::EXPECTED)))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

macro_rules! texts {
    ($($type:ident $inner:ty, $call:ident($($name:expr)?);)*) => {
        $(impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.$call($($name,)? TextVisitor(PhantomData))
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                <Self as FromText>::schema()
            }
        }

        impl Deref for $type {
            type Target = $inner;

            fn deref(&self) -> &$inner {
                &self.0
            }
        })*
    };
}

texts! {
    Period Duration, deserialize_str();
    Size u64, deserialize_str();
    FilePath PathBuf, deserialize_newtype_struct(FILE_PATH);
    Template model::Template, deserialize_newtype_struct(TEMPLATE);
    Network IpNet, deserialize_str();
    FieldName HeaderName, deserialize_str();
    FieldValue HeaderValue, deserialize_str();
    CookieName String, deserialize_str();
    Count u32, deserialize_str();
    Port NonZeroU16, deserialize_str();
    Status StatusCode, deserialize_str();
    Pattern regex::Regex, deserialize_str();
}

impl FromText for Period {
    const EXPECTED: &'static str = scalar::DURATION;

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9]+(h|m|s|ms))+$" })
    }

    fn from_text(text: &str) -> Result<Self, scalar::Hint> {
        scalar::duration(text).map(Self)
    }
}

impl FromText for Size {
    const EXPECTED: &'static str = scalar::SIZE;

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "integer"], "pattern": "^[0-9]+(B|KiB|MiB|GiB)?$" })
    }

    fn from_text(text: &str) -> Result<Self, scalar::Hint> {
        scalar::size(text).map(Self)
    }
}

impl FromText for FilePath {
    const EXPECTED: &'static str = "the path of a file";

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }

    fn from_text(text: &str) -> Result<Self, scalar::Hint> {
        Ok(Self(text.into()))
    }
}

impl FromText for Template {
    const EXPECTED: &'static str = "a text, in which ${path} and the like may stand";

    fn schema() -> Schema {
        json_schema!({ "type": "string" })
    }

    fn from_text(text: &str) -> Result<Self, scalar::Hint> {
        let hint = |error| scalar::template_hint(error, &model::Variable::ALL);
        text.parse().map(Self).map_err(hint)
    }
}

impl FromText for Network {
    const EXPECTED: &'static str = "a network such as 10.0.0.0/8 or 2001:db8::/32, or an address";

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 2 })
    }

    fn from_text(text: &str) -> Result<Self, scalar::Hint> {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let network = network.map_err(|_| scalar::Hint::default())?;
        if network.addr() == network.network() {
            return Ok(Self(network));
        }
        let hint = scalar::Hint::nearest(Some(network.trunc().to_string()));
        Err(scalar::Hint { expected: Some("no bits after the prefix".to_owned()), ..hint })
    }
}

impl FromText for FieldName {
    const EXPECTED: &'static str = "the name of a header field";

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }

    fn from_text(text: &str) -> Result<Self, scalar::Hint> {
        let name: HeaderName = text.parse().map_err(|_| scalar::Hint::default())?;
        if frames_message(&name) {
            let expected = "no header that frames the message; those are set for you";
            return Err(scalar::Hint::expected(expected));
        }
        Ok(Self(name))
    }
}

impl FromText for FieldValue {
    const EXPECTED: &'static str = "the value of a header field";

    fn schema() -> Schema {
        json_schema!({ "type": "string" })
    }

    fn from_text(text: &str) -> Result<Self, scalar::Hint> {
        text.parse().map(Self).map_err(|_| scalar::Hint::default())
    }
}

impl FromText for CookieName {
    const EXPECTED: &'static str = scalar::COOKIE_NAME;

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }

    fn from_text(text: &str) -> Result<Self, scalar::Hint> {
        scalar::cookie_name(text).map(Self)
    }
}

impl FromText for Count {
    const EXPECTED: &'static str = "a whole number from 1 to 4294967295";

    fn schema() -> Schema {
        json_schema!({ "type": ["integer", "string"], "minimum": 1, "maximum": u32::MAX, "pattern": "^[1-9][0-9]*$" })
    }

    fn from_text(text: &str) -> Result<Self, scalar::Hint> {
        let number = scalar::integer(text, &(1..=u64::from(u32::MAX)))?;
        u32::try_from(number).map(Self).map_err(|_| scalar::Hint::default())
    }
}

impl FromText for Port {
    const EXPECTED: &'static str = "a port from 1 to 65535";

    fn schema() -> Schema {
        json_schema!({ "type": ["integer", "string"], "minimum": 1, "maximum": u16::MAX, "pattern": "^[1-9][0-9]*$" })
    }

    fn from_text(text: &str) -> Result<Self, scalar::Hint> {
        let number = scalar::integer(text, &(1..=u64::from(u16::MAX)))?;
        let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
        port.map(Self).ok_or_else(scalar::Hint::default)
    }
}

impl FromText for Status {
    const EXPECTED: &'static str = "a status from 200 to 599";

    fn schema() -> Schema {
        json_schema!({ "type": ["integer", "string"], "minimum": 200, "maximum": 599, "pattern": "^[2-5][0-9][0-9]$" })
    }

    fn from_text(text: &str) -> Result<Self, scalar::Hint> {
        let number = scalar::integer(text, &(200..=599))?;
        let status = u16::try_from(number).ok().and_then(|n| StatusCode::from_u16(n).ok());
        status.map(Self).ok_or_else(scalar::Hint::default)
    }
}

/// What stands for a value where a schema shows it as a default.
macro_rules! written {
    ($($type:ident: $written:expr;)*) => {
        $(impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let written: fn(&Self) -> _ = $written;
                written(self).serialize(serializer)
            }
        })*
    };
}

written! {
    Period: |period| scalar::duration_text(period.0);
    Size: |size| scalar::size_text(size.0);
    Count: |count| count.0;
    Port: |port| port.0;
    Status: |status| status.0.as_u16();
    FieldName: |name| name.0.as_str().to_owned();
    CookieName: |name| name.0.clone();
}

impl Ord for FieldName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl PartialOrd for FieldName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl std::hash::Hash for Status {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl FromText for Pattern {
    const EXPECTED: &'static str = "a regular expression";

    fn schema() -> Schema {
        json_schema!({ "type": "string", "format": "regex" })
    }

    fn from_text(text: &str) -> Result<Self, scalar::Hint> {
        regex::Regex::new(text).map(Self).map_err(|_| scalar::Hint::default())
    }
}

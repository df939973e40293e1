//! `request_headers` and `response_headers`: header fields set, added and removed.

use crate::filter::{
    FieldError, Filter, Flow, Response, Result, SettingsError, Setup, UpstreamRequest,
    settings::{FieldName, Template},
};
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Changes to header fields. Values may have request variables in them, such as `${client_ip}`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Changes {
    /// Fields to set, in the place of those of that name.
    set: Option<BTreeMap<FieldName, Template>>,
    /// Fields to add to those of that name.
    add: Option<BTreeMap<FieldName, Template>>,
    /// Fields to remove. This comes first.
    remove: Option<Vec<FieldName>>,
}

/// Changes that are known to be possible.
struct Compiled {
    set: Vec<(HeaderName, Value)>,
    add: Vec<(HeaderName, Value)>,
    remove: Vec<HeaderName>,
}

/// The value of a field, made once where it is the same for all.
enum Value {
    Fixed(HeaderValue),
    Template(Template),
}

impl Changes {
    fn compile(self) -> Result<Compiled, SettingsError> {
        // One that is written out and empty is a place kept for changes to come.
        if self.set.is_none() && self.add.is_none() && self.remove.is_none() {
            return Err(SettingsError::new("no changes", "set, add or remove"));
        }
        Ok(Compiled {
            set: values("set", self.set.unwrap_or_default())?,
            add: values("add", self.add.unwrap_or_default())?,
            remove: self.remove.into_iter().flatten().map(|name| name.0).collect(),
        })
    }
}

fn values(
    key: &str,
    changes: BTreeMap<FieldName, Template>,
) -> Result<Vec<(HeaderName, Value)>, SettingsError> {
    let value = |(name, template): (FieldName, Template)| {
        // What stands between the variables must be good whatever they are.
        let fixed = HeaderValue::from_str(&template.render(|_, _| ())).map_err(|_| {
            let found = "a value with characters that no header field may have";
            SettingsError::new(found, "visible ASCII, spaces and tabs")
                .at(format!("{key}.{}", *name))
        })?;
        let value =
            if template.has_variables() { Value::Template(template) } else { Value::Fixed(fixed) };
        Ok((name.0, value))
    };
    changes.into_iter().map(value).collect()
}

impl Compiled {
    /// Applies the changes to a message: what is removed first, so that it may be set anew.
    fn apply(&self, message: &mut impl Message) -> Result {
        for name in &self.remove {
            message.remove(name)?;
        }
        for (name, value) in &self.set {
            message.set(name, value.of(message)?)?;
        }
        for (name, value) in &self.add {
            message.add(name, value.of(message)?)?;
        }
        Ok(Flow::Continue)
    }
}

impl Value {
    fn of(&self, message: &impl Message) -> Result<HeaderValue, FieldError> {
        match self {
            Self::Fixed(value) => Ok(value.clone()),
            Self::Template(template) => {
                HeaderValue::from_str(&message.text(template)).map_err(|_| FieldError::Value)
            }
        }
    }
}

/// What requests and responses have in common here.
trait Message {
    fn text(&self, template: &Template) -> String;
    fn set(&mut self, name: &HeaderName, value: HeaderValue) -> Result<(), FieldError>;
    fn add(&mut self, name: &HeaderName, value: HeaderValue) -> Result<(), FieldError>;
    fn remove(&mut self, name: &HeaderName) -> Result<(), FieldError>;
}

macro_rules! message {
    ($type:ident) => {
        impl Message for $type<'_> {
            fn text(&self, template: &Template) -> String {
                self.render(template)
            }

            fn set(&mut self, name: &HeaderName, value: HeaderValue) -> Result<(), FieldError> {
                self.set_header(name, value)
            }

            fn add(&mut self, name: &HeaderName, value: HeaderValue) -> Result<(), FieldError> {
                self.add_header(name, value)
            }

            fn remove(&mut self, name: &HeaderName) -> Result<(), FieldError> {
                self.remove_header(name)
            }
        }
    };
}

message!(UpstreamRequest);
message!(Response);

/// Changes the fields that a backend gets, after those that the proxy itself sets.
pub(super) struct RequestHeaders(Compiled);

impl Filter for RequestHeaders {
    const NAME: &'static str = "request_headers";
    type Settings = Changes;

    fn new(settings: Changes, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        settings.compile().map(Self)
    }

    async fn on_upstream_request(&self, request: &mut UpstreamRequest<'_>) -> Result {
        self.0.apply(request)
    }
}

/// Changes the fields that a client gets.
pub(super) struct ResponseHeaders(Compiled);

impl Filter for ResponseHeaders {
    const NAME: &'static str = "response_headers";
    type Settings = Changes;

    fn new(settings: Changes, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        settings.compile().map(Self)
    }

    async fn on_response(&self, response: &mut Response<'_>) -> Result {
        self.0.apply(response)
    }
}

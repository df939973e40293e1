//! The filters that come with the library. Each is written as a user's would be.

mod basic_auth;
mod body_limit;
mod compress;
mod concurrency_limit;
mod cors;
mod error_pages;
mod headers;
mod ip_filter;
mod key;
mod rate_limit;
mod redirect_https;
mod rewrite;
mod vary;

use super::Registry;

/// Makes them known.
pub(super) fn add_to(registry: &mut Registry) {
    registry.add::<basic_auth::BasicAuth>();
    registry.add::<body_limit::BodyLimit>();
    registry.add::<compress::Compress>();
    registry.add::<concurrency_limit::ConcurrencyLimit>();
    registry.add::<cors::Cors>();
    registry.add::<error_pages::ErrorPages>();
    registry.add::<headers::RequestHeaders>();
    registry.add::<headers::ResponseHeaders>();
    registry.add::<ip_filter::IpFilter>();
    registry.add::<rate_limit::RateLimit>();
    registry.add::<redirect_https::RedirectHttps>();
    registry.add::<rewrite::Rewrite>();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        filter::{Filter, settings},
        model::{Position, Settings, SettingsValue},
    };
    use schemars::SchemaGenerator;
    use serde_json::{Value, json};
    use std::{cell::RefCell, fmt::Debug, path::Path};

    fn node(json: &Value) -> Settings {
        let value = match json {
            Value::Null => SettingsValue::Null,
            Value::Array(items) => SettingsValue::List(items.iter().map(node).collect()),
            Value::Object(map) => {
                let entries = map.iter().map(|(key, value)| (key.clone(), node(value)));
                SettingsValue::Map(entries.collect())
            }
            Value::String(text) => SettingsValue::Text(text.clone()),
            other => SettingsValue::Text(other.to_string()),
        };
        Settings { value, ..Settings::none(Position { line: 1, column: 1 }) }
    }

    /// Each default in the schema of a filter, which cannot do without `needed`, is what leaving the key
    /// out means. The keys that have one.
    fn defaults<F: Filter>(needed: &Value) -> Vec<String>
    where
        F::Settings: Debug,
    {
        let read = |json: &Value| {
            let read =
                settings::read::<F::Settings>(&node(json), Path::new("/"), &RefCell::default());
            format!("{:?}", read.unwrap_or_else(|error| panic!("{json}: {error:?}")))
        };
        let schema = SchemaGenerator::default().into_root_schema_for::<F::Settings>();
        let mut found = Vec::new();
        for (key, value) in schema.as_value()["properties"].as_object().into_iter().flatten() {
            let Some(default) = value.get("default") else { continue };
            let mut given = needed.clone();
            given[key.as_str()] = default.clone();
            assert_eq!(read(&given), read(needed), "{key}: {default}");
            found.push(key.clone());
        }
        found
    }

    #[test]
    fn defaults_are_in_the_schema_and_what_leaving_a_key_out_means() {
        let none = json!({});
        assert_eq!(defaults::<rate_limit::RateLimit>(&json!({ "requests": 1 })), ["key", "per"]);
        let limit = json!({ "max": 1 });
        assert_eq!(defaults::<concurrency_limit::ConcurrencyLimit>(&limit), ["key"]);
        assert_eq!(defaults::<compress::Compress>(&none), ["algorithms", "min_size", "types"]);
        let origins = json!({ "origins": ["*"] });
        assert_eq!(
            defaults::<cors::Cors>(&origins),
            ["credentials", "expose", "headers", "max_age", "methods"]
        );
        assert_eq!(defaults::<redirect_https::RedirectHttps>(&none), ["port", "status"]);
    }
}

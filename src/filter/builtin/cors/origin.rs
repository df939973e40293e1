//! The origins of pages, as settings name them and as browsers send them.

use crate::filter::SettingsError;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::{
    borrow::Cow,
    net::{Ipv4Addr, Ipv6Addr},
};

const EXPECTED: &str = "scheme://host or scheme://host:port in lower case, such as https://a.example, https://*.example.com, or * for all";

/// One entry of `origins`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum Origin {
    /// `*`: every origin.
    Any,
    /// This one.
    One(String),
    /// Those with at least one label more: `https://*.example.com`.
    Below {
        /// The scheme with its slashes.
        scheme: String,
        /// The rest, from the dot on.
        rest: String,
    },
}

impl Origin {
    /// Whether a browser's `Origin` is this one.
    pub(super) fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::One(one) => one == origin,
            Self::Below { scheme, rest } => {
                let labels = origin.strip_prefix(&**scheme).and_then(|o| o.strip_suffix(&**rest));
                labels.is_some_and(is_name)
            }
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let (scheme, authority) = text.split_once("://")?;
        if !is_scheme(scheme) || default_port(scheme).is_some_and(|port| authority.ends_with(port))
        {
            return None;
        }
        let Some(rest) = authority.strip_prefix("*.") else {
            return is_authority(authority).then(|| Self::One(text.to_owned()));
        };
        let is_name = is_authority(rest) && !rest.starts_with('[') && !is_ipv4(rest);
        let below = || Self::Below { scheme: format!("{scheme}://"), rest: format!(".{rest}") };
        is_name.then(below)
    }
}

impl TryFrom<String> for Origin {
    type Error = SettingsError;

    fn try_from(text: String) -> Result<Self, SettingsError> {
        Self::parse(&text).ok_or_else(|| {
            let error = SettingsError::new(format!("found {text:?}"), EXPECTED);
            match nearest(&text) {
                Some(nearest) => error.suggest(&nearest),
                None => error,
            }
        })
    }
}

impl JsonSchema for Origin {
    fn schema_name() -> Cow<'static, str> {
        "Origin".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^([*]|[a-z][a-z0-9+.-]*://([*][.])?([a-z0-9._-]+|\\[[0-9a-f:.]+\\])(:[0-9]+)?)$" })
    }
}

/// What was probably meant: without path and default port, in lower case, with a scheme.
fn nearest(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let (scheme, rest) = match text.split_once("://") {
        Some(parts) => parts,
        None if text.starts_with("localhost") => ("http", &*text),
        None if text.contains('.') => ("https", text.trim_start_matches('/')),
        None => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let port = default_port(scheme).and_then(|port| authority.strip_suffix(port));
    let origin = format!("{scheme}://{}", port.unwrap_or(authority));
    Origin::parse(&origin).map(|_| origin)
}

/// The port that browsers leave out, with its colon.
fn default_port(scheme: &str) -> Option<&'static str> {
    match scheme {
        "http" => Some(":80"),
        "https" => Some(":443"),
        _ => None,
    }
}

fn is_scheme(scheme: &str) -> bool {
    let other = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    scheme.starts_with(|c: char| c.is_ascii_lowercase()) && scheme.bytes().all(other)
}

/// Whether this is a host, or a host and a port.
fn is_authority(authority: &str) -> bool {
    if let Some(rest) = authority.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        // Browsers write an address in its one canonical form.
        let canonical = address.parse::<Ipv6Addr>().is_ok_and(|ip| ip.to_string() == address);
        return canonical && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    match authority.split_once(':') {
        Some((host, port)) => is_name(host) && is_port(port),
        None => is_name(authority),
    }
}

fn is_ipv4(authority: &str) -> bool {
    authority.split(':').next().is_some_and(|host| host.parse::<Ipv4Addr>().is_ok())
}

/// Whether these are labels with dots between them.
fn is_name(name: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    name.split('.').all(|label| !label.is_empty() && label.bytes().all(letter))
}

fn is_port(port: &str) -> bool {
    let plain = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
    plain && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::parse(text).unwrap_or_else(|| panic!("{text} is an origin"))
    }

    #[test]
    fn an_origin_matches_itself_only() {
        for text in [
            "https://a.example",
            "http://localhost:3000",
            "http://127.0.0.1:8080",
            "http://[::1]:8080",
            "https://a_b.example:8443",
            "chrome-extension://abcdef",
        ] {
            assert_eq!(origin(text), Origin::One(text.to_owned()));
            assert!(origin(text).matches(text), "{text}");
        }
        let one = origin("https://a.example");
        for other in [
            "http://a.example",
            "https://a.example:8443",
            "https://b.a.example",
            "https://a.example.evil.test",
            "https://a.example/",
            "https://A.example",
            "null",
            "",
        ] {
            assert!(!one.matches(other), "{other}");
        }
    }

    #[test]
    fn a_wildcard_matches_what_is_below() {
        let below = origin("https://*.example.com");
        for yes in ["https://a.example.com", "https://a.b.example.com"] {
            assert!(below.matches(yes), "{yes}");
        }
        for no in [
            "https://example.com",
            "https://.example.com",
            "https://aexample.com",
            "http://a.example.com",
            "https://a.example.com:8443",
            "https://evil.test/.example.com",
            "https://evil.test:1.example.com",
            "https://user@x.example.com",
            "null",
        ] {
            assert!(!below.matches(no), "{no}");
        }
        let port = origin("https://*.example.com:8443");
        assert!(port.matches("https://a.example.com:8443"));
        assert!(!port.matches("https://a.example.com"));
    }

    #[test]
    fn what_is_none_has_a_suggestion_where_there_is_one() {
        for (text, expected) in [
            ("https://a.example/", Some("https://a.example")),
            ("https://a.example/path?x#y", Some("https://a.example")),
            ("https://a.example:443", Some("https://a.example")),
            ("http://a.example:80/", Some("http://a.example")),
            ("HTTPS://A.example", Some("https://a.example")),
            ("a.example", Some("https://a.example")),
            ("//a.example", Some("https://a.example")),
            ("*.example.com", Some("https://*.example.com")),
            ("localhost:3000", Some("http://localhost:3000")),
            (" https://a.example", Some("https://a.example")),
            ("null", None),
            ("", None),
            ("https://", None),
            ("https://*", None),
            ("https://a.*.example", None),
            ("https://*.10.0.0.1", None),
            ("https://user@a.example", None),
            ("https://a..example", None),
            ("https://a.example:0", None),
            ("https://a.example:65536", None),
            ("https://[::1", None),
            ("https://b\u{fc}cher.example", None),
        ] {
            assert_eq!(Origin::parse(text), None, "{text}");
            assert_eq!(nearest(text).as_deref(), expected, "{text}");
        }
    }
}

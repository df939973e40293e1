//! `routes[*].match:`, the conditions of a route.

use super::{
    diagnostic::Fault,
    http::{METHOD, header_names, is_ip_literal, method, without_port},
    reader::{Field, Keys, Section},
    scalar::Hint,
};
use crate::model::{
    HeaderMatch, HostPattern, Match, PathMatch, QueryMatch, ValueMatch, is_host_name, path_to_match,
};
use regex::Regex;
use std::net::Ipv6Addr;

pub(super) const KEYS: Keys = Keys {
    section: "routes[*].match",
    names: &["host", "path", "path_prefix", "path_regex", "methods", "headers", "query"],
};
pub(super) const VALUE: Keys =
    Keys { section: "routes[*].match.headers.*", names: &["regex", "present"] };
pub(super) const QUERY_VALUE: Keys =
    Keys { section: "routes[*].match.query.*", names: &["regex", "present"] };

const PATH_KEYS: [&str; 3] = ["path", "path_prefix", "path_regex"];
const HOSTS: &str = "a host, or a list of at least one";
const HOST: &str = "a host such as example.com or *.example.com, without scheme and port";
const PATH: &str = "a path that starts with /, without ? and #";
const REGEX: &str = "a regular expression";
const VALUE_MATCH: &str = "a text, or a map with regex or present";

/// Reads `match:`.
pub(super) fn read(field: &Field<'_>) -> Option<Match> {
    let section = field.section(&KEYS)?;
    let methods = |field: &Field<'_>| {
        field.some_list("a list of at least one method", |item| item.scalar(METHOD, method))
    };
    let is_secret = |keys: &[&str]| {
        keys.iter().filter_map(|key| section.get(key)).any(|field| field.has_secret())
    };
    Some(Match {
        secret_hosts: is_secret(&["host"]),
        secret_path: is_secret(&PATH_KEYS),
        hosts: section.or("host", Vec::new(), hosts),
        path: path_match(&section),
        methods: section.or("methods", Vec::new(), methods),
        headers: section.or("headers", Vec::new(), headers),
        query: section.or("query", Vec::new(), query),
    })
}

fn hosts(field: &Field<'_>) -> Option<Vec<HostPattern>> {
    if field.is_scalar() {
        return host(field).map(|host| vec![host]);
    }
    field.some_list(HOSTS, host)
}

fn host(field: &Field<'_>) -> Option<HostPattern> {
    field.scalar(HOST, |text| {
        host_pattern(&text.to_ascii_lowercase()).ok_or_else(|| host_hint(text))
    })
}

fn host_pattern(lower: &str) -> Option<HostPattern> {
    if let Some(domain) = lower.strip_prefix("*.") {
        return is_host_name(domain).then(|| HostPattern::Below(domain.to_owned()));
    }
    (is_host_name(lower) || is_ip_literal(lower)).then(|| HostPattern::Exact(lower.to_owned()))
}

/// Reads a pattern of the names that clients ask for in TLS, where they name no addresses.
pub(super) fn sni_pattern(text: &str) -> Result<HostPattern, Hint> {
    match host_pattern(&text.to_ascii_lowercase()) {
        Some(HostPattern::Exact(host)) if is_ip_literal(&host) => {
            Err(Hint::expected("a host name, as clients send no address in its place"))
        }
        Some(pattern) => Ok(pattern),
        None if text == "*" => {
            Err(Hint::expected("a host name; the key \"pool\" takes every other name"))
        }
        None => Err(Hint { expected: None, ..host_hint(text) }),
    }
}

fn host_hint(text: &str) -> Hint {
    if text == "*" {
        return Hint::expected(format!("{HOST}; leave host out to match every host"));
    }
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Hint::nearest(Some(format!("[{address}]")));
    }
    let lower = text.to_ascii_lowercase();
    let bare = lower.split_once("://").map_or(lower.as_str(), |(_, rest)| rest);
    let bare = bare.trim_end_matches(['/', '.']);
    let bare = without_port(bare).unwrap_or(bare);
    Hint::nearest(host_pattern(bare).map(|_| bare.to_owned()))
}

fn path_match(section: &Section<'_>) -> Option<PathMatch> {
    let (key, field) = section.at_most_one(&PATH_KEYS)?;
    match key {
        "path" => field.scalar(PATH, path).map(PathMatch::Exact),
        "path_prefix" => field.scalar(PATH, path).map(PathMatch::Prefix),
        _ => regex(&field).map(PathMatch::Regex),
    }
}

fn path(text: &str) -> Result<String, Hint> {
    if text.contains(['?', '#']) {
        let bare = text.split(['?', '#']).next().and_then(|bare| path(bare).ok());
        return Err(Hint::nearest(bare));
    }
    if text.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
        return Err(Hint::expected("a path without spaces and control characters"));
    }
    if text.split('/').any(|segment| segment == "." || segment == "..") {
        // Requests are matched by their path in normal form, which has none of these.
        return Err(Hint::expected("a path without . and .. as segments"));
    }
    if text.starts_with('/') {
        return path_to_match(text).map_err(|_| {
            Hint::expected("a path in which % is followed by two hexadecimal digits")
        });
    }
    let slashed = format!("/{text}");
    let plain = !text.is_empty() && !text.contains(['*', ':', '^']);
    Err(Hint::nearest(plain.then_some(slashed)))
}

fn regex(field: &Field<'_>) -> Option<Regex> {
    field.scalar(REGEX, |text| {
        Regex::new(text).map_err(|error| Hint {
            found: Some(format!("{}: {}", quoted(text), reason(&error))),
            ..Hint::default()
        })
    })
}

fn quoted(text: &str) -> String {
    format!("found {}", super::diagnostic::quote(text))
}

/// The last line of the library's message; those before it draw the expression.
fn reason(error: &regex::Error) -> String {
    let message = error.to_string();
    let last = message.lines().last().unwrap_or("invalid");
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

fn headers(field: &Field<'_>) -> Option<Vec<HeaderMatch>> {
    let entries = header_names(field)?;
    let read = |(name, field): (_, Field<'_>)| {
        Some(HeaderMatch { name, value: value(&field, &VALUE)?, secret: field.has_secret() })
    };
    Some(entries.into_iter().filter_map(read).collect())
}

fn query(field: &Field<'_>) -> Option<Vec<QueryMatch>> {
    let entries = field.entries("a map of parameter names to values")?;
    let read = |(name, field): (&str, Field<'_>)| {
        let (value, secret) = (value(&field, &QUERY_VALUE)?, field.has_secret());
        Some(QueryMatch { name: name.to_owned(), value, secret })
    };
    Some(entries.into_iter().filter_map(read).collect())
}

fn value(field: &Field<'_>, keys: &'static Keys) -> Option<ValueMatch> {
    if !field.is_map() {
        return field.scalar(VALUE_MATCH, |text| Ok(ValueMatch::Exact(text.to_owned())));
    }
    let section = field.section(keys)?;
    match section.at_most_one(&["regex", "present"]) {
        Some(("regex", field)) => regex(&field).map(ValueMatch::Regex),
        Some((_, field)) => field.switch().map(ValueMatch::Present),
        None => {
            field.error(&Fault::new("found neither regex nor present", VALUE_MATCH));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_wildcards_or_addresses() {
        let exact = |host: &str| Some(HostPattern::Exact(host.to_owned()));
        assert_eq!(host_pattern("example.com"), exact("example.com"));
        assert_eq!(host_pattern("127.0.0.1"), exact("127.0.0.1"));
        assert_eq!(host_pattern("[::1]"), exact("[::1]"));
        let below = HostPattern::Below("example.com".to_owned());
        assert_eq!(host_pattern("*.example.com"), Some(below));
        for wrong in ["", "*", "*.", "a.*.b", "*a.b", "*.1.2.3.4", "a:80", "a/b", "a b", "..", "é"]
        {
            assert_eq!(host_pattern(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn wrong_hosts_are_told_what_was_meant() {
        for (text, nearest) in [
            ("example.com:8080", Some("example.com")),
            ("https://Example.com/", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("*.example.com:80", Some("*.example.com")),
            ("::1", Some("[::1]")),
            ("a b", None),
        ] {
            assert_eq!(host_hint(text).nearest.as_deref(), nearest, "{text}");
        }
    }

    #[test]
    fn paths_are_in_normal_form() {
        for text in ["/", "/v1", "/v1/", "/a.b/..c", "/%20"] {
            assert_eq!(path(text), Ok(text.to_owned()));
        }
        for (text, normal) in [("/é", "/%C3%A9"), ("/%7Ea%2fb", "/~a%2Fb"), ("//a//b", "/a/b")] {
            assert_eq!(path(text), Ok(normal.to_owned()));
        }
        for (text, nearest) in [
            ("v1", Some("/v1")),
            ("/v1?x=1", Some("/v1")),
            ("", None),
            ("*", None),
            ("/a/../b", None),
            ("/a b", None),
            ("/100%", None),
            ("^/a", None),
        ] {
            assert_eq!(path(text).unwrap_err().nearest.as_deref(), nearest, "{text}");
        }
    }
}

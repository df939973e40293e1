//! The request that is asked about.

use crate::{
    model::{Listener, host_without_port},
    runtime::Snapshot,
};
use http::{HeaderName, HeaderValue, Method};
use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv6Addr};

/// A request in words, as it is on the command line and in `POST /api/v1/explain`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The method, `GET` by default.
    #[serde(default = "get")]
    pub method: String,
    /// `http://host/path`, `https://host/path`, `tcp://listener` or `tcp://listener/server.name`.
    pub url: String,
    /// Further header fields, each a name and a value. `Host` is the URL's unless it is among them.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The client's address: 127.0.0.1 by default, and none on a unix socket.
    #[serde(default)]
    pub client: Option<IpAddr>,
    /// The listener it arrives on: by default the first that fits the URL.
    #[serde(default)]
    pub listener: Option<String>,
}

fn get() -> String {
    Method::GET.to_string()
}

/// Why a request is not explained.
#[derive(Debug, thiserror::Error)]
pub enum NotExplained {
    /// The description is none.
    #[error("{0}")]
    Malformed(String),
    /// No listener takes such a request.
    #[error("{0}")]
    NoListener(String),
}

/// A description that was understood.
pub(super) struct Parsed<'d> {
    pub(super) method: &'d str,
    pub(super) url: &'d str,
    pub(super) scheme: &'d str,
    authority: &'d str,
    pub(super) target: String,
    headers: &'d [(String, String)],
    pub(super) client: Option<IpAddr>,
    listener: Option<&'d str>,
}

const FORMS: &str =
    "http://host/path, https://host/path, tcp://listener or tcp://listener/server.name";

fn malformed(found: &str, expected: &str) -> NotExplained {
    NotExplained::Malformed(format!("{found}; expected {expected}"))
}

impl Description {
    /// Whether it can be a description at all: what is said of it is wrong usage.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), NotExplained> {
        self.parse().map(drop)
    }

    /// Whether nothing is said of a request where there is none.
    fn check_stream(&self) -> Result<(), NotExplained> {
        let expected = "tcp://listener or tcp://listener/server.name without it";
        let beside = |found: &str| malformed(&format!("found {found} beside a tcp URL"), expected);
        match () {
            () if self.method != get() => Err(beside("a method")),
            () if !self.headers.is_empty() => Err(beside("a header")),
            () if self.listener.is_some() => Err(beside("a listener")),
            () => Ok(()),
        }
    }

    pub(super) fn parse(&self) -> Result<Parsed<'_>, NotExplained> {
        let found = || format!("found the URL {:?}", self.url);
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("http", &self.url));
        if !["http", "https", "tcp"].contains(&scheme) {
            return Err(malformed(&found(), FORMS));
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let is_bad = |c: char| c == '@' || c.is_control() || c.is_whitespace();
        if authority.is_empty() || authority.contains(is_bad) || !is_closed(authority) {
            return Err(malformed(&found(), FORMS));
        }
        // What follows a hash sign stays with the client.
        let target = target.split('#').next().unwrap_or_default();
        let slash = if target.starts_with('/') { "" } else { "/" };
        for (name, value) in &self.headers {
            let is_line = |text: &str| !text.contains(['\r', '\n']);
            if name.is_empty() || !is_line(name) || !is_line(value) {
                return Err(malformed(&format!("found the header {name:?}"), "'Name: value'"));
            }
        }
        if self.method.is_empty() || self.method.contains(char::is_whitespace) {
            return Err(malformed(
                &format!("found the method {:?}", self.method),
                "GET or another",
            ));
        }
        if scheme == "tcp" {
            self.check_stream()?;
        }
        Ok(Parsed {
            method: &self.method,
            url: &self.url,
            scheme,
            authority,
            target: format!("{slash}{target}"),
            headers: &self.headers,
            client: self.client,
            listener: self.listener.as_deref(),
        })
    }
}

/// Whether an authority that begins with a bracket is an IPv6 address in brackets, with a port or none.
fn is_closed(authority: &str) -> bool {
    let Some(rest) = authority.strip_prefix('[') else { return !authority.contains(['[', ']']) };
    let Some((address, port)) = rest.split_once(']') else { return false };
    address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.starts_with(':'))
}

impl Parsed<'_> {
    /// The host that it asks for, with its port.
    fn host_field(&self) -> &str {
        let given = self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
        given.map_or(self.authority, |(_, value)| value)
    }

    /// The host that it asks for.
    pub(super) fn host(&self) -> &str {
        if self.scheme == "tcp" { "" } else { host_without_port(self.host_field()) }
    }

    /// The server name that a client of a tcp listener asks for in its TLS hello, if it asks.
    pub(super) fn server_name(&self) -> Option<String> {
        let name = self.target.trim_start_matches('/').trim_end_matches('.');
        (!name.is_empty()).then(|| name.to_ascii_lowercase())
    }

    /// The port, if the URL says it.
    fn port(&self) -> Option<u16> {
        let after = self.authority.rsplit_once(']').map_or(self.authority, |(_, rest)| rest);
        after.rsplit_once(':')?.1.parse().ok()
    }

    /// The head as it would arrive.
    pub(super) fn head_bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in self.fields() {
            head.extend([name, ": ", value, "\r\n"]);
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let is_given = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
        let host = (!is_given).then_some(("Host", self.authority));
        host.into_iter().chain(self.headers.iter().map(|(name, value)| (&**name, &**value)))
    }

    /// The head as the proxy has it, once it was checked.
    pub(super) fn head(&self) -> Result<RequestHeader, NotExplained> {
        let wrong = |what: &str| malformed(&format!("found {what:?}"), "a valid request");
        let method = Method::from_bytes(self.method.as_bytes()).map_err(|_| wrong(self.method))?;
        let head = RequestHeader::build(method, self.target.as_bytes(), None);
        let mut head = head.map_err(|_| wrong(&self.target))?;
        for (name, value) in self.fields() {
            let value = HeaderValue::from_str(value.trim()).map_err(|_| wrong(name))?;
            let field = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong(name))?;
            head.append_header(field, value).map_err(|_| wrong(name))?;
        }
        Ok(head)
    }

    /// Whether the request has a cookie of this name.
    pub(super) fn has_cookie(&self, name: &str) -> bool {
        let fields = self.headers.iter().filter(|(field, _)| field.eq_ignore_ascii_case("cookie"));
        let mut pairs = fields.flat_map(|(_, value)| value.split(';'));
        pairs.any(|pair| pair.trim().split_once('=').is_some_and(|(key, _)| key == name))
    }

    /// The listener it arrives on, by its index.
    pub(super) fn choose_listener(&self, snapshot: &Snapshot) -> Result<usize, NotExplained> {
        let listeners = &snapshot.listeners;
        let name = if self.scheme == "tcp" { Some(self.authority) } else { self.listener };
        let Some(name) = name else { return self.find_listener(listeners) };
        let found = listeners.iter().position(|listener| listener.name.as_str() == name);
        let Some(found) = found else {
            return Err(none(&format!("there is no listener {name:?}"), listeners));
        };
        match (self.scheme == "tcp", listeners[found].is_http()) {
            (true, true) => Err(NotExplained::NoListener(format!(
                "listener {name} speaks HTTP; describe a request to it by an http or https URL"
            ))),
            (false, false) => Err(NotExplained::NoListener(format!(
                "listener {name} passes connections on as they are; describe one as tcp://{name}, or \
                 tcp://{name}/server.name"
            ))),
            _ => Ok(found),
        }
    }

    /// The first listener that speaks the URL's scheme, on the URL's port if it gives one.
    fn find_listener(&self, listeners: &[Listener]) -> Result<usize, NotExplained> {
        let tls = self.scheme == "https";
        let fits = |listener: &Listener| listener.is_http() && listener.tls.is_some() == tls;
        let on = |port: u16| {
            let is_on = |listener: &Listener| listener.address.port() == Some(port);
            listeners.iter().position(|listener| fits(listener) && is_on(listener))
        };
        // Clients use the usual ports, which a listener behind a mapping may not have.
        let usual = if tls { 443 } else { 80 };
        if let Some(port) = self.port().filter(|port| ![80, 443].contains(port)) {
            let what = format!("no listener speaks {} on port {port}", self.scheme);
            return on(port).ok_or_else(|| none(&what, listeners));
        }
        let first = || listeners.iter().position(fits);
        on(self.port().unwrap_or(usual))
            .or_else(first)
            .ok_or_else(|| none(&format!("no listener speaks {}", self.scheme), listeners))
    }
}

/// An error that says which listeners there are.
fn none(what: &str, listeners: &[Listener]) -> NotExplained {
    let one = |listener: &Listener| {
        let protocol = super::explanation::protocol(listener);
        format!("{} ({protocol}, {})", listener.name, listener.address)
    };
    let all: Vec<_> = listeners.iter().map(one).collect();
    NotExplained::NoListener(format!(
        "{what}; there are: {}. Another is chosen with --listener NAME",
        all.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(url: &str) -> Description {
        let (method, headers) = (get(), Vec::new());
        Description { method, url: url.to_owned(), headers, client: None, listener: None }
    }

    #[test]
    fn urls_are_taken_apart() {
        for (url, scheme, host, port, target) in [
            ("http://a.example/x?y#z", "http", "a.example", None, "/x?y"),
            ("https://A.example:8443", "https", "A.example", Some(8443), "/"),
            ("a.example?q=1", "http", "a.example", None, "/?q=1"),
            ("http://[::1]:80/", "http", "[::1]", Some(80), "/"),
            ("http://[::1]/", "http", "[::1]", None, "/"),
        ] {
            let description = description(url);
            let parsed = description.parse().unwrap();
            let got = (parsed.scheme, parsed.host(), parsed.port(), parsed.target.as_str());
            assert_eq!(got, (scheme, host, port, target), "{url}");
        }
        let tcp = description("tcp://pg/Db.Example.");
        let parsed = tcp.parse().unwrap();
        assert_eq!((parsed.authority, parsed.server_name().as_deref()), ("pg", Some("db.example")));
        assert_eq!(description("tcp://pg").parse().unwrap().server_name(), None);
    }

    #[test]
    fn what_is_no_description_is_said_so() {
        for url in [
            "",
            "/x",
            "ftp://a/",
            "http:///x",
            "http://u@a/",
            "http://a b/",
            "http://[::1/",
            "http://[::1]x/",
            "http://[a]/",
            "http://a]/",
        ] {
            assert!(description(url).check().is_err(), "{url}");
        }
        let with = |name: &str, value: &str| Description {
            headers: vec![(name.to_owned(), value.to_owned())],
            ..description("http://a/")
        };
        assert!(with("x-a", "1").check().is_ok());
        assert!(with("x-a", "1\r\nx-b: 2").check().is_err());
        assert!(with("", "1").check().is_err());
        for wrong in [
            Description { method: "POST".to_owned(), ..description("tcp://pg") },
            Description { listener: Some("pg".to_owned()), ..description("tcp://pg") },
            Description { headers: with("a", "b").headers, ..description("tcp://pg") },
        ] {
            assert!(wrong.check().unwrap_err().to_string().contains("beside a tcp URL"));
        }
        assert!(
            Description { method: "G ET".to_owned(), ..description("http://a/") }.check().is_err()
        );
    }
}

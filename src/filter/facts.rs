//! What every hook knows of its request, and what a filter keeps for it.

use crate::{
    model::{Template, Variable},
    tls::TlsFacts,
};
use http::{HeaderValue, Method};
use std::{any::Any, net::IpAddr, time::Instant};

/// What is the same in every hook of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'r> {
    pub(crate) client_ip: Option<IpAddr>,
    pub(crate) scheme: &'static str,
    /// What is known of the client's own connection; `None` in clear text.
    pub(crate) tls: Option<&'r TlsFacts>,
    pub(crate) listener: &'r str,
    pub(crate) route: &'r str,
    pub(crate) request_id: &'r HeaderValue,
    /// When the request's head was whole.
    pub(crate) received: Instant,
}

/// What a template's variables stand for.
pub(crate) struct Variables<'v> {
    pub(crate) facts: &'v Facts<'v>,
    pub(crate) method: &'v Method,
    pub(crate) host: &'v str,
    pub(crate) target: &'v str,
    pub(crate) pool: Option<&'v str>,
    pub(crate) backend: Option<&'v str>,
}

impl Variables<'_> {
    /// The text of `template` for this request. What is not known is empty.
    pub(crate) fn render(&self, template: &Template) -> String {
        template.render(|variable, text| self.write(variable, text))
    }

    fn write(&self, variable: Variable, text: &mut String) {
        let (path, query) = split_target(self.target);
        match variable {
            Variable::ClientIp => {
                text.push_str(&self.facts.client_ip.map_or_else(String::new, |ip| ip.to_string()));
            }
            Variable::Host => text.push_str(self.host),
            Variable::Path => text.push_str(path),
            Variable::Query => text.push_str(query.unwrap_or("")),
            Variable::PathAndQuery => text.push_str(self.target),
            Variable::Method => text.push_str(self.method.as_str()),
            Variable::Scheme => text.push_str(self.facts.scheme),
            Variable::RequestId => {
                text.push_str(&String::from_utf8_lossy(self.facts.request_id.as_bytes()));
            }
            Variable::Listener => text.push_str(self.facts.listener),
            Variable::Route => text.push_str(self.facts.route),
            Variable::Pool => text.push_str(self.pool.unwrap_or("")),
            Variable::Backend => text.push_str(self.backend.unwrap_or("")),
        }
    }
}

/// A target's path, and its query without the question mark.
pub(crate) fn split_target(target: &str) -> (&str, Option<&str>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

/// What the filters of a chain keep for one request, each at its place.
#[derive(Default)]
pub(crate) struct Slots(Vec<Option<Box<dyn Any + Send + Sync>>>);

impl Slots {
    pub(crate) fn put<T: Send + Sync + 'static>(&mut self, place: usize, value: T) {
        if self.0.len() <= place {
            self.0.resize_with(place + 1, || None);
        }
        self.0[place] = Some(Box::new(value));
    }

    pub(crate) fn get<T: 'static>(&self, place: usize) -> Option<&T> {
        self.0.get(place)?.as_ref()?.downcast_ref()
    }

    pub(crate) fn get_mut<T: 'static>(&mut self, place: usize) -> Option<&mut T> {
        self.0.get_mut(place)?.as_mut()?.downcast_mut()
    }
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slots").field("places", &self.0.len()).finish()
    }
}

/// Gives a hook's argument what is the same for all of them: `facts`, `slots` and `place`.
macro_rules! knows_its_request {
    ($name:ident) => {
        impl $name<'_> {
            /// The client's address, once trusted proxies are taken at their word; `None` on a unix
            /// socket.
            pub fn client_ip(&self) -> Option<std::net::IpAddr> {
                self.facts.client_ip
            }

            /// `http` or `https`: what the client uses, once trusted proxies are taken at their word.
            pub fn scheme(&self) -> &'static str {
                self.facts.scheme
            }

            /// The version, the cipher, the name asked for and the client's certificate, where the
            /// client's connection to us is TLS; `None` in clear text, whatever a proxy in front says.
            pub fn tls(&self) -> Option<&$crate::tls::TlsFacts> {
                self.facts.tls
            }

            /// The name of the listener that the request came in on.
            pub fn listener(&self) -> &str {
                self.facts.listener
            }

            /// The name of the route.
            pub fn route(&self) -> &str {
                self.facts.route
            }

            /// The request's id, as the logs and the answer have it.
            pub fn request_id(&self) -> &str {
                self.facts.request_id.to_str().unwrap_or("-")
            }

            /// When the request's head was whole.
            pub fn received(&self) -> std::time::Instant {
                self.facts.received
            }

            /// What this filter keeps for this request, if it has kept a `T`.
            pub fn kept<T: 'static>(&self) -> Option<&T> {
                self.slots.get(self.place)
            }
        }
    };
}

/// The same for what may keep something, too.
macro_rules! keeps_state {
    ($name:ident) => {
        impl $name<'_> {
            /// Keeps `value` for this filter's later hooks on this request, in the place of what it
            /// kept before. It is dropped when the request is over, however it ends.
            pub fn keep<T: Send + Sync + 'static>(&mut self, value: T) {
                self.slots.put(self.place, value);
            }

            /// What this filter keeps for this request, to change it.
            pub fn kept_mut<T: 'static>(&mut self) -> Option<&mut T> {
                self.slots.get_mut(self.place)
            }
        }
    };
}

pub(super) use {keeps_state, knows_its_request};

//! `cors`: which pages of other origins may use what is behind a route, by the
//! [Fetch standard](https://fetch.spec.whatwg.org/#http-cors-protocol).

mod origin;

use super::vary::vary;
use crate::filter::{
    Answer, FieldError, Filter, Flow, Request, Response, Result, SettingsError, Setup,
    settings::{FieldName, Period},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use origin::Origin;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

const ANY: &str = "*";
/// What the answer to a preflight depends on.
const VARY_PREFLIGHT: HeaderValue = HeaderValue::from_static(
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
);
/// The fields that this filter sets, and nobody else.
const OURS: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

/// Which pages of other origins may use what is behind the route. It answers preflights itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// The origins of the pages: `https://a.example`, `https://*.example.com` for those below it, or
    /// `*` alone for all.
    origins: Vec<Origin>,
    /// The methods that a preflight allows. Default: `GET`.
    #[serde(default = "get")]
    methods: Vec<AllowedMethod>,
    /// The header fields of requests that a preflight allows, or `*` alone for all. Default: none.
    #[serde(default)]
    headers: Vec<FieldName>,
    /// The header fields of responses that pages may read besides the few that they always may, or
    /// `*` alone for all. Default: none.
    #[serde(default)]
    expose: Vec<FieldName>,
    /// Whether requests may carry cookies and the like. Default: `false`.
    #[serde(default)]
    credentials: bool,
    /// How long a browser may keep the answer to a preflight, in whole seconds. Default: `1h`.
    #[serde(default = "one_hour")]
    max_age: Period,
}

/// A method that pages can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum AllowedMethod {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Patch,
    Options,
}

impl AllowedMethod {
    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Patch => "PATCH",
            Self::Options => "OPTIONS",
        }
    }
}

fn get() -> Vec<AllowedMethod> {
    vec![AllowedMethod::Get]
}

fn one_hour() -> Period {
    Period(Duration::from_secs(3600))
}

impl Settings {
    fn check(&self) -> Result<(), SettingsError> {
        if self.origins.is_empty() {
            return Err(SettingsError::new("no origins", "at least one").at("origins"));
        }
        if self.methods.is_empty() {
            return Err(SettingsError::new("no methods", "at least one").at("methods"));
        }
        let any = |name: &FieldName| name.as_str() == ANY;
        stands_alone("origins", &self.origins, |origin| *origin == Origin::Any)?;
        stands_alone("headers", &self.headers, any)?;
        stands_alone("expose", &self.expose, any)?;
        if self.credentials {
            self.check_with_credentials()?;
        }
        if self.max_age.subsec_nanos() != 0 {
            let found = format!("found {}ms", self.max_age.as_millis());
            return Err(SettingsError::new(found, "whole seconds").at("max_age"));
        }
        Ok(())
    }

    /// Browsers take a star for a name where there are credentials, so that it would allow nothing;
    /// to name whichever origin asks instead would let any page act for the user.
    fn check_with_credentials(&self) -> Result<(), SettingsError> {
        let error = |found, expected| SettingsError::new(found, expected).at("credentials");
        if self.origins.contains(&Origin::Any) {
            let expected = "the origins that may send cookies by name, or credentials: false";
            return Err(error("credentials for every origin", expected));
        }
        if self.expose.iter().any(|name| name.as_str() == ANY) {
            let expected = "the fields to expose by name, or credentials: false";
            return Err(error("credentials beside expose: [\"*\"]", expected));
        }
        Ok(())
    }
}

/// A star beside others makes them meaningless, which nobody means.
fn stands_alone<T>(
    key: &str,
    list: &[T],
    is_star: impl Fn(&T) -> bool,
) -> Result<(), SettingsError> {
    match list.iter().position(is_star) {
        Some(index) if list.len() > 1 => {
            let error = SettingsError::new("found \"*\" beside others", "* alone, or no *");
            Err(error.at(format!("{key}[{index}]")))
        }
        _ => Ok(()),
    }
}

/// Which pages of other origins may use what is behind the route.
pub(super) struct Cors {
    origins: Vec<Origin>,
    methods: Vec<AllowedMethod>,
    headers: Vec<HeaderName>,
    any_header: bool,
    credentials: bool,
    allow_methods: HeaderValue,
    /// `None` where none are allowed, or all.
    allow_headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: HeaderValue,
}

/// A request by which a browser asks whether a page may send another.
struct Preflight<'r> {
    headers: &'r HeaderMap,
}

impl<'r> Preflight<'r> {
    fn of(method: &Method, headers: &'r HeaderMap) -> Option<Self> {
        let asks = headers.contains_key(header::ORIGIN)
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        (*method == Method::OPTIONS && asks).then_some(Self { headers })
    }

    fn method(&self) -> &[u8] {
        let method = self.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD);
        method.map_or(&[], HeaderValue::as_bytes)
    }

    /// The names of the fields that the request will have; `None` if one is no name.
    fn header_names(&self) -> Option<Vec<HeaderName>> {
        let fields = self.headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter();
        fields
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|name| !name.is_empty())
            .map(|name| HeaderName::from_bytes(name).ok())
            .collect()
    }
}

impl Filter for Cors {
    const NAME: &'static str = "cors";
    type Settings = Settings;
    const HAS_SIDE_EFFECTS: bool = false;

    fn new(settings: Settings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        settings.check()?;
        let names =
            |names: Vec<FieldName>| names.into_iter().map(|name| name.0).collect::<Vec<_>>();
        let (headers, expose) = (names(settings.headers), names(settings.expose));
        let any_header = headers.iter().any(|name| name.as_str() == ANY);
        let methods: Vec<&str> = settings.methods.iter().map(|method| method.as_str()).collect();
        Ok(Self {
            allow_methods: list(&methods),
            allow_headers: listed(&headers).filter(|_| !any_header),
            expose: listed(&expose),
            max_age: settings.max_age.as_secs().into(),
            origins: settings.origins,
            methods: settings.methods,
            headers,
            any_header,
            credentials: settings.credentials,
        })
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Result {
        match Preflight::of(request.method(), request.headers()) {
            Some(preflight) => Ok(self.answer(&preflight)?.into()),
            None => Ok(Flow::Continue),
        }
    }

    async fn on_response(&self, response: &mut Response<'_>) -> Result {
        if Preflight::of(response.method(), response.request_headers()).is_some() {
            // Our own answer, which has all it needs.
            return Ok(Flow::Continue);
        }
        vary(response, &["Origin"])?;
        if !response.request_headers().contains_key(header::ORIGIN) {
            return Ok(Flow::Continue);
        }
        for name in OURS {
            response.remove_header(name)?;
        }
        for (name, value) in self.allowed(response.request_headers()).into_iter().flatten() {
            response.set_header(name, value)?;
        }
        Ok(Flow::Continue)
    }
}

type Fields = Vec<(HeaderName, HeaderValue)>;

impl Cors {
    /// The fields by which the page that sent a request may read its response; `None` if it may not.
    fn allowed(&self, request: &HeaderMap) -> Option<Fields> {
        let mut fields = self.origin_fields(request)?;
        if let Some(expose) = &self.expose {
            fields.push((header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone()));
        }
        Some(fields)
    }

    /// The fields that name the origin of a request; `None` if it is not allowed.
    fn origin_fields(&self, request: &HeaderMap) -> Option<Fields> {
        let mut origins = request.get_all(header::ORIGIN).iter();
        let (Some(origin), None) = (origins.next(), origins.next()) else { return None };
        let text = origin.to_str().ok()?;
        let entry = self.origins.iter().find(|entry| entry.matches(text))?;
        let value = match entry {
            Origin::Any => HeaderValue::from_static(ANY),
            Origin::One(_) | Origin::Below { .. } => origin.clone(),
        };
        let mut fields = vec![(header::ACCESS_CONTROL_ALLOW_ORIGIN, value)];
        if self.credentials {
            let yes = HeaderValue::from_static("true");
            fields.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes));
        }
        Some(fields)
    }

    /// The answer to a preflight. One that is refused says nothing to an origin that is not allowed,
    /// and to one that is, what it may do.
    fn answer(&self, preflight: &Preflight<'_>) -> Result<Answer, FieldError> {
        let Some(mut fields) = self.origin_fields(preflight.headers) else {
            return answer(StatusCode::FORBIDDEN, Vec::new());
        };
        fields.push((header::ACCESS_CONTROL_ALLOW_METHODS, self.allow_methods.clone()));
        let names = preflight.header_names().filter(|names| self.allows_headers(names));
        let asked = names.as_deref().filter(|_| self.any_header).and_then(listed);
        if let Some(allowed) = asked.or_else(|| self.allow_headers.clone()) {
            fields.push((header::ACCESS_CONTROL_ALLOW_HEADERS, allowed));
        }
        if names.is_none() || !self.allows_method(preflight.method()) {
            return answer(StatusCode::FORBIDDEN, fields);
        }
        fields.push((header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone()));
        answer(StatusCode::NO_CONTENT, fields)
    }

    fn allows_method(&self, method: &[u8]) -> bool {
        self.methods.iter().any(|allowed| allowed.as_str().as_bytes() == method)
    }

    fn allows_headers(&self, names: &[HeaderName]) -> bool {
        self.any_header || names.iter().all(|name| self.headers.contains(name))
    }
}

fn answer(status: StatusCode, fields: Fields) -> Result<Answer, FieldError> {
    let answer = Answer::new(status).header(header::VARY, VARY_PREFLIGHT)?;
    fields.into_iter().try_fold(answer, |answer, (name, value)| answer.header(name, value))
}

/// The names in one field value; `None` if there are none.
fn listed(names: &[HeaderName]) -> Option<HeaderValue> {
    let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
    (!names.is_empty()).then(|| list(&names))
}

fn list(names: &[&str]) -> HeaderValue {
    names.join(", ").try_into().expect("names of methods and fields are tokens")
}

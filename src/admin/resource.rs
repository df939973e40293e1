//! Paths, and what may be done to each.

use super::{
    Admin,
    answer::{self, Answer, refusal},
    guard, metrics, status,
};
use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use std::net::IpAddr;

/// What a path stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    Health,
    Readiness,
    Metrics,
    Status,
}

impl Resource {
    fn at(path: &str) -> Option<Self> {
        Some(match path {
            "/healthz" => Self::Health,
            "/readyz" => Self::Readiness,
            "/metrics" => Self::Metrics,
            "/api/v1/status" => Self::Status,
            _ => return None,
        })
    }

    /// The methods that it takes, as they stand in `Allow`.
    fn methods(self) -> &'static str {
        match self {
            Self::Health | Self::Readiness | Self::Metrics | Self::Status => "GET, HEAD",
        }
    }

    fn takes(self, method: &Method) -> bool {
        self.methods().split(", ").any(|taken| taken == method.as_str())
    }

    /// Whether it is there for those who have no token: what asks for it seldom can have one.
    fn is_open(self) -> bool {
        matches!(self, Self::Health | Self::Readiness)
    }
}

/// Answers a request. `local` is the address that the client has connected to; a unix socket has none.
pub(super) fn answer(admin: &Admin, local: Option<IpAddr>, head: &Parts) -> Answer {
    let (resource, method) = match admit(admin, local, head) {
        Ok(admitted) => admitted,
        Err(refusal) => return *refusal,
    };
    match (resource, method) {
        (Resource::Health, _) => answer::text(StatusCode::OK, "ok"),
        (Resource::Readiness, _) if admin.is_ready() => answer::text(StatusCode::OK, "ready"),
        (Resource::Readiness, _) => answer::text(StatusCode::SERVICE_UNAVAILABLE, "not ready"),
        (Resource::Metrics, _) => answer::metrics(metrics::text(admin)),
        (Resource::Status, _) => answer::json(StatusCode::OK, &status::describe(admin)),
    }
}

/// What a request wants, if it may have it.
fn admit(
    admin: &Admin,
    local: Option<IpAddr>,
    head: &Parts,
) -> Result<(Resource, Method), Box<Answer>> {
    let snapshot = admin.live.load();
    let Some(settings) = &snapshot.admin else {
        let message = "there is no admin API in the configuration";
        return Err(Box::new(refusal(StatusCode::NOT_FOUND, "not_found", message)));
    };
    guard::check_host(head, local, settings)?;
    let resource = Resource::at(head.uri.path());
    if !resource.is_some_and(Resource::is_open) {
        guard::check_token(&head.headers, settings.token.as_ref())?;
    }
    let Some(resource) = resource else {
        let message = format!("there is nothing at {}", head.uri.path());
        return Err(Box::new(refusal(StatusCode::NOT_FOUND, "not_found", &message)));
    };
    if !resource.takes(&head.method) {
        return Err(Box::new(wrong_method(resource, &head.method)));
    }
    if ![Method::GET, Method::HEAD].contains(&head.method) {
        guard::check_origin(&head.headers)?;
    }
    Ok((resource, head.method.clone()))
}

fn wrong_method(resource: Resource, method: &Method) -> Answer {
    let message = format!("{method} is not among {}", resource.methods());
    let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &message);
    let methods = HeaderValue::from_static(resource.methods());
    answer.headers_mut().insert(header::ALLOW, methods);
    answer
}

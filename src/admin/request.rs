//! From a request to its answer.

use super::{
    Admin,
    answer::{self, Answer, refusal},
    body, dashboard, decide, events, explain, guard, log_level, metrics, pools, reload,
    resource::Resource,
    status,
};
use http::{HeaderValue, Method, Request, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use std::{net::IpAddr, sync::Arc};

/// Answers a request. `local` is the address that the client has connected to; a unix socket has none.
pub(super) async fn answer(
    admin: &Arc<Admin>,
    local: Option<IpAddr>,
    request: Request<Incoming>,
) -> Answer {
    let (head, body) = request.into_parts();
    let responding =
        async { respond(admin, admit(admin, local, &head)?, &head.method, body).await };
    responding.await.unwrap_or_else(|refusal| *refusal)
}

/// What a request wants, if it may have it.
fn admit(admin: &Admin, local: Option<IpAddr>, head: &Parts) -> Result<Resource, Box<Answer>> {
    let snapshot = admin.live.load();
    let Some(settings) = &snapshot.admin else {
        return Err(Box::new(answer::not_found("there is no admin API in the configuration")));
    };
    guard::check_host(head, local, settings)?;
    let resource = Resource::at(head.uri.path());
    if !resource.as_ref().is_some_and(Resource::is_open) {
        let allowed = guard::check_token(&head.headers, settings.token.as_ref());
        // A browser cannot send the token before a page has asked for it. That page is the dashboard
        // itself: it holds nothing but what is in the program.
        let wants_page = resource == Some(Resource::Dashboard) && dashboard::is_wanted(head);
        allowed
            .map_err(|refusal| if wants_page { dashboard::locked(&refusal) } else { refusal })?;
    }
    let Some(resource) = resource else {
        let message = format!("there is nothing at {}", head.uri.path());
        return Err(Box::new(answer::not_found(&message)));
    };
    if !resource.takes(&head.method) {
        return Err(Box::new(wrong_method(&resource, &head.method)));
    }
    if ![Method::GET, Method::HEAD].contains(&head.method) {
        guard::check_origin(&head.headers)?;
    }
    Ok(resource)
}

async fn respond(
    admin: &Arc<Admin>,
    resource: Resource,
    method: &Method,
    body: Incoming,
) -> Result<Answer, Box<Answer>> {
    let snapshot = admin.live.load();
    Ok(match resource {
        Resource::Dashboard => dashboard::page(),
        Resource::Health => answer::text(StatusCode::OK, "ok"),
        Resource::Readiness if admin.is_ready() => answer::text(StatusCode::OK, "ready"),
        Resource::Readiness => answer::text(StatusCode::SERVICE_UNAVAILABLE, "not ready"),
        Resource::Metrics => answer::metrics(metrics::text(admin)),
        Resource::Status => answer::json(StatusCode::OK, &status::describe(admin)),
        Resource::Events => answer::json(StatusCode::OK, &events::describe(&snapshot)),
        Resource::Pools => answer::json(StatusCode::OK, &pools::describe_all(&snapshot)),
        Resource::Pool(name) => match pools::find(&snapshot, &name) {
            Some(pool) => answer::json(StatusCode::OK, &pools::describe(pool)),
            None => pools::unknown(&name),
        },
        Resource::Backends(pool) => decide::add(admin, &pool, &body::read(body).await?).await?,
        Resource::Backend(pool, backend) if *method == Method::DELETE => {
            decide::remove(admin, &pool, &backend).await?
        }
        Resource::Backend(pool, backend) => {
            decide::amend(admin, &pool, &backend, &body::read(body).await?)?
        }
        Resource::Config => {
            answer::json(StatusCode::OK, &admin.instance.in_force().text.effective())
        }
        Resource::File => answer::json(StatusCode::OK, &admin.instance.in_force().text.file()),
        Resource::Explain => explain::perform(admin, &body::read(body).await?).await,
        Resource::LogLevel if *method == Method::PUT => {
            log_level::set(admin, &body::read(body).await?)?
        }
        Resource::LogLevel => log_level::describe(),
        Resource::Reload => reload::perform(admin).await,
    })
}

fn wrong_method(resource: &Resource, method: &Method) -> Answer {
    let message = format!("{method} is not among {}", resource.methods());
    let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &message);
    let methods = HeaderValue::from_static(resource.methods());
    answer.headers_mut().insert(header::ALLOW, methods);
    answer
}

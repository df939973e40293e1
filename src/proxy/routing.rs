//! From a request's head to what is to be done with it: who sends it, its route, its pool.

use super::{Exchange, Reason, RequestBody, answer, client, hash_key};
use crate::{
    filter::{Answer, Facts, Variables, host_of, target_of},
    model::{self, BackendProtocol},
    pool::Pool,
    route::{self, normal_path, single_slashes},
    runtime::{Action, Route, Snapshot},
};
use http::{HeaderValue, StatusCode, Version, header};
use pingora::http::RequestHeader;
use pingora_proxy::Session;
use std::{borrow::Cow, sync::Arc};

impl Exchange {
    /// Finds the request's route and has its filters see the request; an answer is to be given at
    /// once.
    pub(super) async fn route(&mut self, session: &mut Session) -> pingora::Result<Option<Answer>> {
        self.identify(session.req_header());
        if let Err(answer) = self.enter_route(session.req_header_mut()) {
            return Ok(Some(answer));
        }
        if let Some(answer) = self.filter_request(session).await? {
            return Ok(Some(answer));
        }
        Ok(self.act(session.req_header_mut()))
    }

    pub(super) fn enter_route(&mut self, request: &mut RequestHeader) -> Result<(), Answer> {
        if !self.from_trusted {
            client::remove_claims(request);
        }
        let Some(index) = self.find_route(request)? else {
            return Err(Answer::error(Reason::NoRoute));
        };
        self.route = Some(index);
        let Route { upgrades, timeout, filters, .. } = &self.snapshot.routes[index];
        let timeout = *timeout;
        self.filtering.is_needed = !filters.is_empty();
        let allowed = |protocol: &HeaderValue| upgrades.allow(protocol.as_bytes());
        if self.upgrade && !request.headers.get(header::UPGRADE).is_some_and(allowed) {
            self.decline_upgrade(request);
        }
        self.route_deadline = timeout.map(|timeout| self.received + timeout);
        self.link.set_deadline(self.route_deadline);
        let bounded = self.route_deadline.is_some() || self.upgrade;
        if bounded || self.body == RequestBody::Streaming {
            self.remember(request);
        }
        Ok(())
    }

    /// Does what the route, or a filter, says is to be done; an answer is to be given at once.
    pub(super) fn act(&mut self, request: &mut RequestHeader) -> Option<Answer> {
        let snapshot = &self.snapshot;
        let route = self.route.map(|index| &snapshot.routes[index])?;
        let chosen =
            self.filtering.progress.choices.pool.as_ref().map(|pool| &snapshot.pools[pool.index]);
        let pool = match (&route.action, chosen) {
            (_, Some(pool)) => pool,
            (Action::Proxy(pools), None) => pools.choose(rand::rng),
            (Action::Redirect(redirect), None) => return Some(self.redirect(request, redirect)),
            (Action::Respond(fixed), None) => {
                let (headers, body) = (fixed.headers.clone(), fixed.body.clone());
                return Some(Answer::fixed(fixed.status, headers, body));
            }
        };
        self.enter_pool(pool.clone(), request)
    }

    /// Prepares the request for the backends of `pool`; an answer is to be given at once.
    pub(super) fn enter_pool(
        &mut self,
        pool: Arc<Pool>,
        request: &mut RequestHeader,
    ) -> Option<Answer> {
        self.hash_key = hash_key::of(&pool.spec().balance, self, request);
        self.kept = super::sticky::Kept::of(&pool, request);
        let pool = self.pool.insert(pool);
        match pool.spec().protocol {
            BackendProtocol::Http1 => None,
            protocol => {
                let timed = pool.spec().retry.per_try_timeout.is_some();
                self.adapt_to_http2(request, protocol, timed)
            }
        }
    }

    /// Sees to what HTTP/2 has not: upgrades, and clients of HTTP/1.0 that an answer of unknown length
    /// can be passed on to. Where backends choose, both are asked for in HTTP/1.
    fn adapt_to_http2(
        &mut self,
        request: &mut RequestHeader,
        protocol: BackendProtocol,
        timed: bool,
    ) -> Option<Answer> {
        if protocol == BackendProtocol::Http2 {
            if request.version == Version::HTTP_10 {
                let status = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
                return Some(Answer::refusal(status, Reason::BadRequest));
            }
            self.decline_upgrade(request);
        }
        if timed && self.sketch.is_none() {
            // A try that cannot be cut takes its request with it.
            self.remember(request);
        }
        None
    }

    /// Learns who sends the request, and gives it its id.
    pub(super) fn identify(&mut self, request: &RequestHeader) {
        let peer = self.link.client().map(|address| address.ip());
        self.from_trusted = peer.is_some_and(|peer| self.snapshot.trusts(peer));
        self.client = client::address(peer, &request.headers, &self.snapshot);
        if self.link.tls().is_some() {
            self.scheme = client::HTTPS;
        }
        let trusted = self.from_trusted.then_some(&request.headers);
        if let Some(scheme) = trusted.and_then(client::forwarded_scheme) {
            self.scheme = scheme;
        }
        let given = trusted.and_then(|headers| headers.get(&answer::X_REQUEST_ID.name));
        self.request_id = match given {
            Some(id) if client::is_request_id(id) => id.clone(),
            _ => client::new_request_id(),
        };
    }

    fn find_route(&mut self, request: &RequestHeader) -> Result<Option<usize>, Answer> {
        self.with_facts(request, Snapshot::find_route)
    }

    /// Asks the snapshot something about the route of a request.
    pub(super) fn with_facts<T>(
        &mut self,
        request: &RequestHeader,
        ask: impl FnOnce(&Snapshot, &route::Facts<'_>) -> T,
    ) -> Result<T, Answer> {
        let malformed = || Answer::error(Reason::BadRequest);
        let sent = std::str::from_utf8(request.raw_path()).map_err(|_| malformed())?;
        let (path, query) = match sent.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (sent, None),
        };
        let path = normal_path(path).map_err(|_| malformed())?;
        let host = host_of(request);
        let facts = route::Facts {
            listener: self.link.listener(),
            host: &host,
            path: &single_slashes(&path),
            query,
            method: &request.method,
            headers: &request.headers,
        };
        let found = ask(&self.snapshot, &facts);
        if let Cow::Owned(path) = path {
            self.rewritten = Some(query.map_or(path.clone(), |query| format!("{path}?{query}")));
        }
        Ok(found)
    }

    /// The target that a backend sees.
    pub(super) fn target<'a>(&'a self, request: &'a RequestHeader) -> Cow<'a, str> {
        target_of(self.rewritten.as_deref(), request)
    }

    fn redirect(&self, request: &RequestHeader, redirect: &model::Redirect) -> Answer {
        let facts = Facts {
            client_ip: self.client,
            scheme: self.scheme,
            tls: self.link.tls(),
            listener: self.listener().name.as_str(),
            route: self.matched().map_or("", |route| route.name.as_str()),
            request_id: &self.request_id,
            received: self.received,
        };
        let variables = Variables {
            facts: &facts,
            method: &request.method,
            host: &host_of(request),
            target: &self.target(request),
            pool: None,
            backend: None,
        };
        let to = on_this_host(variables.render(&redirect.to), &redirect.to);
        match HeaderValue::from_str(&to) {
            Ok(location) => {
                let headers = vec![(header::LOCATION, location)];
                Answer::fixed(redirect.status, headers, bytes::Bytes::new())
            }
            Err(_) => Answer::error(Reason::BadRequest),
        }
    }
}

/// Where a redirect leads, whose template `of` says which host that is, or none. What a client asked for
/// must not say it in its place: a reference that begins with two slashes begins with a host (RFC 3986
/// section 4.2), and to browsers a backslash is a slash.
fn on_this_host(to: String, of: &model::Template) -> String {
    let path = to.trim_start_matches(['/', '\\']);
    if !to.starts_with('/') || to.len() - path.len() < 2 || of.beginning().starts_with("//") {
        return to;
    }
    format!("/{path}")
}

//! From a request's head to what is to be done with it: who sends it, its route, its pool.

use super::{Exchange, Reason, RequestBody, answer, client, hash_key};
use crate::{
    filter::{Answer, Facts, Variables, host_of, target_of},
    model::{self, BackendProtocol},
    route::{self, normal_path},
    runtime::{Action, Snapshot},
};
use http::{HeaderName, HeaderValue, StatusCode, Version, header};
use pingora::http::RequestHeader;
use pingora_proxy::Session;
use std::borrow::Cow;

impl Exchange {
    /// Finds the request's route and has its filters see the request; an answer is to be given at
    /// once.
    pub(super) async fn route(&mut self, session: &mut Session) -> pingora::Result<Option<Answer>> {
        self.identify(session.req_header());
        if let Err(answer) = self.enter_route(session.req_header()) {
            return Ok(Some(answer));
        }
        if let Some(answer) = self.filter_request(session).await? {
            return Ok(Some(answer));
        }
        Ok(self.act(session.req_header()))
    }

    pub(super) fn enter_route(&mut self, request: &RequestHeader) -> Result<(), Answer> {
        let Some(index) = self.find_route(request)? else {
            return Err(Answer::error(Reason::NoRoute));
        };
        self.route = Some(index);
        let timeout = self.snapshot.routes[index].timeout;
        self.route_deadline = timeout.map(|timeout| self.received + timeout);
        self.link.set_deadline(self.route_deadline);
        let bounded = self.route_deadline.is_some() || self.upgrade;
        if bounded || self.body == RequestBody::Streaming {
            self.remember(request);
        }
        Ok(())
    }

    /// Does what the route, or a filter, says is to be done; an answer is to be given at once.
    pub(super) fn act(&mut self, request: &RequestHeader) -> Option<Answer> {
        let snapshot = self.snapshot.clone();
        let route = self.route.map(|index| &snapshot.routes[index])?;
        let chosen =
            self.filtering.progress.choices.pool.as_ref().map(|pool| &snapshot.pools[pool.index]);
        let pool = match (&route.action, chosen) {
            (_, Some(pool)) => pool,
            (Action::Proxy(pools), None) => pools.choose(&mut rand::rng()),
            (Action::Redirect(redirect), None) => return Some(self.redirect(request, redirect)),
            (Action::Respond(fixed), None) => {
                let (headers, body) = (fixed.headers.clone(), fixed.body.clone());
                return Some(Answer::fixed(fixed.status, headers, body));
            }
        };
        self.hash_key = hash_key::of(&pool.spec().balance, self, request);
        self.kept = super::sticky::Kept::of(pool, request, self.time);
        self.pool = Some(pool.clone());
        if pool.spec().protocol == BackendProtocol::Http2 {
            return self.adapt_to_http2(request, pool.spec().retry.per_try_timeout.is_some());
        }
        None
    }

    /// Sees to what HTTP/2 has not: upgrades, and clients of HTTP/1.0 that an answer of unknown length
    /// can be passed on to.
    fn adapt_to_http2(&mut self, request: &RequestHeader, timed: bool) -> Option<Answer> {
        if request.version == Version::HTTP_10 {
            let status = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
            return Some(Answer::refusal(status, Reason::BadRequest));
        }
        self.upgrade = false;
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
        if let Some(scheme) =
            client::forwarded_scheme(&request.headers).filter(|_| self.from_trusted)
        {
            self.scheme = scheme;
        }
        let given = request.headers.get(answer::X_REQUEST_ID).filter(|_| self.from_trusted);
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
            path: &path,
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
        match HeaderValue::from_str(&variables.render(&redirect.to)) {
            Ok(location) => {
                let headers = vec![(header::LOCATION, location)];
                Answer::fixed(redirect.status, headers, bytes::Bytes::new())
            }
            Err(_) => Answer::error(Reason::BadRequest),
        }
    }
}

/// Fields that `Connection` may not take away: they frame the message or say whom it is for.
const ESSENTIAL: [HeaderName; 3] =
    [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];

/// Removes the fields that `Connection` names, and leaves of it what concerns the connection.
/// Pingora refuses a request whose `Connection` names what it holds dear, when a backend has been
/// connected already.
pub(super) fn strip_nominated(request: &mut RequestHeader) {
    let ours = |token: &str| {
        ["close", "keep-alive", "upgrade"].iter().any(|known| token.eq_ignore_ascii_case(known))
    };
    let fields = request.headers.get_all(header::CONNECTION).into_iter();
    let tokens: Vec<String> = fields
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|token| String::from_utf8_lossy(token.trim_ascii()).into_owned())
        .collect();
    if tokens.iter().all(|token| ours(token)) {
        return;
    }
    let (kept, named): (Vec<_>, Vec<_>) = tokens.into_iter().partition(|token| ours(token));
    for name in named.iter().filter_map(|name| name.parse::<HeaderName>().ok()) {
        if !ESSENTIAL.contains(&name) {
            request.remove_header(&name);
        }
    }
    request.remove_header(&header::CONNECTION);
    if !kept.is_empty() {
        // The tokens are known words, so this is a valid value.
        let _ = request.insert_header(header::CONNECTION, kept.join(", "));
    }
}

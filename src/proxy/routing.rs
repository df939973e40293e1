//! From a request's head to what is to be done with it: who sends it, its route, its pool.

use super::{
    Answer, Exchange, Reason, RequestBody, answer, client, forward::FORWARDED_PROTO, hash_key,
};
use crate::{
    model::{self, Variable},
    route::{Facts, host_without_port, normal_path},
    runtime::Action,
};
use http::{HeaderName, HeaderValue, header};
use pingora::http::RequestHeader;
use std::borrow::Cow;

impl Exchange {
    /// Finds the request's route; the error is an answer to give at once.
    pub(super) fn route(&mut self, request: &RequestHeader) -> Result<(), Box<Answer>> {
        self.identify(request);
        let found = self.find_route(request)?;
        let snapshot = self.snapshot.clone();
        let Some(index) = found else { return Err(Answer::error(Reason::NoRoute).into()) };
        self.route = Some(index);
        let route = &snapshot.routes[index];
        self.route_deadline = route.timeout.map(|timeout| self.received + timeout);
        self.link.set_deadline(self.route_deadline);
        let bounded = self.route_deadline.is_some() || self.upgrade;
        if bounded || self.body == RequestBody::Streaming {
            self.remember(request);
        }
        match &route.action {
            Action::Proxy(pools) => {
                let pool = pools.choose(&mut rand::rng()).clone();
                self.hash_key = hash_key::of(&pool.spec().balance, self, request);
                self.kept = super::sticky::Kept::of(&pool, request, self.time);
                self.pool = Some(pool);
                Ok(())
            }
            Action::Redirect(redirect) => Err(self.redirect(request, redirect).into()),
            Action::Respond(fixed) => {
                let answer = Answer::fixed(fixed.status, fixed.headers.clone(), fixed.body.clone());
                Err(answer.into())
            }
        }
    }

    /// Learns who sends the request, and gives it its id.
    fn identify(&mut self, request: &RequestHeader) {
        let peer = self.link.client().map(|address| address.ip());
        self.from_trusted = peer.is_some_and(|peer| self.snapshot.trusts(peer));
        self.client = client::address(peer, &request.headers, &self.snapshot);
        let given = request.headers.get(answer::X_REQUEST_ID).filter(|_| self.from_trusted);
        self.request_id = match given {
            Some(id) if client::is_request_id(id) => id.clone(),
            _ => client::new_request_id(),
        };
    }

    fn find_route(&mut self, request: &RequestHeader) -> Result<Option<usize>, Box<Answer>> {
        let malformed = || Box::new(Answer::error(Reason::BadRequest));
        let sent = std::str::from_utf8(request.raw_path()).map_err(|_| malformed())?;
        let (path, query) = match sent.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (sent, None),
        };
        let path = normal_path(path).map_err(|_| malformed())?;
        let host = host(request);
        let facts = Facts {
            listener: self.link.listener(),
            host: &host,
            path: &path,
            query,
            method: &request.method,
            headers: &request.headers,
        };
        let found = self.snapshot.find_route(&facts);
        if let Cow::Owned(path) = path {
            self.rewritten = Some(query.map_or(path.clone(), |query| format!("{path}?{query}")));
        }
        Ok(found)
    }

    /// The target that a backend sees.
    pub(super) fn target<'a>(&'a self, request: &'a RequestHeader) -> Cow<'a, str> {
        match &self.rewritten {
            Some(target) => Cow::Borrowed(target),
            None => String::from_utf8_lossy(request.raw_path()),
        }
    }

    fn redirect(&self, request: &RequestHeader, redirect: &model::Redirect) -> Answer {
        let target = self.target(request);
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let location = redirect.to.render(|variable, text| match variable {
            Variable::ClientIp => {
                text.push_str(&self.client.map_or_else(String::new, |ip| ip.to_string()));
            }
            Variable::Host => text.push_str(&host(request)),
            Variable::Path => text.push_str(path),
            Variable::Query => text.push_str(query),
            Variable::PathAndQuery => text.push_str(&target),
            Variable::Method => text.push_str(request.method.as_str()),
            Variable::Scheme => text.push_str(FORWARDED_PROTO),
            Variable::RequestId => {
                text.push_str(&String::from_utf8_lossy(self.request_id.as_bytes()));
            }
            Variable::Listener => text.push_str(self.listener().name.as_str()),
            Variable::Route => {
                text.push_str(self.matched().map_or("", |route| route.name.as_str()));
            }
        });
        match HeaderValue::from_str(&location) {
            Ok(location) => {
                let headers = vec![(header::LOCATION, location)];
                Answer::fixed(redirect.status, headers, bytes::Bytes::new())
            }
            Err(_) => Answer::error(Reason::BadRequest),
        }
    }
}

/// The host a request asks for: lower case, without port; empty where it names none.
pub(super) fn host(request: &RequestHeader) -> Cow<'_, str> {
    let field = request.headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let host = host_without_port(field.unwrap_or(""));
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
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

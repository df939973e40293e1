//! What becomes of a request, and why: the production code asked about a request that is described.
//!
//! Nothing here decides anything. The head is checked by `listener`, the route found, the filters run
//! and the pool asked by `proxy`; this makes an [`Explanation`] of what they say. It changes nothing,
//! so that a running instance can be asked, too.

mod description;
mod explanation;
mod text;

pub use description::{Description, NotExplained};
pub use explanation::{
    Answered, Backend, Explanation, Filter, Listener, Pool, Request, Retried, Retry, SameAddress,
    Share, Skipped, State, Sticky, Way,
};

use crate::{
    filter::{Answer, Effect, Step},
    listener::{Refusal, check_head},
    model::{Ends, ListenAddress, MASK, Reason, RetryOn},
    pool::{Choice, hash_address},
    proxy::{Link, Rehearsal, Sending, rehearse},
    runtime::{Action, Forwarding, Route, Snapshot},
    tls::TlsFacts,
};
use description::Parsed;
use http::header;
use std::{net::SocketAddr, sync::Arc};

/// Explains what becomes of a request in a snapshot.
///
/// # Errors
/// When the description is none, or no listener takes such a request.
pub async fn explain(
    snapshot: &Arc<Snapshot>,
    description: &Description,
    state: State,
) -> Result<Explanation, NotExplained> {
    let parsed = description.parse()?;
    let listener = parsed.choose_listener(snapshot)?;
    if let Some(forwarding) = snapshot.forwarding(listener) {
        return Ok(of_connection(snapshot, listener, forwarding, &parsed, state));
    }
    if let Err(refusal) = check_head(&parsed.head_bytes(), &snapshot.listeners[listener].limits) {
        return Ok(refused(snapshot, listener, &parsed, state, &refusal));
    }
    let ends = ends(snapshot, listener, &parsed);
    let tls = snapshot.acceptor(listener).is_some();
    let facts = tls.then(|| Arc::new(TlsFacts::described(parsed.host())));
    let link = Link::new(listener, ends, facts);
    let rehearsal = rehearse(snapshot.clone(), link, parsed.head()?).await;
    Ok(of_request(snapshot, listener, &parsed, state, rehearsal))
}

/// Who talks to whom. A client on a unix socket has no address.
fn ends(snapshot: &Snapshot, listener: usize, parsed: &Parsed<'_>) -> Ends {
    match (&snapshot.listeners[listener].address, parsed.client) {
        (ListenAddress::Unix(_), None) => Ends::default(),
        (_, client) => {
            let client = client.unwrap_or_else(|| [127, 0, 0, 1].into());
            Ends { client: Some(SocketAddr::new(client, 0)), server: None }
        }
    }
}

/// An explanation in which nothing has happened yet.
fn begun(snapshot: &Snapshot, listener: usize, parsed: &Parsed<'_>, state: State) -> Explanation {
    let client = ends(snapshot, listener, parsed).client.map(|address| address.ip());
    Explanation {
        state,
        request: Request {
            method: parsed.method.to_owned(),
            url: parsed.url.to_owned(),
            host: parsed.host().to_owned(),
            target: parsed.target.clone(),
            client,
            scheme: parsed.scheme.to_owned(),
        },
        listener: Listener::of(&snapshot.listeners[listener]),
        skipped: Vec::new(),
        route: None,
        timeout: None,
        filters: Vec::new(),
        answer: None,
        split: Vec::new(),
        pool: None,
        pick: None,
        way: None,
        retry: None,
        notes: Vec::new(),
    }
}

/// A request that the listener does not take.
fn refused(
    snapshot: &Snapshot,
    listener: usize,
    parsed: &Parsed<'_>,
    state: State,
    refusal: &Refusal,
) -> Explanation {
    let &Refusal { status, reason, why } = refusal;
    let answer = Answered {
        by: "listener".to_owned(),
        status: Some(status.as_u16()),
        reason: reason.as_str().to_owned(),
        location: None,
        why: Some(why.to_owned()),
    };
    Explanation { answer: Some(answer), ..begun(snapshot, listener, parsed, state) }
}

/// A request that the routes decide on.
fn of_request(
    snapshot: &Snapshot,
    listener: usize,
    parsed: &Parsed<'_>,
    state: State,
    rehearsal: Rehearsal,
) -> Explanation {
    let mut explanation = begun(snapshot, listener, parsed, state);
    let Rehearsal { client, scheme, target, hides_answer, unmet, route, steps, end } = rehearsal;
    explanation.request.client = client;
    scheme.clone_into(&mut explanation.request.scheme);
    explanation.request.target = target;
    let names = snapshot.routes.iter().map(|route| route.name.to_string());
    let skip = |(route, (failed, expected))| Skipped { route, failed, expected };
    explanation.skipped = names.zip(unmet).map(skip).collect();
    let route = route.map(|index| &snapshot.routes[index]);
    explanation.route = route.map(|route| route.name.to_string());
    explanation.timeout = route.and_then(|route| route.timeout).map(text::duration);
    let by = answers(&steps).unwrap_or(if route.is_some() { "route" } else { "routes" });
    explanation.filters = steps.iter().map(Filter::of).collect();
    match &end {
        Err(answer) => explanation.answer = Some(Answered::of(answer, by)),
        Ok(sending) => explanation.send(sending, route, parsed, state),
    }
    let location = explanation.answer.as_mut().and_then(|answer| answer.location.as_mut());
    if let Some(location) = location.filter(|_| hides_answer) {
        MASK.clone_into(location);
    }
    explanation.note_what_is_not_known();
    explanation
}

/// The filter that answers.
fn answers(steps: &[Step]) -> Option<&'static str> {
    let answers = |effect: &Effect| matches!(effect, Effect::Answers(_) | Effect::Fails(_));
    steps.iter().find(|step| answers(&step.effect)).map(|step| step.filter)
}

impl Explanation {
    /// The request goes to a pool.
    fn send(
        &mut self,
        sending: &Sending,
        route: Option<&Route>,
        parsed: &Parsed<'_>,
        state: State,
    ) {
        let pool = &sending.pool;
        if let Some(Route { action: Action::Proxy(pools), .. }) = route {
            self.split = Share::of(pools, pool);
        }
        let mut shown = Pool::of(pool, &sending.preview);
        if pool.spec().balance.policy.is_hashing() {
            shown.hash(&pool.spec().balance, sending.key, sending.own_key);
        }
        let has_cookie = |name: &str| parsed.has_cookie(name);
        shown.sticky = Sticky::of(pool, sending, has_cookie, state);
        self.pool = Some(shown);
        self.retry = Some(Retry::of(pool.spec(), &sending.preview, &sending.retries));
        self.pick_of(&sending.preview, pool.spec().limits.queue);
    }

    /// The backend that it goes to, or the answer where there is none.
    fn pick_of(&mut self, preview: &crate::pool::Preview, queue: usize) {
        self.pick = preview.order.first().map(|member| member.name().to_string());
        let reason = match preview.choice {
            Choice::Kept => return self.way = Some(Way::Kept),
            Choice::Picked => return self.way = Some(Way::Policy),
            Choice::Busy if preview.queued < queue => return self.way = Some(Way::Queue),
            Choice::Busy => Reason::Overloaded,
            Choice::Nothing => Reason::NoHealthyBackend,
        };
        self.answer = Some(Answered::of(&Answer::error(reason), "pool"));
    }

    /// Says what the filters that were not run leave open.
    fn note_what_is_not_known(&mut self) {
        let unknown = self.filters.iter().filter(|filter| filter.effect == "not_run");
        let names: Vec<_> = unknown.map(|filter| filter.name.as_str()).collect();
        if !names.is_empty() {
            self.notes.push(format!(
                "not run, as that would count or change something: {}; what follows holds if they \
                 let the request go on as it is",
                names.join(", ")
            ));
        }
    }
}

/// A connection that is passed on as it is.
fn of_connection(
    snapshot: &Snapshot,
    listener: usize,
    forwarding: &Forwarding,
    parsed: &Parsed<'_>,
    state: State,
) -> Explanation {
    let mut explanation = begun(snapshot, listener, parsed, state);
    let name = parsed.server_name();
    let Some(pool) = forwarding.choose(name.as_deref()) else {
        explanation.answer = Some(Answered {
            by: "listener".to_owned(),
            status: None,
            reason: Reason::NoRoute.as_str().to_owned(),
            location: None,
            why: Some("no pool for this server name; the connection is closed".to_owned()),
        });
        return explanation;
    };
    let spec = pool.spec();
    let hashes = spec.balance.policy.is_hashing();
    let key = explanation.request.client.filter(|_| hashes).map(hash_address);
    let preview = pool.preview(key, None);
    let mut shown = Pool::of(pool, &preview);
    if hashes {
        shown.hash(&spec.balance, key, false);
    }
    explanation.pool = Some(shown);
    // Until a byte has passed, a connection can begin anew elsewhere. There are no answers to judge.
    let holds = |kind: &RetryOn| matches!(kind, RetryOn::ConnectFailure | RetryOn::Reset);
    let retries: Vec<_> = spec.retry.on.iter().map(|kind| (*kind, holds(kind))).collect();
    explanation.retry = Some(Retry::of(spec, &preview, &retries));
    explanation.pick_of(&preview, spec.limits.queue);
    if let Some(answer) = &mut explanation.answer {
        answer.status = None;
    }
    explanation
}

/// The value of `Location` in an answer.
fn location(answer: &Answer) -> Option<String> {
    let named = answer.headers().iter().find(|(name, _)| *name == header::LOCATION);
    named.map(|(_, value)| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

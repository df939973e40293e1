//! What is said of a request, for people and for machines.

use super::text;
use crate::{
    filter::{Answer, Effect, Step},
    model::{self, Balance, HashOn, RetryOn},
    pool::{self, Health, Preview, Prospect, Scoring},
    proxy::Sending,
    runtime::WeightedPools,
};
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, sync::Arc};

/// What becomes of a request, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Of what the state of backends is.
    pub state: State,
    /// The request.
    pub request: Request,
    /// The listener it arrives on.
    pub listener: Listener,
    /// The routes before the one that matches: all if none does.
    pub skipped: Vec<Skipped>,
    /// The route that matches.
    pub route: Option<String>,
    /// The route's `timeout`.
    pub timeout: Option<String>,
    /// What its filters would do, in order.
    pub filters: Vec<Filter>,
    /// The answer, if it is not a backend's.
    pub answer: Option<Answered>,
    /// The pools that the route chooses from, if they are several.
    pub split: Vec<Share>,
    /// The pool that it goes to.
    pub pool: Option<Pool>,
    /// The backend that it goes to.
    pub pick: Option<String>,
    /// How it comes to that backend.
    pub way: Option<Way>,
    /// What happens when a try fails.
    pub retry: Option<Retry>,
    /// What limits the explanation.
    pub notes: Vec<String>,
}

/// Of what the state of backends is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Of a start just now, after checks that all backends answered.
    Fresh,
    /// Of the running instance.
    Live,
}

/// The request, once trusted proxies are taken at their word and filters have changed it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The method.
    pub method: String,
    /// As described.
    pub url: String,
    /// The host without its port.
    pub host: String,
    /// The target that a backend sees.
    pub target: String,
    /// Who the client is; `None` on a unix socket.
    pub client: Option<IpAddr>,
    /// What the client uses: `http`, `https` or `tcp`.
    pub scheme: String,
}

/// A listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// `http`, `https` or `tcp`.
    pub protocol: String,
}

/// A route that does not match.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Skipped {
    /// Its name.
    pub route: String,
    /// The condition that fails.
    pub failed: String,
    /// What that asks for.
    pub expected: String,
}

/// What a filter would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Filter {
    /// Its name.
    pub name: String,
    /// Its settings in a line; empty if it has none.
    pub settings: String,
    /// `passes`, `answers`, `fails`, `not_run`, `no_request_hook` or `not_reached`.
    pub effect: String,
    /// More of that; empty if there is nothing to say.
    pub detail: String,
}

/// An answer that is not a backend's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answered {
    /// `listener`, `routes` (none matches), `route`, `pool`, or the name of a filter.
    pub by: String,
    /// The status; `None` where a connection is closed.
    pub status: Option<u16>,
    /// The reason code.
    pub reason: String,
    /// Where a redirect leads to.
    pub location: Option<String>,
    /// What is wrong with the request.
    pub why: Option<String>,
}

/// A pool of a split.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Share {
    /// Its name.
    pub pool: String,
    /// Its share of the requests, from 0 to 1.
    pub share: f64,
    /// Whether chance came to it this time.
    pub chosen: bool,
}

/// The pool that a request goes to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its policy.
    pub policy: String,
    /// What the scores of the backends say.
    pub scoring: String,
    /// What is hashed, for the policies that hash.
    pub hash_on: Option<String>,
    /// The hash of that in hexadecimal; `None` if the request does not have it.
    pub hash_key: Option<String>,
    /// What is known of the client's sticky cookie, where the pool has one.
    pub sticky: Option<Sticky>,
    /// Whether so few backends are usable that all are used.
    pub panic: bool,
    /// Requests that wait for a backend with room.
    pub queued: usize,
    /// Its backends, in file order.
    pub backends: Vec<Backend>,
    /// Backends whose host names have no address.
    pub unresolved: Vec<String>,
    /// Backends that are left out, as an earlier one has their address.
    #[serde(default)]
    pub same_address: Vec<SameAddress>,
}

/// A backend that has the address of another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SameAddress {
    /// Its name.
    pub name: String,
    /// The name of the other.
    pub of: String,
}

/// A sticky cookie.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sticky {
    /// Its name.
    pub cookie: String,
    /// `absent`, `invalid`, `gone` (it names a backend that is no more) or `good`.
    pub status: String,
    /// The backend that it names.
    pub backend: Option<String>,
    /// What to know about that; empty if there is nothing to say.
    pub detail: String,
}

/// A backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its weight.
    pub weight: u32,
    /// Whether it is a backup.
    pub backup: bool,
    /// `active`, `draining` or `disabled`.
    pub state: String,
    /// `healthy`, `unhealthy`, `ejected` or `unknown`.
    pub health: String,
    /// Requests in flight on it.
    pub in_flight: usize,
    /// Whether new requests may go to it, by its state and health.
    pub usable: bool,
    /// Whether it has as many requests as it may.
    pub full: bool,
    /// What the policy goes by; `None` where it does not consider the backend.
    pub score: Option<f64>,
}

/// How a request comes to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The client stays with it.
    Kept,
    /// By the policy.
    Policy,
    /// It waits until one has room.
    Queue,
}

/// What happens when a try fails.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Retry {
    /// Tries after the first.
    pub attempts: u32,
    /// For each failure after which the pool tries again, whether this request is tried again, too.
    pub on: Vec<Retried>,
    /// The backends in the order in which tries would go to them, the first pick included.
    pub order: Vec<String>,
    /// The pauses: a random part of the first, doubled with each try up to the second.
    pub backoff: [String; 2],
    /// How long one try may take, if that is limited.
    pub per_try_timeout: Option<String>,
    /// The budget.
    pub budget: String,
    /// Whether a retry could be paid for.
    pub budget_left: bool,
}

/// A failure after which the pool tries again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Retried {
    /// Its name in the configuration.
    pub failure: String,
    /// Whether this request is tried again: its method may be repeated, or no backend has seen it.
    pub retried: bool,
}

/// What a listener speaks.
pub(super) fn protocol(listener: &model::Listener) -> &'static str {
    match (listener.is_http(), listener.tls.is_some()) {
        (true, false) => "http",
        (true, true) => "https",
        (false, _) => "tcp",
    }
}

impl Listener {
    pub(super) fn of(listener: &model::Listener) -> Self {
        Self {
            name: listener.name.to_string(),
            address: listener.address.to_string(),
            protocol: protocol(listener).to_owned(),
        }
    }
}

impl Filter {
    pub(super) fn of(step: &Step) -> Self {
        let (effect, detail) = match &step.effect {
            Effect::Passes(changes) => ("passes", changes.join(", ")),
            Effect::Answers(answer) => ("answers", answer.status().as_u16().to_string()),
            Effect::Fails(why) => ("fails", why.clone()),
            Effect::Unknown => ("not_run", String::new()),
            Effect::Indifferent => ("no_request_hook", String::new()),
            Effect::NotReached => ("not_reached", String::new()),
        };
        Self {
            name: step.filter.to_owned(),
            settings: step.settings.clone(),
            effect: effect.to_owned(),
            detail,
        }
    }
}

impl Answered {
    pub(super) fn of(answer: &Answer, by: &str) -> Self {
        Self {
            by: by.to_owned(),
            status: Some(answer.status().as_u16()),
            reason: answer.reason().as_str().to_owned(),
            location: super::location(answer),
            why: None,
        }
    }
}

impl Share {
    /// The pools of a split of which one was chosen; none where there is no choice.
    pub(super) fn of(pools: &WeightedPools, chosen: &Arc<pool::Pool>) -> Vec<Self> {
        let all: u64 = pools.shares().map(|(_, share)| share).sum();
        let one = |(pool, share): (&Arc<pool::Pool>, u64)| Self {
            pool: pool.spec().name.to_string(),
            share: share as f64 / all as f64,
            chosen: Arc::ptr_eq(pool, chosen),
        };
        let shares: Vec<_> = pools.shares().map(one).collect();
        if shares.len() > 1 { shares } else { Vec::new() }
    }
}

impl Pool {
    pub(super) fn of(pool: &pool::Pool, preview: &Preview) -> Self {
        let spec = pool.spec();
        let repeats = pool.repeats();
        let is_known = |backend: &&model::Backend| {
            if repeats.iter().any(|repeat| repeat.entry == backend.name) {
                return true;
            }
            let model::BackendAddress::Host { host, .. } = &backend.address else { return true };
            preview.members.iter().any(|it| it.member.host_name() == Some(host))
        };
        let missing = spec.backends.iter().filter(|backend| !is_known(backend));
        Self {
            name: spec.name.to_string(),
            policy: spec.balance.policy.to_string(),
            scoring: scoring(preview.scoring).to_owned(),
            hash_on: None,
            hash_key: None,
            sticky: None,
            panic: preview.panic,
            queued: preview.queued,
            backends: preview.members.iter().map(|it| Backend::of(it, pool.now())).collect(),
            unresolved: missing.map(|backend| backend.name.to_string()).collect(),
            same_address: repeats.iter().map(SameAddress::of).collect(),
        }
    }

    /// Shows what is hashed.
    pub(super) fn hash(&mut self, balance: &Balance, key: Option<u64>, own: bool) {
        let on = match &balance.hash_on {
            _ if own => "what a filter said".to_owned(),
            HashOn::ClientIp => "client_ip".to_owned(),
            HashOn::Path => "path".to_owned(),
            HashOn::Uri => "uri".to_owned(),
            HashOn::Header(name) => format!("header {name}"),
            HashOn::Cookie(name) => format!("cookie {name}"),
            HashOn::Query(name) => format!("query {name}"),
        };
        self.hash_on = Some(on);
        self.hash_key = key.map(|key| format!("{key:016x}"));
    }
}

impl SameAddress {
    fn of(repeat: &pool::Repeat) -> Self {
        Self { name: repeat.name.to_string(), of: repeat.of.to_string() }
    }
}

fn scoring(scoring: Scoring) -> &'static str {
    match scoring {
        Scoring::Share => "share of the picks",
        Scoring::Load => "requests in flight for the weight; the least wins",
        Scoring::LoadOfTwo => {
            "requests in flight for the weight; the least of two that chance proposes wins"
        }
        Scoring::WaitOfTwo => {
            "milliseconds that a request is likely to wait, for the weight; the least of two that \
             chance proposes wins"
        }
        Scoring::Order => "place in the order of the hash key; the first that may be picked wins",
    }
}

impl Sticky {
    /// What the cookie of a request says, where the pool has one.
    pub(super) fn of(
        pool: &pool::Pool,
        sending: &Sending,
        has_cookie: impl Fn(&str) -> bool,
        state: State,
    ) -> Option<Self> {
        let sticky = pool.spec().sticky.as_ref()?;
        let present = has_cookie(&sticky.cookie);
        let backend = sending.kept.as_ref().map(|member| member.name().to_string());
        let (status, detail) = match (present, sending.has_ticket, &backend) {
            (false, ..) => ("absent", ""),
            (true, true, Some(_)) => ("good", ""),
            (true, true, None) => ("gone", "the backend that it names is no more"),
            (true, false, _) if state == State::Fresh && sticky.secret.is_none() => {
                ("invalid", "without sticky.secret, only the process that signed it can read it")
            }
            (true, false, _) => ("invalid", "it is not of this pool, altered or too old"),
        };
        let (status, detail) = (status.to_owned(), detail.to_owned());
        Some(Self { cookie: sticky.cookie.clone(), status, backend, detail })
    }
}

impl Backend {
    fn of(prospect: &Prospect, now: pool::Time) -> Self {
        let member = &prospect.member;
        let leaving = member.state().is_leaving();
        let state = if leaving { "draining" } else { member.admission().as_str() };
        let health = match member.health() {
            _ if member.state().ejected_until(now).is_some() => "ejected",
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
            Health::Unknown => "unknown",
        };
        Self {
            name: member.name().to_string(),
            address: member.key().to_owned(),
            weight: member.weight(),
            backup: member.is_backup(),
            state: state.to_owned(),
            health: health.to_owned(),
            in_flight: member.state().in_flight(),
            usable: prospect.usable,
            full: prospect.full,
            score: prospect.score,
        }
    }
}

impl Retry {
    pub(super) fn of(spec: &model::Pool, preview: &Preview, on: &[(RetryOn, bool)]) -> Self {
        let retry = &spec.retry;
        let one = |&(kind, retried): &(RetryOn, bool)| Retried {
            failure: kind.as_str().to_owned(),
            retried,
        };
        let budget = &retry.budget;
        Self {
            attempts: retry.attempts,
            on: on.iter().map(one).collect(),
            order: preview.order.iter().map(|member| member.name().to_string()).collect(),
            backoff: [retry.backoff.base, retry.backoff.max].map(text::duration),
            per_try_timeout: retry.per_try_timeout.map(text::duration),
            budget: format!(
                "{} of the requests of the last 10s, and {} a second whatever these are",
                budget.percent, budget.min_per_second
            ),
            budget_left: preview.budget_left,
        }
    }
}

//! What would become of a request, by the code that decides it and without sending anything.

use super::{Exchange, Link, RequestBody, nominated, retry::is_safe};
use crate::{
    filter::{Answer, Described, Step},
    model::{MASK, RetryOn},
    pool::{Kept, Member, Pool, Preview},
    runtime::{Action, Snapshot},
};
use bytes::Bytes;
use pingora::http::RequestHeader;
use std::{net::IpAddr, sync::Arc, time::Instant};

/// What would become of a request.
#[derive(Debug)]
pub(crate) struct Rehearsal {
    /// Who the client is, once trusted proxies are taken at their word.
    pub(crate) client: Option<IpAddr>,
    /// What the client uses, likewise.
    pub(crate) scheme: &'static str,
    /// The target as it was sent, or as filters and the normal form leave it; a mask where a secret of a
    /// filter is in it.
    pub(crate) target: String,
    /// Whether the answer may have a secret of the configuration in it.
    pub(crate) hides_answer: bool,
    /// For each of the routes before the one that matches, the condition that fails and what it asks
    /// for.
    pub(crate) unmet: Vec<(String, String)>,
    /// Index into the snapshot's routes.
    pub(crate) route: Option<usize>,
    /// What its filters would do.
    pub(crate) steps: Vec<Step>,
    /// An answer of ours, or the pool that it goes to.
    pub(crate) end: Result<Sending, Answer>,
}

/// A request that goes to a pool.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) pool: Arc<Pool>,
    /// What the hashing policies go by.
    pub(crate) key: Option<u64>,
    /// Whether a filter has said so.
    pub(crate) own_key: bool,
    /// Whether the request has a good sticky cookie.
    pub(crate) has_ticket: bool,
    /// The backend that a good cookie names, whether it takes the request or not; `None` without such
    /// a cookie, or if there is no such backend any more.
    pub(crate) kept: Option<Arc<Member>>,
    pub(crate) preview: Preview,
    /// For each failure after which the pool tries again, whether this request is tried again, too.
    pub(crate) retries: Vec<(RetryOn, bool)>,
}

/// Finds out what would become of a request with this `head` that arrives over `link`.
pub(crate) async fn rehearse(
    snapshot: Arc<Snapshot>,
    link: Link,
    mut head: RequestHeader,
) -> Rehearsal {
    let now = Instant::now();
    let mut exchange =
        Exchange::new(Arc::new(link), snapshot.clone(), RequestBody::Whole, now, now);
    exchange.see_upgrade(&mut head);
    nominated::strip(&mut head);
    exchange.identify(&head);
    let entered = exchange.enter_route(&mut head);
    let unmet = exchange.unmet(&head);
    let mut incoming = Described { head, body: Bytes::new() };
    let (steps, answer) = match (entered, exchange.passage()) {
        (Err(answer), _) => (Vec::new(), Some(answer)),
        (Ok(()), Some(mut passage)) => passage.rehearse(&mut incoming).await,
        (Ok(()), None) => (Vec::new(), None),
    };
    let head = &mut incoming.head;
    let end = match answer.or_else(|| exchange.act(head)) {
        Some(answer) => Err(answer),
        None => exchange.sending(head).ok_or_else(|| Answer::error(super::Reason::NoRoute)),
    };
    let hides_target = steps.iter().any(|step| step.hides_target);
    let target = if hides_target { MASK.into() } else { exchange.target(head) };
    Rehearsal {
        client: exchange.client,
        scheme: exchange.scheme,
        target: target.into_owned(),
        hides_answer: hides_target
            || exchange.hides_redirect()
            || steps.iter().any(Step::hides_answer),
        unmet,
        route: exchange.route,
        steps,
        end,
    }
}

impl Exchange {
    /// Whether its route sends clients to a place that is a secret.
    fn hides_redirect(&self) -> bool {
        let route = self.route.map(|index| &self.snapshot.routes[index].action);
        matches!(route, Some(Action::Redirect(redirect)) if redirect.secret)
    }

    /// The condition that fails for each of the routes before the one that matches.
    fn unmet(&mut self, head: &RequestHeader) -> Vec<(String, String)> {
        let before = self.route.unwrap_or(self.snapshot.routes.len());
        let unmet = self.with_facts(head, |snapshot, facts| {
            let why = |route| {
                let unmet = snapshot.why_not(route, facts)?;
                Some((unmet.to_string(), unmet.expected()))
            };
            (0..before).filter_map(why).collect()
        });
        unmet.unwrap_or_default()
    }

    /// Where the request goes, if its pool is chosen.
    fn sending(&self, head: &RequestHeader) -> Option<Sending> {
        let pool = self.pool.clone()?;
        let finder = self.finder(&pool);
        let is_it = finder.as_ref().map(|is_it| is_it as Kept<'_>);
        let named = |is_it: Kept<'_>| pool.members().iter().find(|it| is_it(it)).cloned();
        let named = is_it.and_then(named);
        let preview = pool.preview(self.hash_key, is_it);
        let on = pool.spec().retry.on.iter();
        let retries = on.map(|kind| (*kind, is_safe(*kind, &head.method))).collect();
        Some(Sending {
            key: self.hash_key,
            own_key: self.filtering.progress.choices.hash_key.is_some(),
            has_ticket: self.kept.is_some(),
            kept: named,
            preview,
            retries,
            pool: pool.clone(),
        })
    }
}

//! What the filters of a route would do with a request, as far as that can be told without doing it.

use super::{Answer, Chain, Passage, Progress, Request, chain::Stop, request::Incoming};
use crate::model::MASK;
use http::HeaderMap;

/// How a change of the target begins.
const TARGET: &str = "target ";

/// What one filter would do with a request.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) filter: &'static str,
    /// Its settings in a line; empty if it has none.
    pub(crate) settings: String,
    pub(crate) effect: Effect,
    /// Whether the target after it has a secret of its settings in it, or of those of one before it.
    pub(crate) hides_target: bool,
    hides: bool,
}

impl Step {
    /// Whether it answers with what may be a secret of its settings.
    pub(crate) fn hides_answer(&self) -> bool {
        self.hides && matches!(self.effect, Effect::Answers(_) | Effect::Fails(_))
    }
}

/// What is known of it.
#[derive(Debug)]
pub(crate) enum Effect {
    /// It lets the request go on, and makes these changes.
    Passes(Vec<String>),
    /// It answers.
    Answers(Answer),
    /// It fails: its hook panicked or returned an error.
    Fails(String),
    /// It sees the request, but running it would have side effects.
    Unknown,
    /// It has no hook for requests.
    Indifferent,
    /// An earlier one has answered.
    NotReached,
}

impl Passage<'_> {
    /// Runs the request hooks of those filters that only look. An answer ends it.
    pub(crate) async fn rehearse(
        &mut self,
        incoming: &mut dyn Incoming,
    ) -> (Vec<Step>, Option<Answer>) {
        let Progress { slots, choices, mishaps, .. } = &mut *self.progress;
        let (facts, rewritten) = (self.facts, &mut *self.rewritten);
        let mut request = Request { incoming, facts, rewritten, choices, slots, place: 0 };
        let (mut steps, mut answer) = (Vec::new(), None);
        let mut hides_target = false;
        for (index, place) in self.chain.places().iter().enumerate() {
            let before = request.target().into_owned();
            let mut effect = match () {
                () if answer.is_some() => Effect::NotReached,
                () if !place.filter.hooks().request => Effect::Indifferent,
                () if place.filter.has_side_effects() => Effect::Unknown,
                () => run(self.chain, index, &mut request, mishaps, &mut answer).await,
            };
            let hides = place.settings.hides;
            let changed = request.target() != before;
            hides_target |= hides && changed;
            if hides_target && let Effect::Passes(changes) = &mut effect {
                mask_target(changes);
            }
            let (filter, settings) = (place.filter.name(), place.settings.line.clone());
            steps.push(Step { filter, settings, effect, hides_target, hides });
        }
        (steps, answer)
    }
}

/// Takes the targets out of changes where a secret is in one of them.
fn mask_target(changes: &mut [String]) {
    for change in changes.iter_mut().filter(|change| change.starts_with(TARGET)) {
        *change = format!("{TARGET}{MASK}");
    }
}

async fn run(
    chain: &Chain,
    index: usize,
    request: &mut Request<'_>,
    mishaps: &mut Vec<super::Mishap>,
    answer: &mut Option<Answer>,
) -> Effect {
    request.place = index;
    let before = Looks::of(request);
    let stop = chain.run(index, "request", mishaps, |filter| filter.on_request(request)).await;
    let given = match stop {
        None => return Effect::Passes(before.changes(&Looks::of(request))),
        Some((Stop::Answer(given), _)) => given,
        // There is no connection that could break.
        Some((Stop::Connection(error), _)) => return Effect::Fails(error.to_string()),
    };
    *answer = Some(given.clone());
    match mishaps.pop() {
        Some(mishap) => Effect::Fails(mishap.to_string()),
        None => Effect::Answers(given),
    }
}

/// What a filter can change of a request.
struct Looks {
    target: String,
    headers: HeaderMap,
    pool: Option<String>,
    hash_key: Option<Vec<u8>>,
}

impl Looks {
    fn of(request: &Request<'_>) -> Self {
        Self {
            target: request.target().into_owned(),
            headers: request.headers().clone(),
            pool: request.choices.pool.as_ref().map(|pool| pool.name().to_owned()),
            hash_key: request.choices.hash_key.clone(),
        }
    }

    /// What `after` has otherwise, a line each.
    fn changes(&self, after: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        if self.target != after.target {
            changes.push(format!("{TARGET}{} -> {}", self.target, after.target));
        }
        for name in after.headers.keys().filter(|name| !self.has_same(after, name)) {
            changes.push(format!("sets {name}"));
        }
        for name in self.headers.keys().filter(|name| !after.headers.contains_key(*name)) {
            changes.push(format!("removes {name}"));
        }
        if let Some(pool) = after.pool.as_ref().filter(|_| self.pool != after.pool) {
            changes.push(format!("pool {pool}"));
        }
        if self.hash_key != after.hash_key {
            changes.push("hash key of its own".to_owned());
        }
        changes
    }

    fn has_same(&self, other: &Self, name: &http::HeaderName) -> bool {
        self.headers.get_all(name).iter().eq(other.headers.get_all(name).iter())
    }
}

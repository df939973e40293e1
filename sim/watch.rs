//! Checks a run from the outside, at every step, against counts of its own.

use super::{
    events::{RequestId, StationId},
    scenario::Action,
};
use pingora_lb::{
    model::{BackendState as Admission, Pool},
    pool::{Core, Health, Member, Time, Tried},
};
use std::{collections::BTreeMap, sync::Arc};

/// After so many, a run has nothing more to say.
const MOST: usize = 10;

/// What the watch knows of a backend.
#[derive(Debug)]
struct Known {
    /// As the operator has it.
    admission: Admission,
    weight: u32,
    /// The requests on it.
    requests: Vec<RequestId>,
}

/// What is counted outside of the core, and what was seen that must not be.
#[derive(Debug)]
pub struct Watch {
    pool: Pool,
    backends: Vec<Known>,
    members: Arc<[Arc<Member>]>,
    /// The tier in panic, if one is: whether it is that of the backups.
    panic: Option<bool>,
    /// Requests and retries by second.
    seconds: BTreeMap<u64, (u64, u64)>,
    /// Those who wait, in order.
    line: Vec<RequestId>,
    /// What was seen.
    pub violations: Vec<String>,
}

/// A pick, as it is checked.
pub struct Pick<'a> {
    pub request: RequestId,
    pub member: &'a Member,
    /// The backends that the request had tried before.
    pub tried: &'a [StationId],
}

impl Watch {
    /// Nothing was seen yet.
    pub fn new(pool: Pool, weights: impl Iterator<Item = u32>) -> Self {
        let known = |weight| Known { admission: Admission::Active, weight, requests: Vec::new() };
        Self {
            pool,
            backends: weights.map(known).collect(),
            members: Arc::from(Vec::new()),
            panic: None,
            seconds: BTreeMap::new(),
            line: Vec::new(),
            violations: Vec::new(),
        }
    }

    fn violation(&mut self, now: Time, what: impl FnOnce() -> String) {
        if self.violations.len() < MOST {
            let at = now.since(Time::ZERO);
            self.violations.push(format!("{at:?}: {}", what()));
        }
    }

    /// Learns what the operator decides.
    pub fn operator(&mut self, action: &Action) {
        match action {
            Action::Admit(station, admission) => self.backends[*station].admission = *admission,
            Action::Weigh(station, weight) => self.backends[*station].weight = weight.get(),
            Action::Set(..) | Action::Crash(_) | Action::Members(_) => {}
        }
    }

    /// The core has made a new view: whether it is one of panic follows from its members.
    pub fn rebuilt(&mut self, members: Arc<[Arc<Member>]>, now: Time) {
        self.members = members;
        let count = |backup: bool, usable: bool| {
            let counts = |member: &&Arc<Member>| {
                self.takes_traffic(member) && (!usable || works(member, now))
            };
            let tier = self.members.iter().filter(|member| member.is_backup() == backup);
            tier.filter(counts).count()
        };
        let backup = count(false, true) == 0 && count(true, true) > 0;
        let (all, usable) = (count(backup, false), count(backup, true));
        let wanted = all as f64 * self.pool.panic_threshold.fraction();
        // Binary fractions make a little more of some shares than they are.
        self.panic = (all > 0 && usable as f64 + 1e-6 < wanted).then_some(backup);
    }

    /// Whether the operator lets it have new requests.
    fn takes_traffic(&self, member: &Member) -> bool {
        let known = &self.backends[member.order()];
        known.admission == Admission::Active && known.weight > 0
    }

    /// Whether new requests may go to it.
    fn may_serve(&self, member: &Member, now: Time) -> bool {
        let in_panic = self.panic == Some(member.is_backup());
        self.takes_traffic(member) && (in_panic || works(member, now))
    }

    /// Whether it may have one more.
    fn has_room(&self, member: &Member) -> bool {
        let limit = self.pool.limits.connections_per_backend;
        limit.is_none_or(|limit| self.backends[member.order()].requests.len() < limit.get())
    }

    /// The members that a request may go to, room aside: those of the first tier that has any.
    fn choices(&self, tried: &[StationId], now: Time) -> Vec<&Member> {
        let tier = |backup: bool| {
            let may = |member: &&Arc<Member>| {
                member.is_backup() == backup
                    && !tried.contains(&member.order())
                    && self.may_serve(member, now)
            };
            self.members.iter().filter(may).map(|member| &**member).collect::<Vec<_>>()
        };
        let primaries = tier(false);
        if primaries.is_empty() { tier(true) } else { primaries }
    }

    /// A request has got a backend. It is on it from now on.
    pub fn picked(&mut self, pick: &Pick<'_>, now: Time) {
        let (name, station) = (pick.member.name(), pick.member.order());
        let choices = self.choices(pick.tried, now);
        if !choices.iter().any(|choice| choice.order() == station) {
            let known = &self.backends[station];
            let (admission, weight) = (known.admission, known.weight);
            let panic = self.panic;
            self.violation(now, || {
                format!("{name} is picked: {admission:?}, weight {weight}, panic {panic:?}")
            });
        }
        if !self.has_room(pick.member) {
            self.violation(now, || format!("{name} is picked beyond its limit"));
        }
        let place = self.line.iter().position(|request| *request == pick.request);
        if place.unwrap_or(self.line.len()) > 0 {
            self.violation(now, || format!("request {} is served before its turn", pick.request));
        }
        self.left_queue(pick.request);
        self.backends[station].requests.push(pick.request);
    }

    /// A request has found no backend.
    pub fn found_nothing(&mut self, tried: &[StationId], now: Time) {
        if let Some(name) = self.choices(tried, now).first().map(|member| member.name().clone()) {
            self.violation(now, || format!("no backend is found, though there is {name}"));
        }
    }

    /// A request is not on a backend any more.
    pub fn released(&mut self, request: RequestId, station: StationId) {
        self.backends[station].requests.retain(|other| *other != request);
    }

    /// The requests on a backend.
    pub fn requests_on(&self, station: StationId) -> Vec<RequestId> {
        self.backends[station].requests.clone()
    }

    /// A request waits from now on.
    pub fn entered_queue(&mut self, request: RequestId) {
        self.line.push(request);
    }

    /// A request does not wait any more.
    pub fn left_queue(&mut self, request: RequestId) {
        self.line.retain(|waiting| *waiting != request);
    }

    /// A request arrived.
    pub fn arrived(&mut self, now: Time) {
        self.seconds.entry(second(now)).or_default().0 += 1;
    }

    /// A retry was granted: with it, those of the last ten seconds are within the budget.
    pub fn retried(&mut self, now: Time) {
        self.seconds.entry(second(now)).or_default().1 += 1;
        let window = self.seconds.range(second(now).saturating_sub(9)..);
        let (requests, retries) =
            window.fold((0, 0), |sum, (_, slot)| (sum.0 + slot.0, sum.1 + slot.1));
        let budget = self.pool.retry.budget;
        let share = requests as f64 * budget.percent.fraction();
        let most = share + f64::from(budget.min_per_second) * 10.0;
        if retries as f64 > most + 1e-6 {
            self.violation(now, || format!("{retries} retries for {requests} requests"));
        }
    }

    /// A backend was ejected: with it, those that are out are within their share of those that would else
    /// serve.
    pub fn ejected(&mut self, now: Time) {
        let could_serve = |member: &&Arc<Member>| self.takes_traffic(member) && is_healthy(member);
        let is_out = |member: &&Arc<Member>| member.state().ejected_until(now).is_some();
        let all = self.members.iter().filter(could_serve).count();
        let out = self.members.iter().filter(could_serve).filter(is_out).count();
        let share = self.pool.ejection.map_or(0.0, |policy| policy.max_percent.fraction());
        let most = (all as f64 * share + 1e-6).floor().max(1.0);
        if out as f64 > most || all < 2 {
            self.violation(now, || format!("{out} of {all} are ejected"));
        }
    }

    /// After each event: the core's counts are ours, its view is of the present, and nobody waits
    /// for what is there, save while somebody is `on_the_way` to it.
    pub fn settled(&mut self, core: &Core, on_the_way: bool, now: Time) {
        let (in_flight, queued) = (core.in_flight(), core.queued());
        self.check_view(core, now);
        let ours: usize = self.backends.iter().map(|known| known.requests.len()).sum();
        if in_flight != ours {
            self.violation(now, || format!("{in_flight} in flight, but there are {ours}"));
        }
        for member in self.members.clone().iter() {
            let counted = member.state().in_flight();
            let ours = self.backends[member.order()].requests.len();
            if counted != ours {
                let name = member.name();
                self.violation(now, || format!("{counted} in flight on {name}: there are {ours}"));
            }
        }
        let waiting = self.line.len();
        if queued != waiting || waiting > self.pool.limits.queue {
            self.violation(now, || format!("{queued} are queued, {waiting} wait"));
        }
        if let (Some(&request), false) = (self.line.first(), on_the_way) {
            let free = self.choices(&[], now).into_iter().find(|member| self.has_room(member));
            let free = free.map(|member| member.name().clone());
            if let Some(name) = free {
                self.violation(now, || format!("request {request} waits, but {name} has room"));
            }
        }
    }

    /// The core would pick from exactly those that may serve.
    fn check_view(&mut self, core: &Core, now: Time) {
        for member in self.members.clone().iter() {
            let mut others = Tried::default();
            let is_other = |other: &&Arc<Member>| other.order() != member.order();
            self.members.iter().filter(is_other).for_each(|other| others.add(other));
            let (picks, may) = (core.has_untried(&others, now), self.may_serve(member, now));
            if picks != may {
                let name = member.name();
                let (picks, may) = if picks { ("picks", "may not") } else { ("leaves out", "may") };
                self.violation(now, || format!("the core {picks} {name}, which {may} serve"));
            }
        }
    }

    /// Whether a member of this tier is picked because its tier is in panic.
    pub fn is_panic(&self, member: &Member) -> bool {
        self.panic == Some(member.is_backup())
    }
}

/// Whether nothing speaks against a member.
fn works(member: &Member, now: Time) -> bool {
    is_healthy(member) && member.state().ejected_until(now).is_none()
}

fn is_healthy(member: &Member) -> bool {
    !member.is_probed() || member.health() == Health::Healthy
}

fn second(now: Time) -> u64 {
    now.as_nanos() / 1_000_000_000
}

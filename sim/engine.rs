//! One run: events are taken out of the queue until there is nothing left to do.

use super::{
    events::{Event, Events, RequestId, StationId, Try},
    measures::{End, Measures},
    scenario::{Action, Scenario},
    station::{Accepted, Mode, Station},
    watch::{Pick, Watch},
};
use pingora_lb::{
    model::{Probe, RetryOn},
    pool::{BackendState, Core, Lease, Member, Outcome, Picked, Place, Time, Tried, Wanted},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

/// How long a backend takes to refuse or to answer 503, and to answer a probe.
const AT_ONCE: Duration = Duration::from_micros(500);

/// Runs `scenario` with `seed`.
pub fn run(scenario: &Scenario, seed: u64) -> Measures {
    let mut run = Run::new(scenario, seed);
    run.start();
    while run.is_going_on() {
        let Some((at, event)) = run.events.next() else { break };
        run.step(at, event);
    }
    run.end()
}

/// How a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Refused,
    Status503,
    Reset,
    Timeout,
}

/// A request.
#[derive(Debug)]
struct Request {
    arrived: Time,
    work: Duration,
    key: Option<u64>,
    idempotent: bool,
    tried: Tried,
    /// The same as `tried`, for the watch.
    stations: Vec<StationId>,
    tries: u32,
    try_began: Time,
    /// What becomes of the present try if its backend fails it.
    fate: Failure,
    lease: Option<Lease>,
    /// Whether the present try is on its way, as opposed to pausing before it.
    is_sent: bool,
    place: Option<Place>,
    waits_until: Time,
    is_over: bool,
}

/// Remembers that a request's turn in the queue has come, as a task's waker does.
struct Call {
    request: RequestId,
    called: Arc<Mutex<Vec<RequestId>>>,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.called.lock().unwrap_or_else(PoisonError::into_inner).push(self.request);
    }
}

/// The sources of chance: of one seed, but each a stream of its own.
struct Chance {
    arrivals: SmallRng,
    work: SmallRng,
    probes: SmallRng,
    /// For the balancer and the backoff.
    proxy: SmallRng,
}

/// One of so many keys, as the balancer sees it.
fn draw_key(keys: u64, rng: &mut SmallRng) -> Option<u64> {
    (keys > 0).then(|| pingora_lb::pool::hash(&rng.random_range(0..keys).to_le_bytes()))
}

struct Run<'a> {
    scenario: &'a Scenario,
    core: Core,
    states: Vec<Arc<BackendState>>,
    stations: Vec<Station>,
    /// Which backends are members, and which are probed at present.
    is_member: Vec<bool>,
    is_probed: Vec<bool>,
    requests: Vec<Request>,
    /// Requests that are not over.
    live: usize,
    called: Arc<Mutex<Vec<RequestId>>>,
    /// How many were called and have yet to act on it.
    on_the_way: usize,
    events: Events,
    now: Time,
    maintenance: Time,
    chance: Chance,
    watch: Watch,
    measures: Measures,
    fingerprint: DefaultHasher,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let count = scenario.backends.len();
        let stream = |number: u64| SmallRng::seed_from_u64(seed.wrapping_mul(4) + number);
        let weights = scenario.backends.iter().map(|backend| backend.member.weight.get());
        let station = |backend: &super::scenario::SimulatedBackend| Station::new(backend.capacity);
        Self {
            scenario,
            core: Core::new(scenario.pool.clone()),
            states: (0..count).map(|_| Arc::default()).collect(),
            stations: scenario.backends.iter().map(station).collect(),
            is_member: vec![false; count],
            is_probed: vec![false; count],
            requests: Vec::new(),
            live: 0,
            called: Arc::default(),
            on_the_way: 0,
            events: Events::default(),
            now: Time::ZERO,
            maintenance: Time::NEVER,
            chance: Chance {
                arrivals: stream(0),
                work: stream(1),
                probes: stream(2),
                proxy: stream(3),
            },
            watch: Watch::new(scenario.pool.clone(), weights),
            measures: Measures::new(count),
            fingerprint: DefaultHasher::new(),
        }
    }

    /// The members come in, are probed once, and the first clients are on their way.
    fn start(&mut self) {
        let steps = self.scenario.script.iter().enumerate();
        let (at_once, later): (Vec<_>, Vec<_>) = steps.partition(|(_, (at, _))| at.is_zero());
        self.set_members(&(0..self.stations.len()).collect::<Vec<_>>());
        for (_, (_, action)) in at_once {
            self.act(action);
        }
        for station in 0..self.stations.len() {
            self.observe_probe(station, self.would_pass_probe(station));
        }
        for (number, (at, _)) in later {
            self.events.plan(Time::ZERO.after(*at), Event::Script(number));
        }
        for _ in 0..self.scenario.arrivals.first() {
            let think = self.scenario.arrivals.think(&mut self.chance.arrivals);
            self.events.plan(self.now.after(think.unwrap_or_default()), Event::Arrival);
        }
        self.maintain();
    }

    fn is_going_on(&self) -> bool {
        self.live > 0 || self.now < Time::ZERO.after(self.scenario.length)
    }

    fn end(mut self) -> Measures {
        let left = self.core.in_flight() + self.core.queued();
        if left > 0 {
            self.measures.violations.push(format!("{left} are in flight or queued in the end"));
        }
        self.measures.violations.append(&mut self.watch.violations);
        self.measures.fingerprint = self.fingerprint.finish();
        self.measures
    }

    fn step(&mut self, at: Time, event: Event) {
        self.now = at;
        (at, event).hash(&mut self.fingerprint);
        // What is due at this moment comes before what happens in it.
        if self.maintenance <= at {
            self.maintain();
        }
        self.happen(event);
        self.serve_called();
        self.watch.settled(&self.core, self.on_the_way > 0, at);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrival => self.arrive(),
            Event::Done(station, done) => self.done(station, done),
            Event::Failed(failed) if self.is_under_way(failed) => {
                let fate = self.requests[failed.request].fate;
                self.fail(failed.request, fate);
            }
            Event::TimedOut(late) if self.is_under_way(late) => {
                self.give_up(late.request);
                self.fail(late.request, Failure::Timeout);
            }
            Event::Called(request) => {
                self.on_the_way -= 1;
                self.act_on_call(request);
            }
            Event::QueueTimedOut(request) => self.queue_timed_out(request),
            Event::Retry(this) if self.is_under_way(this) => self.begin_try(this),
            Event::ClientLeaves(request) => self.leave(request),
            Event::ProbeBegins(station) => self.begin_probe(station),
            Event::ProbeEnds(station, ok) => self.observe_probe(station, ok),
            Event::Script(number) => {
                let scenario = self.scenario;
                self.act(&scenario.script[number].1);
            }
            // Out of date; or done already, for maintenance.
            Event::Failed(_) | Event::TimedOut(_) | Event::Retry(_) | Event::Maintenance => {}
        }
    }

    // Requests

    fn arrive(&mut self) {
        let (scenario, now) = (self.scenario, self.now);
        let since_start = now.since(Time::ZERO);
        if since_start >= scenario.length {
            return;
        }
        if let Some(next) = scenario.arrivals.next(since_start, &mut self.chance.arrivals) {
            self.events.plan(now.after(next), Event::Arrival);
        }
        let work = &mut self.chance.work;
        let request = Request {
            arrived: now,
            work: scenario.service.sample(work),
            key: draw_key(scenario.keys, work),
            idempotent: work.random_bool(scenario.idempotent),
            tried: Tried::default(),
            stations: Vec::new(),
            tries: 0,
            try_began: now,
            fate: Failure::Refused,
            lease: None,
            is_sent: false,
            place: None,
            waits_until: Time::NEVER,
            is_over: false,
        };
        let id = self.requests.len();
        if let Some(patience) = scenario.patience {
            let patience = super::arrivals::exponential(patience, work);
            self.events.plan(now.after(patience), Event::ClientLeaves(id));
        }
        self.requests.push(request);
        self.live += 1;
        self.measures.arrived += 1;
        self.core.begin_request(now);
        self.watch.arrived(now);
        self.seek(id);
    }

    /// Asks for a backend.
    fn seek(&mut self, id: RequestId) {
        let request = &self.requests[id];
        let wanted = Wanted {
            key: request.key,
            kept: None,
            tried: &request.tried,
            place: request.place.as_ref(),
        };
        match self.core.pick(&wanted, self.now, &mut self.chance.proxy) {
            Picked::Lease(lease) => {
                let this = self.take(id, lease);
                self.begin_try(this);
            }
            Picked::Busy => self.wait(id),
            Picked::Nothing => {
                self.watch.found_nothing(&self.requests[id].stations, self.now);
                self.finish(id, End::NoBackend);
            }
        }
    }

    /// Asks for a backend not yet tried, as the proxy does for a retry: it does not wait for one,
    /// and has it from before the pause on.
    fn seek_another(&mut self, id: RequestId) {
        let tried = &self.requests[id].tried;
        let wanted = Wanted { key: self.requests[id].key, kept: None, tried, place: None };
        match self.core.pick(&wanted, self.now, &mut self.chance.proxy) {
            Picked::Lease(lease) => {
                let pause = self.backoff(self.requests[id].tries);
                let this = self.take(id, lease);
                self.events.plan(self.now.after(pause), Event::Retry(this));
            }
            Picked::Busy | Picked::Nothing => self.finish(id, End::Failed),
        }
    }

    /// Waits for a backend with room.
    fn wait(&mut self, id: RequestId) {
        if let Some(place) = &self.requests[id].place {
            place.wait_again();
        } else {
            let Some(place) = self.core.enqueue() else { return self.finish(id, End::Overloaded) };
            let until = self.now.after(self.scenario.pool.limits.queue_timeout);
            let request = &mut self.requests[id];
            (request.place, request.waits_until) = (Some(place), until);
            self.watch.entered_queue(id);
            self.measures.waited += 1;
            self.events.plan(until, Event::QueueTimedOut(id));
        }
        self.listen(id);
    }

    /// Has a request's waker called when its turn comes.
    fn listen(&self, id: RequestId) {
        let Some(place) = &self.requests[id].place else { return };
        let waker = Waker::from(Arc::new(Call { request: id, called: self.called.clone() }));
        if place.poll_called(&mut Context::from_waker(&waker)) == Poll::Ready(()) {
            waker.wake();
        }
    }

    /// Those in the queue whose turn has come act on it, in the order in which they were called.
    fn serve_called(&mut self) {
        loop {
            let called =
                std::mem::take(&mut *self.called.lock().unwrap_or_else(PoisonError::into_inner));
            if called.is_empty() {
                return;
            }
            for id in called {
                if self.scenario.wake.is_zero() {
                    self.act_on_call(id);
                } else {
                    self.on_the_way += 1;
                    self.events.plan(self.now.after(self.scenario.wake), Event::Called(id));
                }
            }
        }
    }

    fn act_on_call(&mut self, id: RequestId) {
        if self.requests[id].place.as_ref().is_some_and(Place::is_called) {
            self.seek(id);
        }
    }

    fn queue_timed_out(&mut self, id: RequestId) {
        let request = &self.requests[id];
        if request.place.is_some() && request.waits_until == self.now {
            self.finish(id, End::Overloaded);
        }
    }

    /// A request has a backend: a try of it begins, or will after a pause.
    fn take(&mut self, id: RequestId, lease: Lease) -> Try {
        let station = lease.order();
        let request = &mut self.requests[id];
        let pick = Pick { request: id, member: &lease, tried: &request.stations };
        self.watch.picked(&pick, self.now);
        self.measures.panic_picks += u64::from(self.watch.is_panic(&lease));
        self.measures.tries[station] += 1;
        (id, station).hash(&mut self.fingerprint);
        request.place = None;
        request.tries += 1;
        request.tried.add(&lease);
        request.stations.push(station);
        request.lease = Some(lease);
        request.is_sent = false;
        Try { request: id, number: request.tries }
    }

    /// Sends a try to the backend that the request has.
    fn begin_try(&mut self, this: Try) {
        let request = &mut self.requests[this.request];
        let Some(lease) = &request.lease else { return };
        let station = lease.order();
        request.try_began = self.now;
        request.is_sent = true;
        match self.stations[station].accept(this, request.work) {
            Accepted::Begun(takes) => {
                self.events.plan(self.now.after(takes), Event::Done(station, this));
            }
            Accepted::Waits => {}
            Accepted::Failed => {
                let refuses = self.stations[station].mode == Mode::Refusing;
                request.fate = if refuses { Failure::Refused } else { Failure::Status503 };
                self.events.plan(self.now.after(AT_ONCE), Event::Failed(this));
            }
        }
        let pool = &self.scenario.pool;
        let timeout = pool.retry.per_try_timeout.unwrap_or(pool.timeouts.read);
        self.events.plan(self.now.after(timeout), Event::TimedOut(this));
    }

    /// Whether a try is what its request is doing.
    fn is_under_way(&self, this: Try) -> bool {
        let request = &self.requests[this.request];
        request.lease.is_some() && request.tries == this.number
    }

    fn done(&mut self, station: StationId, done: Try) {
        if !self.stations[station].works_on(done) {
            return;
        }
        if let Some((next, takes)) = self.stations[station].finish(done) {
            self.events.plan(self.now.after(takes), Event::Done(station, next));
        }
        if self.is_under_way(done) {
            let first_byte = self.now.since(self.requests[done.request].try_began);
            self.end_try(done.request, Outcome::Success { first_byte });
            self.finish(done.request, End::Answered);
        }
    }

    /// Takes a request's try away from its backend.
    fn give_up(&mut self, id: RequestId) {
        let request = &self.requests[id];
        if let Some(lease) = &request.lease {
            let this = Try { request: id, number: request.tries };
            self.stations[lease.order()].give_up(this);
        }
    }

    fn fail(&mut self, id: RequestId, failure: Failure) {
        let took = self.now.since(self.requests[id].try_began);
        self.end_try(id, Outcome::Failure { took });
        if self.may_retry(id, failure) {
            self.measures.retries += 1;
            self.watch.retried(self.now);
            self.seek_another(id);
        } else {
            self.finish(id, End::Failed);
        }
    }

    fn may_retry(&self, id: RequestId, failure: Failure) -> bool {
        let (request, retry) = (&self.requests[id], &self.scenario.pool.retry);
        let on = match failure {
            Failure::Refused => RetryOn::ConnectFailure,
            Failure::Status503 => RetryOn::Status(503),
            Failure::Reset => RetryOn::Reset,
            Failure::Timeout => RetryOn::Timeout,
        };
        let is_safe = request.idempotent || on == RetryOn::ConnectFailure;
        retry.on.contains(&on)
            && is_safe
            && request.tries <= retry.attempts
            && self.core.has_untried(&request.tried, self.now)
            && self.core.spend_retry(self.now)
    }

    /// Full jitter: any part of a pause that doubles with each try.
    fn backoff(&mut self, tries: u32) -> Duration {
        let backoff = self.scenario.pool.retry.backoff;
        let longest = backoff.base.saturating_mul(1 << (tries - 1).min(16)).min(backoff.max);
        longest.mul_f64(self.chance.proxy.random_range(0.0..1.0))
    }

    /// Tells the core how a try ended, and releases the backend.
    fn end_try(&mut self, id: RequestId, outcome: Outcome) {
        let Some(lease) = self.requests[id].lease.take() else { return };
        let ejected = self.core.report(&lease, outcome, self.now);
        self.watch.released(id, lease.order());
        drop(lease);
        if ejected {
            self.measures.ejections += 1;
            self.watch.ejected(self.now);
            self.maintain();
        }
    }

    fn leave(&mut self, id: RequestId) {
        if self.requests[id].is_over {
            return;
        }
        self.give_up(id);
        self.end_try(id, Outcome::Unknown);
        self.finish(id, End::Left);
    }

    fn finish(&mut self, id: RequestId, end: End) {
        self.watch.left_queue(id);
        let request = &mut self.requests[id];
        (request.place, request.is_over) = (None, true);
        self.live -= 1;
        if request.arrived >= Time::ZERO.after(self.scenario.warm_up) {
            self.measures.record(end, self.now.since(request.arrived));
        }
        if let Some(think) = self.scenario.arrivals.think(&mut self.chance.arrivals) {
            self.events.plan(self.now.after(think), Event::Arrival);
        }
    }

    // What the proxy does besides requests

    fn maintain(&mut self) {
        self.maintenance = self.core.maintain(self.now);
        if self.maintenance != Time::NEVER {
            self.events.plan(self.maintenance, Event::Maintenance);
        }
        self.rebuilt();
    }

    fn rebuilt(&mut self) {
        self.watch.rebuilt(self.core.members(), self.now);
    }

    fn begin_probe(&mut self, station: StationId) {
        let Some(check) = &self.scenario.pool.health_check else { return };
        self.is_probed[station] = self.is_member[station];
        if !self.is_member[station] {
            return;
        }
        let ok = self.would_pass_probe(station);
        let hangs = self.stations[station].mode == Mode::Hanging && !ok;
        let takes = if hangs { check.timeout } else { AT_ONCE };
        self.events.plan(self.now.after(takes), Event::ProbeEnds(station, ok));
        let early = check.jitter.fraction() * self.chance.probes.random_range(0.0..1.0);
        let pause = check.interval.mul_f64(1.0 - early);
        self.events.plan(self.now.after(pause), Event::ProbeBegins(station));
    }

    fn would_pass_probe(&self, station: StationId) -> bool {
        let connects_only =
            self.scenario.pool.health_check.as_ref().is_some_and(|c| matches!(c.probe, Probe::Tcp));
        match self.stations[station].mode {
            Mode::Working { .. } => true,
            Mode::Refusing => false,
            Mode::Failing | Mode::Hanging => connects_only,
        }
    }

    fn observe_probe(&mut self, station: StationId, ok: bool) {
        let members = self.core.members();
        let Some(member) = members.iter().find(|member| member.order() == station) else { return };
        if self.core.observe_probe(member, ok, self.now).is_some() {
            self.rebuilt();
        }
    }

    fn set_members(&mut self, stations: &[StationId]) {
        let scenario = self.scenario;
        let member = |station: &StationId| -> Arc<Member> {
            let spec = scenario.backends[*station].member.clone();
            spec.build(*station, self.states[*station].clone())
        };
        self.core.set_members(stations.iter().map(member).collect(), self.now);
        self.maintain();
        for station in 0..self.stations.len() {
            self.is_member[station] = stations.contains(&station);
            if self.is_member[station] && !self.is_probed[station] {
                self.is_probed[station] = true;
                self.events.plan(self.now, Event::ProbeBegins(station));
            }
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Set(station, mode) => self.stations[*station].mode = *mode,
            Action::Crash(station) => self.crash(*station),
            Action::Admit(station, admission) => {
                let name = self.name_of(*station);
                if self.core.set_admission(&name, *admission, self.now) {
                    self.watch.operator(action);
                    self.rebuilt();
                }
            }
            Action::Weigh(station, weight) => {
                let name = self.name_of(*station);
                if self.core.set_weight(&name, *weight, self.now) {
                    self.watch.operator(action);
                    self.rebuilt();
                }
            }
            Action::Members(stations) => self.set_members(stations),
        }
    }

    fn crash(&mut self, station: StationId) {
        self.stations[station].crash();
        self.stations[station].mode = Mode::Refusing;
        for id in self.watch.requests_on(station) {
            if self.requests[id].is_sent {
                self.fail(id, Failure::Reset);
            }
        }
    }

    fn name_of(&self, station: StationId) -> pingora_lb::model::BackendName {
        let name = &self.scenario.backends[station].member.name;
        pingora_lb::model::BackendName::try_new(name).expect("checked when the member was built")
    }
}

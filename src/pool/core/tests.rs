use super::*;
use crate::{
    config,
    filter::Registry,
    model::BalancePolicy,
    pool::balance::tests::{numbered, rng},
};
use std::{
    path::Path,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// A pool with these keys.
pub(in crate::pool) fn spec(keys: &str) -> model::Pool {
    let text = format!(
        "listeners: {{ web: {{ address: 127.0.0.1:80 }} }}
pools: {{ app: {{ backends: [127.0.0.1:1], health_check: off, {keys} }} }}"
    );
    let config = config::parse(&text, "lb.yaml", Path::new("/"), &|_| None, &Registry::default());
    config.unwrap().config.pools.remove(0)
}

/// A pool of this many members with these keys.
fn core(members: usize, keys: &str) -> Core {
    let core = Core::new(spec(keys));
    let members = (0..members).map(|at| numbered(&format!("m{at}"), 1, at));
    core.set_members(members.collect(), Time::ZERO);
    core
}

fn pick(core: &Core, rng: &mut dyn RngCore) -> Picked {
    let tried = Tried::default();
    core.pick(&Wanted { key: Some(7), kept: None, tried: &tried, place: None }, Time::ZERO, rng)
}

/// Chance that gives somebody else a backend each time it is asked.
struct Rival<'a> {
    core: &'a Core,
    chance: rand::rngs::SmallRng,
    /// How many more it will take.
    left: usize,
    taken: Vec<Lease>,
}

impl RngCore for Rival<'_> {
    fn next_u32(&mut self) -> u32 {
        self.next_u64() as u32
    }

    fn next_u64(&mut self) -> u64 {
        if self.left > 0 {
            self.left -= 1;
            if let Picked::Lease(lease) = pick(self.core, &mut rng()) {
                self.taken.push(lease);
            }
        }
        self.chance.next_u64()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.chance.fill_bytes(bytes);
    }
}

#[test]
fn a_place_that_somebody_else_took_after_the_look_is_not_taken_twice() {
    let core = core(3, "balance: p2c, limits: { connections_per_backend: 1 }");
    for left in 0..=3 {
        for _ in 0..50 {
            let mut rival = Rival { core: &core, chance: rng(), left, taken: Vec::new() };
            let picked = pick(&core, &mut rival);
            let in_flight: Vec<_> =
                core.members().iter().map(|it| it.state().in_flight()).collect();
            assert!(in_flight.iter().all(|count| *count <= 1), "{left}: {in_flight:?}");
            // While there is room somewhere, nobody is turned away.
            let all_taken = in_flight.iter().all(|count| *count == 1);
            assert!(matches!(picked, Picked::Lease(_)) || all_taken, "{left}: {picked:?}");
        }
    }
}

#[test]
fn threads_never_take_more_places_than_there_are() {
    const LIMIT: usize = 3;
    for policy in BalancePolicy::ALL {
        let keys = format!("balance: {policy}, limits: {{ connections_per_backend: {LIMIT} }}");
        let core = core(2, &keys);
        let (most, start) = (AtomicUsize::new(0), Barrier::new(8));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut rng = rng();
                    start.wait();
                    for _ in 0..5_000 {
                        if let Picked::Lease(lease) = pick(&core, &mut rng) {
                            most.fetch_max(lease.state().in_flight(), SeqCst);
                        }
                    }
                });
            }
        });
        assert!(most.load(SeqCst) <= LIMIT, "{policy}: {most:?}");
        assert_eq!(core.in_flight(), 0, "{policy}");
    }
}

/// Picks for a client that stays with the backend of this name, or with none.
fn ask(core: &Core, name: Option<&str>, place: Option<&Place>) -> Picked {
    let is_it = |member: &Member| Some(member.name().as_str()) == name;
    let kept = name.is_some().then_some(&is_it as Kept<'_>);
    let wanted = Wanted { key: None, kept, tried: &Tried::default(), place };
    core.pick(&wanted, Time::ZERO, &mut rng())
}

#[test]
fn a_client_that_stays_with_a_backend_does_not_overtake_those_who_wait() {
    let core = core(2, "limits: { connections_per_backend: 1, queue: 5 }");
    let ask = |name: Option<&str>, place: Option<&Place>| ask(&core, name, place);
    let (first, second) = (ask(Some("m1"), None), ask(None, None));
    let (Picked::Lease(on_m1), Picked::Lease(on_m0)) = (first, second) else { panic!("no room") };
    assert_eq!((on_m1.name().as_str(), on_m0.name().as_str()), ("m1", "m0"));
    let (before, after) = (core.enqueue().unwrap(), core.enqueue().unwrap());
    drop(on_m1);
    assert!(before.is_called());
    assert!(matches!(ask(Some("m1"), None), Picked::Busy), "the room is for the one who waits");
    assert!(matches!(ask(Some("m1"), Some(&after)), Picked::Busy));
    let Picked::Lease(taken) = ask(None, Some(&before)) else { panic!("its turn has come") };
    drop((before, taken, on_m0));
    // When its turn comes, it gets its own again and not just any.
    for name in ["m1", "m0", "m1", "m1"] {
        let Picked::Lease(own) = ask(Some(name), Some(&after)) else { panic!("{name} has room") };
        assert_eq!(own.name().as_str(), name);
    }
    // Nobody in the line may go to one that drains, so its own clients do not overtake anybody.
    assert!(core.set_admission(core.members()[1].name(), Admission::Draining, Time::ZERO));
    assert!(matches!(ask(Some("m1"), None), Picked::Lease(_)));
    assert!(matches!(ask(Some("m0"), None), Picked::Busy));
}

#[test]
fn one_is_not_ejected_when_no_other_could_serve() {
    for (what, ejected) in
        [("active", true), ("draining", false), ("weightless", false), ("down", false)]
    {
        let core = core(2, "ejection: { consecutive_failures: 1 }");
        let members = core.members();
        let (failing, other) = (&members[0], &members[1]);
        match what {
            "draining" => {
                assert!(core.set_admission(other.name(), Admission::Draining, Time::ZERO));
            }
            "weightless" => {
                let zero = Weight::try_new(0).unwrap();
                assert!(core.set_weight(other.name(), zero, Time::ZERO));
            }
            "down" => {
                let spec = crate::pool::MemberSpec {
                    name: "m1".to_owned(),
                    weight: Weight::ONE,
                    backup: false,
                    probed: true,
                };
                let down = spec.build(1, Arc::default());
                assert!(core.set_members(vec![failing.clone(), down], Time::ZERO));
            }
            _ => {}
        }
        let failure = Outcome::Failure { took: Duration::ZERO };
        assert_eq!(core.report(failing, failure, Time::from_nanos(1)), ejected, "{what}");
    }
}

#[test]
fn maintenance_makes_a_view_only_for_ejections_that_it_does_not_know() {
    let core = core(4, "ejection: { consecutive_failures: 1, base_time: 1s }");
    let made = || core.views.load(SeqCst);
    let before = made();
    assert_eq!(core.maintain(Time::ZERO), Time::NEVER);
    assert_eq!(made(), before);
    let failure = Outcome::Failure { took: Duration::ZERO };
    assert!(core.report(&core.members()[0], failure, Time::ZERO));
    let due = core.maintain(Time::ZERO);
    assert_eq!((made(), due), (before + 1, Time::from_nanos(1_000_000_000)));
    assert_eq!((core.maintain(Time::ZERO), made()), (due, before + 1));
    assert_eq!((core.maintain(due), made()), (Time::NEVER, before + 2));
}

#[test]
fn the_end_of_a_request_on_one_that_drains_calls_its_own_clients_wherever_they_wait() {
    let core = core(2, "limits: { connections_per_backend: 1, queue: 5 }");
    let ask = |name: Option<&str>, place: Option<&Place>| ask(&core, name, place);
    let (first, second) = (ask(Some("m1"), None), ask(None, None));
    let (Picked::Lease(on_m1), Picked::Lease(_on_m0)) = (first, second) else { panic!("no room") };
    assert!(core.set_admission(core.members()[1].name(), Admission::Draining, Time::ZERO));
    let (ordinary, sticky) = (core.enqueue().unwrap(), core.enqueue().unwrap());
    drop(on_m1);
    assert!(sticky.is_called());
    assert!(matches!(ask(None, Some(&ordinary)), Picked::Busy));
    let Picked::Lease(own) = ask(Some("m1"), Some(&sticky)) else { panic!("there is room") };
    assert_eq!(own.name().as_str(), "m1");
}

#[test]
fn one_that_is_ejected_and_disabled_takes_no_place_among_those_that_may_be_ejected() {
    let core = core(4, "ejection: { consecutive_failures: 1, max_percent: 25% }");
    let (members, now) = (core.members(), Time::from_nanos(1));
    let failure = Outcome::Failure { took: Duration::ZERO };
    assert!(core.report(&members[0], failure, now));
    assert!(!core.report(&members[1], failure, now), "it is one of four");
    assert!(core.set_admission(members[0].name(), Admission::Disabled, now));
    assert!(core.report(&members[1], failure, now));
}

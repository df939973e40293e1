//! The policies that look at load, and those that look at the request.

use crate::support::{Client, Config, Gate, Lb, Origin, Reply, eventually, request, tally};
use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

const HASHING: [&str; 2] = ["ring_hash", "maglev"];

fn named(names: &[&str]) -> Vec<Origin> {
    names.iter().copied().map(Origin::named).collect()
}

fn entries(origins: &[Origin]) -> Vec<String> {
    origins.iter().map(Origin::entry).collect()
}

/// Who answers that many requests on one connection.
fn ask(lb: &Lb, requests: usize) -> Vec<String> {
    let mut client = lb.client();
    (0..requests).map(|_| client.get("/").backend()).collect()
}

/// Who answers when that many clients ask that many requests each, all at the same time.
fn ask_together(lb: &Lb, clients: usize, requests: usize) -> Vec<String> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(|| ask(lb, requests))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// How many of 640 requests the slow one of eight backends gets.
fn share_of_the_slow_one(balance: &str) -> usize {
    let fast = Duration::from_millis(30);
    let mut origins: Vec<_> =
        ["a", "b", "c", "d", "e", "f", "g"].map(|name| Origin::slow(name, fast)).into();
    origins.push(Origin::slow("slow", fast * 10));
    let lb = Config::pool(&entries(&origins), &format!("balance: {balance}")).start();
    let counts = tally(&ask_together(&lb, 16, 40));
    assert_eq!(counts.len(), 8, "nobody starves: {counts:?}");
    counts["slow"]
}

#[test]
fn round_robin_gives_a_slow_backend_its_full_share() {
    assert_eq!(share_of_the_slow_one("round_robin"), 80);
}

#[test]
fn p2c_gives_a_slow_backend_far_less_than_its_share() {
    let share = share_of_the_slow_one("p2c");
    assert!(share < 40, "{share} of 640, of which 80 would be a full share");
}

#[test]
fn peak_ewma_gives_a_slow_backend_hardly_anything() {
    let share = share_of_the_slow_one("peak_ewma");
    assert!(share < 25, "{share} of 640, of which 80 would be a full share");
}

/// How many of 160 requests, one after the other, the slow one of eight backends gets.
fn share_with_nothing_in_flight(balance: &str) -> usize {
    let fast = Duration::from_millis(4);
    let mut origins: Vec<_> =
        ["a", "b", "c", "d", "e", "f", "g"].map(|name| Origin::slow(name, fast)).into();
    origins.push(Origin::slow("slow", fast * 25));
    let lb = Config::pool(&entries(&origins), &format!("balance: {balance}")).start();
    let counts = tally(&ask(&lb, 160));
    assert!(counts.len() >= 7, "{balance}: {counts:?}");
    counts.get("slow").copied().unwrap_or(0)
}

/// One that was never asked is not held to be slower than those that are known.
#[test]
fn peak_ewma_asks_everybody_when_nothing_is_in_flight() {
    let origins = named(&["a", "b"]);
    let lb = Config::pool(&entries(&origins), "balance: peak_ewma").start();
    let first: BTreeSet<_> = ask(&lb, 2).into_iter().collect();
    assert_eq!(first.len(), 2, "{first:?}");
}

#[test]
fn peak_ewma_remembers_who_is_slow_and_p2c_does_not() {
    let (p2c, peak_ewma) =
        (share_with_nothing_in_flight("p2c"), share_with_nothing_in_flight("peak_ewma"));
    assert!(p2c >= 8, "a full share is 20, and nothing in flight tells them apart: {p2c}");
    assert!(peak_ewma <= 5, "{peak_ewma}");
}

#[test]
fn p2c_gives_equals_turns() {
    let origins = named(&["a", "b", "c", "d"]);
    let lb = Config::pool(&entries(&origins), "balance: p2c").start();
    let names = ask(&lb, 400);
    let counts = tally(&names);
    assert_eq!(counts.len(), 4, "{counts:?}");
    assert!(counts.values().all(|count| (50..150).contains(count)), "{counts:?}");
}

#[test]
fn p2c_follows_the_weights() {
    let origins = named(&["a", "b"]);
    let backends = [origins[0].entry_with("weight: 3"), origins[1].entry()];
    let lb = Config::pool(&backends, "balance: p2c").start();
    let counts = tally(&ask(&lb, 400));
    assert!((250..350).contains(&counts["a"]), "{counts:?}");
}

/// Sends a request that stays in flight, and says where it went.
fn hold(lb: &Lb, origins: &[Origin], path: &str) -> (Client, usize) {
    let before: Vec<_> = origins.iter().map(Origin::working).collect();
    let sum = |origins: &[Origin]| origins.iter().map(Origin::working).sum::<usize>();
    let goal = sum(origins) + 1;
    let mut client = lb.client();
    client.send(request("GET", path, &[], b""));
    eventually("the request arrives", || sum(origins) == goal);
    let moved = origins.iter().zip(before).position(|(origin, before)| origin.working() > before);
    (client, moved.expect("one of them has one more"))
}

fn gated(names: &[&'static str], gate: &Gate) -> Vec<Origin> {
    let origin = |name: &&'static str| {
        let (name, gate) = (*name, gate.clone());
        Origin::scripted(name, move |_| Reply::text(name).behind(&gate))
    };
    names.iter().map(origin).collect()
}

#[test]
fn p2c_counts_in_flight_per_weight() {
    for weight in [1, 3] {
        let gate = Gate::default();
        let origins = gated(&["a", "b"], &gate);
        let backends = [origins[0].entry_with(&format!("weight: {weight}")), origins[1].entry()];
        let lb = Config::pool(&backends, "balance: p2c").start();
        let mut held = Vec::new();
        // Of two, both are always drawn, so the less loaded is always found.
        for turn in 1..=8 {
            held.extend((0..=weight).map(|_| hold(&lb, &origins, "/").0));
            let working = (origins[0].working(), origins[1].working());
            assert_eq!(working, (turn * weight, turn), "weight: {weight}");
        }
        gate.open();
    }
}

#[test]
fn peak_ewma_does_not_take_failing_fast_for_being_fast() {
    let wait = Duration::from_millis(20);
    let mut origins: Vec<_> = ["a", "b", "c"].map(|name| Origin::slow(name, wait)).into();
    origins.push(Origin::scripted("failing", |_| Reply::status(500)));
    let keys = "balance: peak_ewma\nejection: off\nretry: { attempts: 0 }";
    let lb = Config::pool(&entries(&origins), keys).start();
    let counts = tally(&ask_together(&lb, 8, 30));
    let failed = counts.get("failing").copied().unwrap_or(0);
    assert!(failed < 30, "a full share is 60: {counts:?}");
}

/// A kind of key: `hash_on`, and the request that has the key of that number. The second number
/// varies what must not count.
struct Key {
    hash_on: &'static str,
    request: fn(key: usize, other: usize) -> Vec<u8>,
    /// A request that does not have it, if there is such a thing.
    without: Option<fn() -> Vec<u8>>,
}

const KEYS: [Key; 6] = [
    Key {
        hash_on: "client_ip",
        request: |key, other| {
            request("GET", &format!("/{other}"), &[&format!("X-Forwarded-For: 10.1.2.{key}")], b"")
        },
        without: None,
    },
    Key {
        hash_on: "path",
        request: |key, other| request("GET", &format!("/p/{key}?x={other}"), &[], b""),
        without: None,
    },
    Key {
        hash_on: "uri",
        request: |key, other| {
            request("GET", &format!("/p?x={key}"), &[&format!("X-Other: {other}")], b"")
        },
        without: None,
    },
    Key {
        hash_on: "{ header: X-User }",
        request: |key, other| {
            request("GET", &format!("/{other}"), &[&format!("x-user: user-{key}")], b"")
        },
        without: Some(|| request("GET", "/", &[], b"")),
    },
    Key {
        hash_on: "{ cookie: sid }",
        request: |key, other| {
            request("GET", "/", &[&format!("Cookie: a={other}; sid=s{key}; b={other}")], b"")
        },
        without: Some(|| request("GET", "/", &["Cookie: side=x"], b"")),
    },
    Key {
        hash_on: "{ query: user }",
        request: |key, other| {
            // A character may be written in two ways.
            let u = if other % 2 == 0 { "u" } else { "%75" };
            request("GET", &format!("/{other}?a={other}&user={u}{key}"), &[], b"")
        },
        without: Some(|| request("GET", "/?users=1", &[], b"")),
    },
];

fn hashing(policy: &str, hash_on: &str, backends: &[String], keys: &str) -> Lb {
    let balance = format!("balance: {{ policy: {policy}, hash_on: {hash_on} }}\n{keys}");
    Config::pool(backends, &balance).and("trusted_proxies: [127.0.0.0/8]").start()
}

#[test]
fn equal_keys_meet_the_same_backend_and_different_ones_spread() {
    let origins = named(&["a", "b", "c", "d"]);
    for policy in HASHING {
        for key in &KEYS {
            let lb = hashing(policy, key.hash_on, &entries(&origins), "");
            let mut client = lb.client();
            let rounds: Vec<Vec<String>> = (0..3)
                .map(|other| {
                    (0..40).map(|at| client.ask((key.request)(at, other)).backend()).collect()
                })
                .collect();
            let what = format!("{policy} on {}", key.hash_on);
            assert_eq!(rounds[0], rounds[1], "{what}");
            assert_eq!(rounds[0], rounds[2], "{what}");
            let counts = tally(&rounds[0]);
            assert_eq!(counts.len(), 4, "{what}: {counts:?}");
            assert!(counts.values().all(|count| *count < 24), "{what}: {counts:?}");
        }
    }
}

#[test]
fn requests_without_the_key_are_served_and_spread() {
    let origins = named(&["a", "b", "c", "d"]);
    for policy in HASHING {
        for key in &KEYS {
            let Some(without) = key.without else { continue };
            let lb = hashing(policy, key.hash_on, &entries(&origins), "");
            let mut client = lb.client();
            let names: Vec<_> = (0..100).map(|_| client.ask(without()).backend()).collect();
            let counts = tally(&names);
            let what = format!("{policy} on {}", key.hash_on);
            assert_eq!(counts.len(), 4, "{what}: {counts:?}");
            assert!(counts.values().all(|count| *count < 60), "{what}: {counts:?}");
        }
    }
}

#[test]
fn a_client_is_its_ipv6_network() {
    let origins = named(&["a", "b", "c", "d"]);
    for policy in HASHING {
        let lb = hashing(policy, "client_ip", &entries(&origins), "");
        let mut client = lb.client();
        let mut from = |network: usize, host: &str| {
            let field = format!("X-Forwarded-For: 2001:db8:0:{network:x}{host}");
            client.ask(request("GET", "/", &[&field], b"")).backend()
        };
        let first: Vec<_> = (0..40).map(|network| from(network, "::1")).collect();
        let second: Vec<_> = (0..40).map(|network| from(network, ":9:8:7:6")).collect();
        assert_eq!(first, second, "{policy}");
        assert_eq!(tally(&first).len(), 4, "{policy}");
    }
}

#[test]
fn an_address_that_nobody_vouches_for_is_not_hashed() {
    let origins = named(&["a", "b", "c", "d"]);
    let lb = Config::pool(&entries(&origins), "balance: { policy: maglev }").start();
    let mut client = lb.client();
    let names: Vec<_> = (0..20)
        .map(|at| {
            let field = format!("X-Forwarded-For: 10.1.2.{at}");
            client.ask(request("GET", "/", &[&field], b"")).backend()
        })
        .collect();
    assert_eq!(tally(&names).len(), 1, "{names:?}");
}

/// Who has each of 100 paths.
fn owners(lb: &Lb) -> Vec<String> {
    let mut client = lb.client();
    (0..100).map(|at| client.get(&format!("/{at}")).backend()).collect()
}

#[test]
fn a_backend_that_goes_out_moves_only_its_own_keys_and_they_come_back() {
    for policy in HASHING {
        let origins = named(&["a", "b", "c", "d"]);
        let check = "health_check: { interval: 150ms, timeout: 150ms, rise: 1, fall: 1 }";
        let lb = hashing(policy, "path", &entries(&origins), check);
        let before = owners(&lb);
        origins[1].stop();
        lb.wait_for_line("backend b ");
        let during = owners(&lb);
        let mut heirs = BTreeSet::new();
        for (at, (before, during)) in before.iter().zip(&during).enumerate() {
            if before == "b" {
                assert_ne!(during, "b", "{policy} key {at}");
                heirs.insert(during.clone());
            } else {
                assert_eq!(before, during, "{policy} key {at}");
            }
        }
        assert!(heirs.len() >= 2, "{policy}: what b had is shared: {heirs:?}");
        origins[1].start();
        eventually("b is back", || lb.lines_with("is UP") == 1);
        assert_eq!(owners(&lb), before, "{policy}");
    }
}

#[test]
fn a_backend_that_leaves_the_file_moves_little_more_than_its_share() {
    let origins = named(&["a", "b", "c", "d", "e"]);
    for policy in HASHING {
        let all = hashing(policy, "path", &entries(&origins), "");
        let fewer = hashing(policy, "path", &entries(&origins[..4]), "");
        let pairs: Vec<_> = owners(&all).into_iter().zip(owners(&fewer)).collect();
        let moved = pairs.iter().filter(|(all, fewer)| all != fewer).count();
        // A fifth is 20 of 100; of so few keys chance may take some more.
        assert!((5..=40).contains(&moved), "{policy}: {moved}");
    }
}

#[test]
fn two_balancers_agree_on_who_has_a_key() {
    let origins = named(&["a", "b", "c", "d"]);
    for policy in HASHING {
        let [one, two] = [(); 2].map(|()| hashing(policy, "path", &entries(&origins), ""));
        assert_eq!(owners(&one), owners(&two), "{policy}");
    }
}

#[test]
fn hashing_follows_the_weights() {
    let origins = named(&["a", "b"]);
    let backends = [origins[0].entry_with("weight: 3"), origins[1].entry()];
    for policy in HASHING {
        let lb = hashing(policy, "path", &backends, "");
        let mut client = lb.client();
        let names: Vec<_> =
            (0..400).map(|at| client.get(&format!("/item/{at}")).backend()).collect();
        let counts = tally(&names);
        assert!((250..350).contains(&counts["a"]), "{policy}: {counts:?}");
    }
}

/// Where sixteen requests for one key go, that are all in flight at the same time.
fn sixteen_of_one_key(policy: &str, bound: &str) -> BTreeMap<usize, usize> {
    let gate = Gate::default();
    let origins = gated(&["a", "b", "c", "d"], &gate);
    let balance = format!("balance: {{ policy: {policy}, hash_on: path{bound} }}");
    let lb = Config::pool(&entries(&origins), &balance).start();
    let mut went = BTreeMap::new();
    let held: Vec<_> = (0..16)
        .map(|_| {
            let (client, origin) = hold(&lb, &origins, "/hot");
            *went.entry(origin).or_insert(0) += 1;
            client
        })
        .collect();
    gate.open();
    for mut client in held {
        assert_eq!(client.response().status, 200);
    }
    // Once nothing is in flight any more, the key is at home again.
    eventually("the key is at home", || {
        let mut client = lb.client();
        tally(&(0..10).map(|_| client.get("/hot").backend()).collect::<Vec<_>>()).len() == 1
    });
    went
}

#[test]
fn a_hot_key_overflows_at_the_bound() {
    for policy in HASHING {
        let unbounded = sixteen_of_one_key(policy, "");
        assert_eq!(unbounded.values().max(), Some(&16), "{policy}: {unbounded:?}");
        // Of sixteen on four backends, each may have 125% of four.
        let bounded = sixteen_of_one_key(policy, ", bounded_load: 125%");
        assert_eq!(bounded.values().max(), Some(&5), "{policy}: {bounded:?}");
        assert_eq!(bounded.len(), 4, "{policy}: {bounded:?}");
    }
}

/// How many of sixteen requests for one key, all in flight at the same time, go to the backend that
/// the key is at home on and that has just come back from failing its checks.
fn at_home_after_coming_back(policy: &str, slow_start: &str) -> usize {
    let gate = Gate::default();
    let origins = ["a", "b"].map(|name| {
        let gate = gate.clone();
        Origin::scripted(name, move |request| match request.path() {
            "/held" => Reply::text(name).behind(&gate),
            _ => Reply::text(name),
        })
    });
    let keys = format!(
        "health_check: {{ interval: 150ms, timeout: 5s, rise: 1, fall: 1 }}\n\
         ejection: off\nslow_start: {slow_start}"
    );
    let hash_on = "{ query: user }, bounded_load: 150%";
    let lb = hashing(policy, hash_on, &entries(&origins), &keys);
    let home = |user: usize| lb.get(&format!("/?user={user}")).backend();
    let user = (0..100).find(|user| home(*user) == "b").expect("some key is at home there");
    origins[1].stop();
    lb.wait_for_line("is DOWN");
    origins[1].start();
    lb.wait_for_line("is UP");
    let path = format!("/held?user={user}");
    let held: Vec<_> = (0..16).map(|_| hold(&lb, &origins, &path)).collect();
    gate.open();
    held.iter().filter(|(_, origin)| *origin == 1).count()
}

#[test]
fn the_bound_of_a_hot_key_is_low_while_its_backend_starts_slowly() {
    for policy in HASHING {
        // 150% of its half of sixteen; and of an eleventh, as it counts for a tenth at first.
        assert_eq!(at_home_after_coming_back(policy, "0s"), 12, "{policy}");
        let slowly = at_home_after_coming_back(policy, "1h");
        assert!((1..=3).contains(&slowly), "{policy}: {slowly}");
    }
}

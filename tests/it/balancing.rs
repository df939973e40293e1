//! Which backend gets a request.

use crate::support::{Client, Config, Lb, Origin, Reply, eventually, request, tally};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Three backends that answer with their names.
fn three() -> [Origin; 3] {
    ["a", "b", "c"].map(Origin::named)
}

fn entries(origins: &[Origin]) -> Vec<String> {
    origins.iter().map(Origin::entry).collect()
}

/// Who answers that many requests on one connection.
fn ask(lb: &Lb, requests: usize) -> Vec<String> {
    let mut client = lb.client();
    (0..requests).map(|_| client.get("/").text()).collect()
}

/// Who answers when that many clients ask that many requests each, all at the same time.
fn ask_together(lb: &Lb, clients: usize, requests: usize) -> Vec<String> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(|| ask(lb, requests))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn round_robin_is_a_strict_rotation() {
    let origins = three();
    let lb = Config::pool(&entries(&origins), "").start();
    let names: Vec<String> = (0..9).map(|_| lb.get("/").text()).collect();
    for turn in names.windows(3) {
        assert_eq!(tally(turn).len(), 3, "{names:?}");
    }
    for origin in &origins {
        assert_eq!(origin.count(), 3, "{}", origin.name());
    }
}

#[test]
fn the_rotation_is_one_for_all_connections() {
    let origins = three();
    let lb = Config::pool(&entries(&origins), "").start();
    let mut clients = [lb.client(), lb.client()];
    let names: Vec<String> = (0..12).map(|turn| clients[turn % 2].get("/").text()).collect();
    for turn in names.windows(3) {
        assert_eq!(tally(turn).len(), 3, "{names:?}");
    }
}

#[test]
fn weights_are_served_smoothly() {
    let [a, b, c] = three();
    let lb = Config::pool(&[a.entry_with("weight: 5"), b.entry(), c.entry()], "").start();
    let names = ask(&lb, 70);
    for window in names.windows(7) {
        let counts = tally(window);
        for (name, share) in [("a", 5_usize), ("b", 1), ("c", 1)] {
            let count = counts.get(name).copied().unwrap_or(0);
            assert!(count.abs_diff(share) <= 1, "{name} {count} times in {window:?}");
        }
    }
    let five_in_a_row = names.windows(5).any(|five| five.iter().all(|name| name == "a"));
    assert!(!five_in_a_row, "{names:?}");
}

#[test]
fn with_one_of_three_down_the_others_alternate() {
    let origins = three();
    origins[1].stop();
    let lb = Config::pool(&entries(&origins), "").start();
    let names = ask(&lb, 20);
    for two in names.windows(2) {
        assert_ne!(two[0], two[1], "{names:?}");
    }
    assert_eq!(tally(&names).len(), 2);
}

#[test]
fn with_one_of_three_down_the_others_share_evenly_under_concurrency() {
    let origins = three();
    origins[1].stop();
    let lb = Config::pool(&entries(&origins), "").start();
    let counts = tally(&ask_together(&lb, 8, 50));
    for name in ["a", "c"] {
        assert!(counts[name].abs_diff(200) <= 10, "{counts:?}");
    }
}

#[test]
fn weights_hold_when_a_backend_is_down() {
    let [a, b, c] = three();
    c.stop();
    let backends = [a.entry_with("weight: 3"), b.entry(), c.entry_with("weight: 4")];
    let lb = Config::pool(&backends, "").start();
    let counts = tally(&ask(&lb, 40));
    assert_eq!((counts["a"], counts["b"]), (30, 10));
}

#[test]
fn random_follows_the_weights() {
    let [a, b, _] = three();
    let backends = [a.entry_with("weight: 3"), b.entry()];
    let lb = Config::pool(&backends, "balance: random").start();
    let counts = tally(&ask_together(&lb, 4, 1000));
    assert!(counts["a"].abs_diff(3000) <= 300, "{counts:?}");
    // No rotation: six in a row from one backend occur in a random sequence of 500, and never
    // in one that takes turns.
    let names = ask(&lb, 500);
    assert!(names.windows(6).any(|six| tally(six).len() == 1), "{names:?}");
}

#[test]
fn least_connections_gives_a_slow_backend_a_small_share() {
    let fast = Duration::from_millis(40);
    let origins =
        [Origin::slow("a", fast), Origin::slow("b", fast), Origin::slow("slow", fast * 10)];
    let lb = Config::pool(&entries(&origins), "balance: least_connections").start();
    let counts = tally(&ask_together(&lb, 100, 20));
    // With equal numbers in flight, a backend ten times slower serves 1 of 21; the 33 it gets
    // in the first burst come on top. Round robin would give it 667 of 2000.
    assert!(counts["slow"] < 300, "{counts:?}");
    assert!(counts["slow"] > 20, "{counts:?}");
    let (a, b) = (counts["a"], counts["b"]);
    assert!(a.abs_diff(b) < a.max(b) / 5, "{counts:?}");
}

#[test]
fn least_connections_counts_in_flight_per_weight() {
    let wait = Duration::from_millis(1500);
    let origins = [Origin::slow("a", wait), Origin::slow("b", wait)];
    let backends = [origins[0].entry_with("weight: 3"), origins[1].entry()];
    let lb = Config::pool(&backends, "balance: least_connections").start();
    let started = Instant::now();
    let mut clients: Vec<Client> = Vec::new();
    for sent in 1..=8 {
        let mut client = lb.client();
        client.send(request("GET", "/", &[], b""));
        clients.push(client);
        eventually("the request arrives", || origins[0].count() + origins[1].count() == sent);
    }
    assert!(started.elapsed() < wait, "too slow a machine: the first answers are out already");
    assert_eq!((origins[0].count(), origins[1].count()), (6, 2));
}

#[test]
fn least_connections_rotates_among_equals() {
    let origins = three();
    let lb = Config::pool(&entries(&origins), "balance: least_connections").start();
    let counts = tally(&ask(&lb, 30));
    for name in ["a", "b", "c"] {
        assert!(counts.get(name).is_some_and(|count| count.abs_diff(10) <= 1), "{counts:?}");
    }
}

#[test]
fn least_connections_forgets_requests_that_fail() {
    let [a, b, _] = three();
    a.script(|_| Reply::close());
    let keys = "balance: least_connections\nretry: { attempts: 0 }\nejection: off";
    let lb = Config::pool(&[a.entry(), b.entry()], keys).start();
    for _ in 0..20 {
        lb.get("/");
    }
    a.script(|_| Reply::text("a"));
    let counts = tally(&ask(&lb, 20));
    assert!(counts.get("a").is_some_and(|count| count.abs_diff(10) <= 1), "{counts:?}");
}

#[test]
fn a_backup_serves_only_when_no_primary_is_usable() {
    let [a, b, spare] = three();
    let backends = [a.entry(), b.entry(), spare.entry_with("backup: true")];
    let keys = "health_check: { interval: 150ms, timeout: 150ms, rise: 1, fall: 1, jitter: 0% }";
    let lb = Config::pool(&backends, keys).start();
    assert_eq!(tally(&ask(&lb, 10)).len(), 2);
    a.stop();
    lb.wait_for_line("backend a ");
    assert_eq!(tally(&ask(&lb, 10)), [("b".to_owned(), 10)].into());
    assert_eq!(spare.count(), 0);
    b.stop();
    lb.wait_for_line("backend b ");
    assert_eq!(tally(&ask(&lb, 10)), [("c".to_owned(), 10)].into());
    a.start();
    eventually("the primary serves again", || lb.get("/").text() == "a");
    assert_eq!(tally(&ask(&lb, 10)), [("a".to_owned(), 10)].into());
}

#[test]
fn backups_share_among_themselves() {
    let [dead, b, c] = three();
    dead.stop();
    let backends = [dead.entry(), b.entry_with("backup: true"), c.entry_with("backup: true")];
    let lb = Config::pool(&backends, "").start();
    let counts = tally(&ask(&lb, 10));
    assert_eq!((counts["b"], counts["c"]), (5, 5));
}

#[test]
fn a_backend_on_a_unix_socket_serves() {
    let unix = Origin::unix("a");
    let tcp = Origin::named("b");
    for balance in ["round_robin", "random", "least_connections"] {
        let lb = Config::pool(&[unix.entry(), tcp.entry()], &format!("balance: {balance}")).start();
        assert_eq!(tally(&ask(&lb, 40)).len(), 2, "{balance}");
    }
}

#[test]
fn a_backend_given_as_a_host_name_serves() {
    let origin = Origin::named("a");
    let lb = Config::pool(&[format!("localhost:{}", origin.port())], "").start();
    assert_eq!(lb.get("/").text(), "a");
}

#[test]
fn a_backend_of_weight_zero_gets_nothing() {
    for balance in ["round_robin", "random", "least_connections"] {
        let [a, b, c] = three();
        let backends = [a.entry_with("weight: 0"), b.entry(), c.entry()];
        let lb = Config::pool(&backends, &format!("balance: {balance}")).start();
        ask(&lb, 40);
        assert_eq!((a.count(), b.count() + c.count()), (0, 40), "{balance}");
        assert!(b.count() > 0 && c.count() > 0, "{balance}");
    }
}

#[test]
fn a_backend_is_named_by_its_address_unless_it_has_a_name() {
    let origin = Origin::named("a");
    let lb = Config::pool(&[origin.address().to_string()], "").start();
    assert_eq!(lb.get("/").backend(), origin.address().to_string());
}

#[test]
fn the_policy_can_be_given_as_a_map() {
    let [a, b, _] = three();
    let backends = [a.entry_with("weight: 3"), b.entry()];
    let lb = Config::pool(&backends, "balance: { policy: random }").start();
    let names = ask(&lb, 300);
    assert!(names.windows(5).any(|five| tally(five).len() == 1), "{names:?}");
}

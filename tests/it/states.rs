//! What an operator says of a backend in the file.

use crate::support::{Config, Lb, Origin, tally};
use std::collections::BTreeMap;

fn named(names: &[&str]) -> Vec<Origin> {
    names.iter().copied().map(Origin::named).collect()
}

/// How often each answers sixty requests.
fn shares(lb: &Lb) -> BTreeMap<String, usize> {
    let mut client = lb.client();
    let names: Vec<_> = (0..60).map(|at| client.get(&format!("/{at}")).backend()).collect();
    tally(&names)
}

#[test]
fn draining_and_disabled_backends_get_no_new_clients() {
    let origins = named(&["a", "b", "c", "d"]);
    let backends = [
        origins[0].entry_with("state: draining"),
        origins[1].entry_with("state: disabled"),
        origins[2].entry_with("state: active"),
        origins[3].entry(),
    ];
    let policies =
        ["round_robin", "random", "least_connections", "p2c", "peak_ewma", "ring_hash", "maglev"];
    for policy in policies {
        let hashes = ["ring_hash", "maglev"].contains(&policy);
        let hash_on = if hashes { ", hash_on: path" } else { "" };
        let lb =
            Config::pool(&backends, &format!("balance: {{ policy: {policy}{hash_on} }}")).start();
        let counts = shares(&lb);
        // Of two, peak_ewma may well stay with the one that was faster in the beginning.
        if policy != "peak_ewma" {
            assert_eq!(counts.keys().collect::<Vec<_>>(), ["c", "d"], "{policy}");
        }
        assert_eq!((origins[0].count(), origins[1].count()), (0, 0), "{policy}");
    }
}

#[test]
fn with_every_backend_draining_or_disabled_there_is_nobody_to_ask() {
    let origins = named(&["a", "b"]);
    let backends =
        [origins[0].entry_with("state: draining"), origins[1].entry_with("state: disabled")];
    let lb = Config::pool(&backends, "").access_log().start();
    let response = lb.get("/");
    assert_eq!(response.status, 503);
    assert!(response.text().contains("no_healthy_backend"), "{}", response.text());
    assert_eq!(lb.wait_for_entries(1)[0]["reason"], "no_healthy_backend");
}

#[test]
fn with_every_primary_draining_the_backups_serve() {
    let origins = named(&["a", "b"]);
    let backends =
        [origins[0].entry_with("state: draining"), origins[1].entry_with("backup: true")];
    let lb = Config::pool(&backends, "").start();
    assert_eq!(shares(&lb), [("b".to_owned(), 60)].into());
}

#[test]
fn a_retry_goes_to_no_draining_backend() {
    let origins = named(&["a", "b", "c"]);
    origins[0].stop();
    let backends = [
        origins[0].entry(),
        origins[1].entry_with("state: draining"),
        origins[2].entry_with("state: disabled"),
    ];
    let lb = Config::pool(&backends, "health_check: off\nejection: off").start();
    for _ in 0..10 {
        assert_eq!(lb.get("/").status, 502);
    }
    assert_eq!((origins[1].count(), origins[2].count()), (0, 0));
}

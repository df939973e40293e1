//! What counting a request costs it, and taking what is in force, alone and while another thread does
//! the same.
//!
//! `cargo bench --bench metrics`. Nothing here reads a clock: that is the access log's cost, or was
//! paid before.

#![allow(missing_docs)]

use divan::{Bencher, black_box};
use pingora_lb::{
    config,
    filter::Registry,
    model::Reason,
    observe::Page,
    runtime::{EndedRequest, Live, Snapshot},
};
use std::{fmt::Write as _, path::Path, sync::Arc, time::Duration};

fn main() {
    divan::main();
}

fn snapshot(routes: usize) -> Snapshot {
    let mut text = "listeners: { web: { address: 127.0.0.1:1 } }\nroutes:\n".to_owned();
    for route in 0..routes {
        writeln!(text, "  - {{ match: {{ host: h{route}.example }}, pool: app }}").unwrap();
    }
    text.push_str("pools: { app: { backends: [127.0.0.1:2] } }\n");
    let config = config::parse(&text, "lb.yaml", Path::new("/"), &|_| None, &Registry::default());
    let config = config.expect("the configuration is valid").config;
    Snapshot::compile(&config, Vec::new(), &Arc::default(), None, Arc::default())
}

/// One request that a backend answered.
#[divan::bench(threads = [1, 2], sample_size = 4096)]
fn proxied(bencher: Bencher<'_, '_>) {
    let snapshot = snapshot(100);
    let pool = &snapshot.pools[0];
    let ended = EndedRequest {
        listener: 0,
        route: Some(50),
        pool: Some(pool),
        method: "GET",
        status: 200,
        local: None,
        duration: Duration::from_micros(12_345),
        bytes_in: 0,
        bytes_out: 12_345,
    };
    bencher.bench(|| snapshot.count_request(black_box(&ended)));
}

/// One that we answered, with a body in either direction.
#[divan::bench(threads = [1, 2], sample_size = 4096)]
fn answered(bencher: Bencher<'_, '_>) {
    let snapshot = snapshot(100);
    let ended = EndedRequest {
        listener: 0,
        route: None,
        pool: None,
        method: "BREW",
        status: 404,
        local: Some(Reason::NoRoute),
        duration: Duration::from_micros(123),
        bytes_in: 10,
        bytes_out: 100,
    };
    bencher.bench(|| snapshot.count_request(black_box(&ended)));
}

/// The snapshot in force, which every request takes and gives back.
#[divan::bench(threads = [1, 2], sample_size = 4096)]
fn in_force(bencher: Bencher<'_, '_>) {
    let live = Live::new(snapshot(1));
    bencher.bench(|| black_box(live.load()).pools.len());
}

/// Reading everything, with this many routes that each have answered.
#[divan::bench(args = [10, 1_000])]
fn page(bencher: Bencher<'_, '_>, routes: usize) {
    let snapshot = snapshot(routes);
    for route in 0..routes {
        snapshot.count_request(&EndedRequest {
            listener: 0,
            route: Some(route),
            pool: snapshot.pools.first(),
            method: "GET",
            status: 200,
            local: None,
            duration: Duration::from_millis(1),
            bytes_in: 0,
            bytes_out: 0,
        });
    }
    bencher.bench(|| {
        let mut page = Page::default();
        snapshot.metrics.show(&mut page);
        page.into_text().len()
    });
}

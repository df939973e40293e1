//! What making a configuration ready costs as it grows, and what a reload of it costs: reading runs
//! beside the traffic, the rest on a thread that serves.
//!
//! `cargo bench --bench compiling`.

#![allow(missing_docs)]

use divan::{Bencher, black_box};
use pingora_lb::{
    config::{self, Checked},
    filter::Registry,
    pool::Interner,
    runtime::Snapshot,
};
use std::{path::Path, sync::Arc};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

fn main() {
    divan::main();
}

fn read(text: &str) -> Checked {
    config::parse(text, "bench", Path::new("/"), &|_| None, &Registry::default())
        .unwrap_or_else(|errors| panic!("{errors}"))
}

/// One pool with so many backends.
fn backends(count: usize) -> String {
    let backend = |at: usize| format!("10.0.{}.{}:80", at / 250, at % 250 + 1);
    let backends = (0..count).map(backend).collect::<Vec<_>>().join(", ");
    format!(
        "listeners: {{ web: {{ address: 127.0.0.1:80 }} }}\n\
         pools: {{ app: {{ backends: [{backends}] }} }}\n"
    )
}

/// So many routes for a host each, to one pool.
fn routes(count: usize) -> String {
    let route = |at: usize| format!("  - {{ match: {{ host: h{at}.example.com }}, pool: app }}\n");
    let routes: String = (0..count).map(route).collect();
    format!("{}routes:\n{routes}", backends(1))
}

fn compile(checked: &Checked, interner: &Arc<Interner>) -> Snapshot {
    Snapshot::compile(&checked.config, Vec::new(), interner, None, Arc::default())
}

fn reading(bencher: Bencher<'_, '_>, text: &str) {
    bencher.bench_local(|| read(black_box(text)));
}

fn compiling(bencher: Bencher<'_, '_>, text: &str) {
    let (checked, interner) = (read(text), Arc::new(Interner::default()));
    bencher.bench_local(|| compile(&checked, &interner));
}

/// The snapshot that follows, and what is said of the changes.
fn reloading(bencher: Bencher<'_, '_>, text: &str) {
    let (checked, interner) = (read(text), Arc::new(Interner::default()));
    let before = compile(&checked, &interner);
    bencher.bench_local(|| {
        let changes = checked.outline.changes_from(black_box(&checked.outline));
        (before.succeed(&checked.config, Vec::new(), &interner, None), changes)
    });
}

#[divan::bench(args = SIZES)]
fn reading_backends(bencher: Bencher<'_, '_>, count: usize) {
    reading(bencher, &backends(count));
}

#[divan::bench(args = SIZES)]
fn reading_routes(bencher: Bencher<'_, '_>, count: usize) {
    reading(bencher, &routes(count));
}

#[divan::bench(args = SIZES)]
fn compiling_backends(bencher: Bencher<'_, '_>, count: usize) {
    compiling(bencher, &backends(count));
}

#[divan::bench(args = SIZES)]
fn compiling_routes(bencher: Bencher<'_, '_>, count: usize) {
    compiling(bencher, &routes(count));
}

#[divan::bench(args = SIZES)]
fn reloading_backends(bencher: Bencher<'_, '_>, count: usize) {
    reloading(bencher, &backends(count));
}

#[divan::bench(args = SIZES)]
fn reloading_routes(bencher: Bencher<'_, '_>, count: usize) {
    reloading(bencher, &routes(count));
}

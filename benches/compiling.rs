//! What making a configuration ready costs as it grows, and what a reload of it costs, step by step. None
//! of it runs on a thread that serves.
//!
//! `cargo bench --bench compiling`.

#![allow(missing_docs)]

use divan::{Bencher, black_box};
use pingora_lb::{
    config::{self, Checked},
    filter::Registry,
    pool::{Interner, Pool},
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
    weighted(count, 1)
}

/// The same where every other backend has this weight.
fn weighted(count: usize, weight: u32) -> String {
    let backend = |at: usize| {
        let weight = if at.is_multiple_of(2) { 1 } else { weight };
        let (high, low) = (at / 250, at % 250 + 1);
        format!("{{ address: \"10.0.{high}.{low}:80\", weight: {weight} }}")
    };
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
fn reloading(bencher: Bencher<'_, '_>, before: &str, after: &str) {
    let (checked, next, interner) = (read(before), read(after), Arc::new(Interner::default()));
    let before = compile(&checked, &interner);
    bencher.bench_local(|| {
        let changes = next.outline.changes_from(black_box(&checked.outline));
        (before.succeed(&next.config, Vec::new(), &interner, None), changes)
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

/// Half of the backends have another weight.
#[divan::bench(args = SIZES)]
fn reloading_backends(bencher: Bencher<'_, '_>, count: usize) {
    reloading(bencher, &backends(count), &weighted(count, 2));
}

#[divan::bench(args = SIZES)]
fn reloading_routes(bencher: Bencher<'_, '_>, count: usize) {
    reloading(bencher, &routes(count), &routes(count));
}

/// What tells two configurations apart.
#[divan::bench(args = SIZES)]
fn hashing_backends(bencher: Bencher<'_, '_>, count: usize) {
    let (checked, filters) = (read(&backends(count)), Registry::default());
    bencher.bench_local(|| black_box(&checked).hash(&filters));
}

/// From addresses to what is picked from, with half of the weights another.
#[divan::bench(args = SIZES)]
fn finding_backends(bencher: Bencher<'_, '_>, count: usize) {
    let (checked, interner) = (read(&weighted(count, 2)), Arc::new(Interner::default()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let spec = &checked.config.pools[0];
    bencher
        .with_inputs(|| Pool::new(spec.clone(), interner.clone()))
        .bench_local_refs(|pool| runtime.block_on(pool.discover()));
}

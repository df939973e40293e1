//! What running the filters of a route costs a request, apart from what the filters do.
//!
//! `cargo bench --bench filters`. A described request passes the chain as in the proxy: the request
//! hooks, the upstream request hooks, the response hooks, the body hooks and the log hooks. What that
//! costs without filters is the first line; most of it is making the description into a request.

#![allow(missing_docs)]

use divan::{Bencher, black_box};
use noop_filters::{Hooked, Plain};
use pingora_lb::{
    filter::{Filter, settings::NoSettings},
    testing::{self, Filters},
};

#[path = "../examples/measuring/noop_filters.rs"]
#[expect(unreachable_pub, reason = "shared with the programs that measure")]
mod noop_filters;

fn main() {
    divan::main();
}

const COUNTS: [usize; 3] = [0, 1, 10];

fn chain<F: Filter<Settings = NoSettings>>(count: usize) -> Filters {
    let made = (0..count).try_fold(Filters::new(), |filters, _| filters.and::<F>(NoSettings {}));
    made.expect("a filter without settings is made")
}

fn measure(bencher: Bencher<'_, '_>, filters: &Filters) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let request = testing::Request::get("/some/page.html");
    let response = testing::Response::new(200).body("hello");
    runtime.block_on(async {
        bencher.bench_local(|| {
            let run = filters.run_async(black_box(&request), response.clone());
            // No hook waits, so that the first poll is the last.
            let mut run = std::pin::pin!(run);
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(run.as_mut().poll(&mut context).is_ready());
        });
    });
}

#[divan::bench(args = COUNTS)]
fn without_hooks(bencher: Bencher<'_, '_>, count: usize) {
    measure(bencher, &chain::<Plain>(count));
}

#[divan::bench(args = COUNTS)]
fn with_request_and_response_hooks(bencher: Bencher<'_, '_>, count: usize) {
    measure(bencher, &chain::<Hooked>(count));
}

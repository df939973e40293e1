//! Filters that rewrite: what comes of any request is a request.

use crate::{
    App,
    testing::{Filters, Request, Response},
};
use http::{HeaderName, HeaderValue, Method};
use std::cell::OnceCell;

/// Every variable that a filter may use, in every place, and each kind of rewriting.
const FILTERS: [&str; 4] = [
    "- request_headers: { set: { x-all: \"${client_ip} ${host} ${path} ${query} ${path_and_query} ${method} ${scheme} \
     ${request_id} ${listener} ${route}\", host: \"${host}\" }, add: { x-path: \"a${path}\" }, remove: [x-internal] }",
    "- rewrite: { strip_prefix: /api }",
    "- rewrite: { replace_prefix: { from: /a, to: /b/c } }",
    "- rewrite: { regex: \"^/(.*)/([^/]*)$\", to: \"/$2/${1}\" }",
];

thread_local! {
    static MADE: OnceCell<Vec<Filters>> = const { OnceCell::new() };
}

fn filters() -> Vec<Filters> {
    let app = App::new();
    let make = |text: &&str| Filters::new().yaml(&app, text).expect("these settings are valid");
    FILTERS.iter().map(make).collect()
}

/// The first byte says which filter, the first line is the target, the rest fields.
pub(super) fn fuzz(bytes: &[u8]) {
    let Some((which, text)) = bytes.split_first() else { return };
    let Some(request) = described(text) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the system has room for a runtime");
    MADE.with(|made| {
        let made = made.get_or_init(filters);
        let chain = &made[usize::from(*which) % made.len()];
        let outcome = runtime.block_on(chain.run_async(&request, Response::new(200)));
        assert!(outcome.mishaps().is_empty(), "{:?}", outcome.mishaps());
        match outcome.forwarded() {
            Some(forwarded) => {
                let target = forwarded.target().as_bytes();
                assert!(target.starts_with(b"/"), "{:?}", forwarded.target());
                let clean = crate::listener::is_target(target);
                assert!(clean, "{:?} of {:?}", forwarded.target(), request.target());
            }
            None => assert!(outcome.status() >= 400, "{}", outcome.status()),
        }
    });
}

/// A request of which the connection loop would have let everything through.
fn described(text: &[u8]) -> Option<Request> {
    let text = std::str::from_utf8(text).ok()?;
    let mut lines = text.split('\n');
    let target = lines.next().filter(|target| target.starts_with('/'))?;
    if !crate::listener::is_target(target.as_bytes()) {
        return None;
    }
    let path = target.split('?').next().unwrap_or(target);
    crate::route::normal_path(path).ok()?;
    let mut request = Request::new(Method::GET.as_str(), target);
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let name: HeaderName = name.parse().ok()?;
        value.parse::<HeaderValue>().ok()?;
        request = request.with(name.as_str(), value);
    }
    Some(request)
}

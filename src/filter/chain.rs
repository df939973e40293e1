//! The filters of a route, in order.

use super::{
    Answer, Ended, Flow, Request, RequestBody, Response, ResponseBody, UpstreamRequest,
    erased::{Erased, Hooked},
    flow::{Failure, Kind, Result},
};
use crate::model::{PoolName, Reason};
use pingora::BError;
use std::{
    any::Any,
    fmt,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
};

/// A filter that was made from its settings.
pub(crate) struct Instance {
    pub(crate) filter: Box<dyn Erased>,
    /// The pools that it was given references to.
    pub(crate) pools: Vec<PoolName>,
}

/// The filters of a route, in the order of the file. Cloning it shares them.
#[derive(Clone, Default)]
pub struct Chain(Arc<Inner>);

#[derive(Default)]
struct Inner {
    places: Vec<Place>,
    pools: Vec<PoolName>,
    /// The places of the filters that implement a hook.
    request: Vec<usize>,
    request_body: Vec<usize>,
    upstream_request: Vec<usize>,
    response: Vec<usize>,
}

/// A filter in its place.
struct Place {
    filter: Box<dyn Erased>,
    /// Cleared when the first piece shows that there is no such hook.
    response_body: AtomicBool,
    /// Likewise.
    log: AtomicBool,
}

/// Why a request or a response does not go on.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The client gets this instead.
    Answer(Answer),
    /// The client's connection broke.
    Connection(BError),
}

impl Chain {
    pub(crate) fn new(instances: Vec<Instance>) -> Self {
        let mut inner = Inner::default();
        for (place, Instance { filter, pools }) in instances.into_iter().enumerate() {
            let hooks = filter.hooks();
            for (implemented, places) in [
                (hooks.request, &mut inner.request),
                (hooks.request_body, &mut inner.request_body),
                (hooks.upstream_request, &mut inner.upstream_request),
                (hooks.response, &mut inner.response),
            ] {
                if implemented {
                    places.push(place);
                }
            }
            inner.pools.extend(pools);
            let (response_body, log) = (AtomicBool::new(true), AtomicBool::new(true));
            inner.places.push(Place { filter, response_body, log });
        }
        Self(Arc::new(inner))
    }

    /// Whether there are no filters.
    pub fn is_empty(&self) -> bool {
        self.0.places.is_empty()
    }

    /// How many filters there are.
    pub fn len(&self) -> usize {
        self.0.places.len()
    }

    /// The names of the filters, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.places.iter().map(|place| place.filter.name())
    }

    /// The pools that the filters may send requests to.
    pub fn pools(&self) -> &[PoolName] {
        &self.0.pools
    }

    /// Has the filters take over what must outlive a reload from those of `predecessor`: each from
    /// the one of its name that is as many places behind the others of that name.
    ///
    /// It does nothing once the chain is shared, and so in use.
    pub fn adopt(&mut self, predecessor: &Self) {
        let Some(inner) = Arc::get_mut(&mut self.0) else { return };
        let mut before: Vec<&dyn Erased> =
            predecessor.0.places.iter().map(|place| &*place.filter).collect();
        for place in &mut inner.places {
            let name = place.filter.name();
            let Some(at) = before.iter().position(|old| old.name() == name) else { continue };
            place.filter.adopt(before.remove(at));
        }
    }

    /// Runs the request hooks. How many filters the request came to is written to `reached`, the one
    /// that answered included.
    pub(crate) async fn on_request(
        &self,
        request: &mut Request<'_>,
        reached: &mut usize,
    ) -> Option<Stop> {
        for &place in &self.0.request {
            *reached = place;
            request.place = place;
            let id = request.facts.request_id;
            let stop = self.settle(place, "request", id, |f| f.on_request(request)).await;
            if let Some((stop, panicked)) = stop {
                *reached += usize::from(!panicked);
                return Some(stop);
            }
        }
        *reached = self.len();
        None
    }

    /// Whether a filter sees the pieces of a request's body.
    pub(crate) fn sees_request_body(&self) -> bool {
        !self.0.request_body.is_empty()
    }

    pub(crate) async fn on_request_body(&self, piece: &mut RequestBody<'_>) -> Option<Stop> {
        for &place in &self.0.request_body {
            piece.place = place;
            let id = piece.facts.request_id;
            let stop = self.settle(place, "request body", id, |f| f.on_request_body(piece)).await;
            if let Some((stop, _)) = stop {
                return Some(stop);
            }
        }
        None
    }

    /// Whether a filter sees what backends get.
    pub(crate) fn sees_upstream_request(&self) -> bool {
        !self.0.upstream_request.is_empty()
    }

    pub(crate) async fn on_upstream_request(
        &self,
        request: &mut UpstreamRequest<'_>,
    ) -> Option<Stop> {
        for &place in &self.0.upstream_request {
            request.place = place;
            let id = request.facts.request_id;
            let stop =
                self.settle(place, "upstream request", id, |f| f.on_upstream_request(request));
            if let Some((stop, _)) = stop.await {
                return Some(stop);
            }
        }
        None
    }

    /// Runs the response hooks of the first `left` filters, the last first. A filter that answers
    /// leaves in `left` how many have not seen a response yet.
    pub(crate) async fn on_response(
        &self,
        response: &mut Response<'_>,
        left: &mut usize,
    ) -> Option<Stop> {
        for &place in self.0.response.iter().rev().filter(|place| **place < *left) {
            response.place = place;
            let id = response.facts.request_id;
            let stop = self.settle(place, "response", id, |f| f.on_response(response)).await;
            if let Some((stop, _)) = stop {
                *left = place;
                return Some(stop);
            }
        }
        None
    }

    /// Runs the response body hooks of the first `count` filters, the last first. An error says that
    /// the response must break off, and was logged.
    pub(crate) fn on_response_body(
        &self,
        piece: &mut ResponseBody<'_>,
        count: usize,
        may_change: bool,
    ) -> Result<(), Reason> {
        for (index, place) in self.0.places.iter().enumerate().take(count).rev() {
            if !place.response_body.load(Relaxed) {
                continue;
            }
            piece.place = index;
            let before = piece.data.len();
            let hook = || place.filter.on_response_body(piece);
            let result = catch_unwind(AssertUnwindSafe(hook));
            if std::mem::take(&mut piece.unimplemented) {
                place.response_body.store(false, Relaxed);
            }
            let name = place.filter.name();
            match result {
                Ok(Ok(())) if before == piece.data.len() || may_change => {}
                Ok(Ok(())) => {
                    let what =
                        "changed the length of a body without saying so in its response hook";
                    log::error!("request {}: filter {name} {what}", piece.request_id());
                    return Err(Reason::InternalError);
                }
                Ok(Err(failure)) => {
                    let id = piece.request_id();
                    log::error!("request {id}: filter {name} failed: {}", said(&failure));
                    return Err(Reason::InternalError);
                }
                Err(panic) => {
                    report_panic(name, "response body", piece.request_id(), &*panic);
                    return Err(Reason::FilterPanic);
                }
            }
        }
        Ok(())
    }

    /// Runs the log hooks of the first `count` filters.
    pub(crate) fn on_log(&self, ended: &mut Ended<'_>, count: usize) {
        for (index, place) in self.0.places.iter().enumerate().take(count) {
            if !place.log.load(Relaxed) {
                continue;
            }
            ended.place = index;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| place.filter.on_log(ended))) {
                report_panic(place.filter.name(), "log", ended.request_id(), &*panic);
            }
            if ended.unimplemented.take() {
                place.log.store(false, Relaxed);
            }
        }
    }

    /// Runs a hook of the filter at `place`. Whatever it does other than let the request go on
    /// comes back as a stop, with whether it panicked.
    async fn settle<'a>(
        &'a self,
        place: usize,
        hook: &str,
        request_id: &http::HeaderValue,
        call: impl FnOnce(&'a dyn Erased) -> Hooked<'a>,
    ) -> Option<(Stop, bool)> {
        let filter = &*self.0.places[place].filter;
        let id = || request_id.to_str().unwrap_or("-");
        match caught(|| call(filter)).await {
            Ok(Ok(Flow::Continue)) => None,
            Ok(Ok(Flow::Answer(answer)) | Err(Failure(Kind::Answer(answer)))) => {
                Some((Stop::Answer(answer), false))
            }
            Ok(Err(Failure(Kind::Connection(error)))) => Some((Stop::Connection(error), false)),
            Ok(Err(failure)) => {
                log::error!(
                    "request {}: filter {} failed: {}",
                    id(),
                    filter.name(),
                    said(&failure)
                );
                Some((Stop::Answer(Answer::error(Reason::InternalError)), false))
            }
            Err(panic) => {
                report_panic(filter.name(), hook, id(), &*panic);
                Some((Stop::Answer(Answer::error(Reason::FilterPanic)), true))
            }
        }
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Runs a hook and catches its panic.
async fn caught<F: Future>(call: impl FnOnce() -> F) -> Result<F::Output, Box<dyn Any + Send>> {
    // What a hook that panics leaves behind belongs to its own request, which ends.
    let future = catch_unwind(AssertUnwindSafe(call))?;
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

fn report_panic(filter: &str, hook: &str, request_id: &str, panic: &(dyn Any + Send)) {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("no message");
    log::error!("request {request_id}: filter {filter} panicked in its {hook} hook: {text}");
}

fn said(failure: &Failure) -> String {
    match &failure.0 {
        Kind::Error(error) => error.to_string(),
        Kind::Answer(answer) => format!("it would answer {}", answer.status()),
        Kind::Connection(error) => error.to_string(),
    }
}

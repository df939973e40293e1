//! The filters of a route, in order.

use super::{
    Answer, Ended, Flow, Request, RequestBody, Response, ResponseBody, UpstreamRequest,
    erased::{Erased, Hooked},
    flow::{Failure, Kind, Result},
};
use crate::{
    model::{PoolName, Reason, Source},
    observe::Tally,
};
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
    /// The files that its settings name, as they were before it read them.
    pub(crate) files: Vec<Source>,
    pub(crate) settings: Shown,
}

/// A filter's settings as they are shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    /// In a line; empty if there are none or they are not known.
    pub(crate) line: String,
    /// Whether a secret is left out, so that what the filter makes of it is not shown either.
    pub(crate) hides: bool,
}

/// What went wrong in a hook: it panicked, returned an error, or broke a rule.
///
/// ```text
/// filter api_key panicked in its request hook: index out of bounds
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mishap {
    /// The name of the filter.
    pub filter: &'static str,
    /// The hook: `request`, `request body`, `upstream request`, `response`, `response body`, `log` or
    /// `adopt`.
    pub hook: &'static str,
    /// Whether it panicked.
    pub panicked: bool,
    /// What the panic or the error said.
    pub text: String,
}

impl fmt::Display for Mishap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { filter, hook, panicked, text } = self;
        let what = if *panicked { "panicked" } else { "failed" };
        write!(f, "filter {filter} {what} in its {hook} hook: {text}")
    }
}

impl Mishap {
    fn panic(filter: &'static str, hook: &'static str, panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("no message").to_owned();
        Self { filter, hook, panicked: true, text }
    }

    fn failure(filter: &'static str, hook: &'static str, text: String) -> Self {
        Self { filter, hook, panicked: false, text }
    }

    /// Why the request ends by it.
    fn reason(&self) -> Reason {
        if self.panicked { Reason::FilterPanic } else { Reason::InternalError }
    }
}

/// What a hook that changes the length of a body without having said so is told.
const CHANGED_LENGTH: &str =
    "it changed the length of the body, which will_change_body was to say before";

/// The filters of a route, in the order of the file. Cloning it shares them.
#[derive(Clone, Default)]
pub struct Chain(Arc<Inner>);

#[derive(Default)]
struct Inner {
    places: Vec<Place>,
    pools: Vec<PoolName>,
    files: Vec<Source>,
    /// The places of the filters that implement a hook.
    request: Vec<usize>,
    request_body: Vec<usize>,
    upstream_request: Vec<usize>,
    response: Vec<usize>,
}

/// A filter in its place.
pub(super) struct Place {
    pub(super) filter: Box<dyn Erased>,
    pub(super) settings: Shown,
    /// Cleared when the first piece shows that there is no such hook.
    response_body: AtomicBool,
    /// Likewise.
    log: AtomicBool,
    /// The answers that it gave, by reason. A successor counts on.
    answers: Arc<Tally<{ Reason::ALL.len() }>>,
}

impl Place {
    /// The filter answers because of this.
    fn count(&self, reason: Reason) {
        self.answers.count(reason as usize);
    }
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
        for instance in instances {
            inner.push(instance);
        }
        Self(Arc::new(inner))
    }

    /// Puts these filters after those that are here.
    pub(crate) fn append(&mut self, instances: Vec<Instance>) {
        let inner = Arc::get_mut(&mut self.0).expect("a chain that is being made is not shared");
        for instance in instances {
            inner.push(instance);
        }
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

    /// The answers that each filter gave in the place of a backend, or of another answer, by reason. A
    /// filter that is there twice is counted as one.
    pub fn answers(&self) -> impl Iterator<Item = (&'static str, [u64; Reason::ALL.len()])> {
        let mut all: Vec<(&'static str, [u64; Reason::ALL.len()])> = Vec::new();
        for place in &self.0.places {
            let (name, counts) = (place.filter.name(), place.answers.counts());
            match all.iter_mut().find(|(other, _)| *other == name) {
                Some((_, sums)) => sums.iter_mut().zip(counts).for_each(|(sum, it)| *sum += it),
                None => all.push((name, counts)),
            }
        }
        all.into_iter()
    }

    /// The pools that the filters may send requests to.
    pub fn pools(&self) -> &[PoolName] {
        &self.0.pools
    }

    /// The files that the settings of the filters name, as they were before the filters read them.
    pub fn files(&self) -> &[Source] {
        &self.0.files
    }

    /// Has the filters take over what must outlive a reload from those of `predecessor`: each from
    /// the one of its name that is as many places behind the others of that name.
    ///
    /// It does nothing once the chain is shared, and so in use.
    ///
    /// # Errors
    /// When a filter panics; the chain is then of no use.
    pub fn adopt(&mut self, predecessor: &Self) -> Result<(), Mishap> {
        let Some(inner) = Arc::get_mut(&mut self.0) else { return Ok(()) };
        let mut before: Vec<&Place> = predecessor.0.places.iter().collect();
        for place in &mut inner.places {
            let name = place.filter.name();
            let Some(at) = before.iter().position(|old| old.filter.name() == name) else {
                continue;
            };
            let old = before.remove(at);
            place.answers = old.answers.clone();
            let adopting = || place.filter.adopt(&*old.filter);
            catch_unwind(AssertUnwindSafe(adopting))
                .map_err(|panic| Mishap::panic(name, "adopt", &*panic))?;
        }
        Ok(())
    }

    /// The filters in their places.
    pub(super) fn places(&self) -> &[Place] {
        &self.0.places
    }

    /// Runs the request hooks. How many filters the request came to is written to `reached`: the one
    /// that answered counts, the one that panicked does not.
    pub(crate) async fn on_request(
        &self,
        request: &mut Request<'_>,
        reached: &mut usize,
        mishaps: &mut Vec<Mishap>,
    ) -> Option<Stop> {
        for &place in &self.0.request {
            // The one at work counts: if the request is given up meanwhile, it is to hear of that.
            *reached = place + 1;
            request.place = place;
            let stop = self.settle(place, "request", mishaps, |f| f.on_request(request)).await;
            if let Some((stop, panicked)) = stop {
                *reached -= usize::from(panicked);
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

    /// Runs the request body hooks on a piece. Its length changes only if it `may_change`.
    pub(crate) async fn on_request_body(
        &self,
        piece: &mut RequestBody<'_>,
        may_change: bool,
        mishaps: &mut Vec<Mishap>,
    ) -> Option<Stop> {
        for &place in &self.0.request_body {
            piece.place = place;
            let before = piece.data.len();
            let stop = self.settle(place, "request body", mishaps, |f| f.on_request_body(piece));
            if let Some((stop, _)) = stop.await {
                return Some(stop);
            }
            if before != piece.data.len() && !may_change {
                let place = &self.0.places[place];
                let text = CHANGED_LENGTH.to_owned();
                mishaps.push(Mishap::failure(place.filter.name(), "request body", text));
                place.count(Reason::InternalError);
                return Some(Stop::Answer(Answer::error(Reason::InternalError)));
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
        mishaps: &mut Vec<Mishap>,
    ) -> Option<Stop> {
        for &place in &self.0.upstream_request {
            request.place = place;
            let stop = self
                .settle(place, "upstream request", mishaps, |f| f.on_upstream_request(request))
                .await;
            if let Some((stop, _)) = stop {
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
        mishaps: &mut Vec<Mishap>,
    ) -> Option<Stop> {
        for &place in self.0.response.iter().rev().filter(|place| **place < *left) {
            response.place = place;
            let stop = self.settle(place, "response", mishaps, |f| f.on_response(response)).await;
            if let Some((stop, _)) = stop {
                *left = place;
                return Some(stop);
            }
        }
        None
    }

    /// Runs the response body hooks of the first `count` filters, the last first. An error says that
    /// the response must break off.
    pub(crate) fn on_response_body(
        &self,
        piece: &mut ResponseBody<'_>,
        count: usize,
        may_change: bool,
        mishaps: &mut Vec<Mishap>,
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
            let (name, hook) = (place.filter.name(), "response body");
            let mishap = match result {
                Ok(Ok(())) if before == piece.data.len() || may_change => continue,
                Ok(Ok(())) => Mishap::failure(name, hook, CHANGED_LENGTH.to_owned()),
                Ok(Err(failure)) => Mishap::failure(name, hook, said(&failure)),
                Err(panic) => Mishap::panic(name, hook, &*panic),
            };
            let reason = mishap.reason();
            place.count(reason);
            mishaps.push(mishap);
            return Err(reason);
        }
        Ok(())
    }

    /// Runs the log hooks of the first `count` filters. One that panics keeps no other from its own.
    pub(crate) fn on_log(&self, ended: &mut Ended<'_>, count: usize, mishaps: &mut Vec<Mishap>) {
        for (index, place) in self.0.places.iter().enumerate().take(count) {
            if !place.log.load(Relaxed) {
                continue;
            }
            ended.place = index;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| place.filter.on_log(ended))) {
                mishaps.push(Mishap::panic(place.filter.name(), "log", &*panic));
            }
            if ended.unimplemented.take() {
                place.log.store(false, Relaxed);
            }
        }
    }

    /// Runs a hook of the filter at `place`, and counts its answer.
    async fn settle<'a>(
        &'a self,
        place: usize,
        hook: &'static str,
        mishaps: &mut Vec<Mishap>,
        call: impl FnOnce(&'a dyn Erased) -> Hooked<'a>,
    ) -> Option<(Stop, bool)> {
        let stopped = self.run(place, hook, mishaps, call).await;
        if let Some((Stop::Answer(answer), _)) = &stopped {
            self.0.places[place].count(answer.reason());
        }
        stopped
    }

    /// Runs a hook of the filter at `place`. Whatever it does other than let the request go on
    /// comes back as a stop, with whether it panicked.
    pub(super) async fn run<'a>(
        &'a self,
        place: usize,
        hook: &'static str,
        mishaps: &mut Vec<Mishap>,
        call: impl FnOnce(&'a dyn Erased) -> Hooked<'a>,
    ) -> Option<(Stop, bool)> {
        let filter = &*self.0.places[place].filter;
        let mishap = match caught(|| call(filter)).await {
            Ok(Ok(Flow::Continue)) => return None,
            Ok(Ok(Flow::Answer(answer)) | Err(Failure(Kind::Answer(answer)))) => {
                return Some((Stop::Answer(answer), false));
            }
            Ok(Err(Failure(Kind::Connection(error)))) => {
                return Some((Stop::Connection(error), false));
            }
            Ok(Err(failure)) => Mishap::failure(filter.name(), hook, said(&failure)),
            Err(panic) => Mishap::panic(filter.name(), hook, &*panic),
        };
        let stop = Stop::Answer(Answer::error(mishap.reason()));
        let panicked = mishap.panicked;
        mishaps.push(mishap);
        Some((stop, panicked))
    }
}

impl Inner {
    fn push(&mut self, Instance { filter, pools, files, settings }: Instance) {
        let (place, hooks) = (self.places.len(), filter.hooks());
        for (implemented, places) in [
            (hooks.request, &mut self.request),
            (hooks.request_body, &mut self.request_body),
            (hooks.upstream_request, &mut self.upstream_request),
            (hooks.response, &mut self.response),
        ] {
            if implemented {
                places.push(place);
            }
        }
        self.pools.extend(pools);
        self.files.extend(files);
        let (response_body, log) = (AtomicBool::new(true), AtomicBool::new(true));
        let answers = Arc::default();
        self.places.push(Place { filter, settings, response_body, log, answers });
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

fn said(failure: &Failure) -> String {
    match &failure.0 {
        Kind::Error(error) => error.to_string(),
        Kind::Answer(answer) => format!("it would answer {}", answer.status()),
        Kind::Connection(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{Facts, Outcome, Passage, Progress, erased::Hooks};
    use http::{HeaderValue, StatusCode};
    use pingora::http::{RequestHeader, ResponseHeader};
    use std::{
        sync::atomic::AtomicUsize,
        time::{Duration, Instant},
    };

    /// A filter of which nothing is implemented, and that counts how often it is called all the same.
    #[derive(Clone, Default)]
    struct Unimplemented(Arc<AtomicUsize>);

    impl Unimplemented {
        fn called<'a>(&self) -> Hooked<'a> {
            self.0.fetch_add(1, Relaxed);
            Box::pin(async { Ok(Flow::Continue) })
        }
    }

    impl Erased for Unimplemented {
        fn name(&self) -> &'static str {
            "unimplemented"
        }

        fn hooks(&self) -> Hooks {
            Hooks { request: false, request_body: false, upstream_request: false, response: false }
        }

        fn has_side_effects(&self) -> bool {
            true
        }

        fn as_any(&self) -> &dyn Any {
            self
        }

        fn adopt(&mut self, _: &dyn Erased) {}

        fn on_request<'a>(&'a self, _: &'a mut Request<'_>) -> Hooked<'a> {
            self.called()
        }

        fn on_request_body<'a>(&'a self, _: &'a mut RequestBody<'_>) -> Hooked<'a> {
            self.called()
        }

        fn on_upstream_request<'a>(&'a self, _: &'a mut UpstreamRequest<'_>) -> Hooked<'a> {
            self.called()
        }

        fn on_response<'a>(&'a self, _: &'a mut Response<'_>) -> Hooked<'a> {
            self.called()
        }

        fn on_response_body(&self, piece: &mut ResponseBody<'_>) -> Result<()> {
            piece.unimplemented = true;
            drop(self.called());
            Ok(())
        }

        fn on_log(&self, ended: &Ended<'_>) {
            ended.unimplemented.set(true);
            drop(self.called());
        }
    }

    /// Has a request and its response pass, as the proxy does.
    async fn pass(chain: &Chain) {
        let request_id = HeaderValue::from_static("id");
        let (mut progress, mut rewritten) = (Progress::default(), None);
        let facts = Facts {
            client_ip: None,
            scheme: "http",
            tls: None,
            listener: "web",
            route: "route-1",
            request_id: &request_id,
            received: Instant::now(),
        };
        let mut passage = Passage {
            chain,
            facts,
            progress: &mut progress,
            rewritten: &mut rewritten,
            pool: None,
            backend: None,
            tries: 1,
        };
        let mut request = RequestHeader::build("POST", b"/", None).unwrap();
        let mut response = ResponseHeader::build(200, None).unwrap();
        assert!(passage.request(&mut Head(request.clone())).await.is_none());
        let asked = request.clone();
        assert!(passage.upstream_request(&asked, &mut request).await.is_none());
        let mut body = Some(bytes::Bytes::from_static(b"hello"));
        assert!(passage.request_body(&mut body, true).await.is_none());
        assert!(passage.response(&request, &mut response, None).await.is_none());
        passage.response_body(&mut body, true).unwrap();
        assert_eq!(body.as_deref(), Some(&b"hello"[..]));
        passage.log(
            Some(&request),
            &Outcome {
                status: StatusCode::OK,
                reason: Reason::Ok,
                duration: Duration::ZERO,
                bytes_in: 5,
                bytes_out: 5,
            },
        );
    }

    struct Head(RequestHeader);

    impl crate::filter::Incoming for Head {
        fn head(&self) -> &RequestHeader {
            &self.0
        }

        fn head_mut(&mut self) -> &mut RequestHeader {
            &mut self.0
        }

        fn read_body(&mut self, _: usize) -> crate::filter::Reading<'_> {
            Box::pin(async { Ok(None) })
        }
    }

    #[tokio::test]
    async fn hooks_that_are_not_implemented_are_not_called() {
        let filter = Unimplemented::default();
        let instance = Instance {
            filter: Box::new(filter.clone()),
            pools: Vec::new(),
            files: Vec::new(),
            settings: Shown::default(),
        };
        let chain = Chain::new(vec![instance]);
        pass(&chain).await;
        // The two that cannot wait say so when they are called for the first time.
        assert_eq!(filter.0.load(Relaxed), 2);
        pass(&chain).await;
        assert_eq!(filter.0.load(Relaxed), 2);
    }
}

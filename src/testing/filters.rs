//! Filters without a socket.

use super::message::{Request, Response, text_of};
use crate::{
    App,
    config::{self, ConfigErrors},
    filter::{
        self, Answer, Chain, Described, Facts, Filter, Mishap, Passage, Progress, Reason,
        SettingsError, Setup, Stop,
    },
    model::PoolName,
    proxy::own_response,
    route::normal_path,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use pingora::http::{RequestHeader, ResponseHeader};
use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    thread,
    time::Instant,
};

const LISTENER: &str = "web";
const ROUTE: &str = "route-1";
const POOL: &str = "app";
const BACKEND: &str = "backend-1";
/// The id of every request.
static REQUEST_ID: HeaderValue = HeaderValue::from_static("0123456789abcdef0123456789abcdef");
const MADE: &str = "what a request or a response of a test is made of was checked";

/// The filters of a route.
///
/// They are made in the order of the calls, and keep what they keep from one run to the next, as in a
/// balancer.
#[derive(Debug)]
pub struct Filters {
    pools: Vec<PoolName>,
    chain: Chain,
}

impl Default for Filters {
    fn default() -> Self {
        Self::new()
    }
}

impl Filters {
    /// None yet, on a route to the pool `app`.
    pub fn new() -> Self {
        Self::with_pools([POOL])
    }

    /// None yet, in a configuration with these pools. The route leads to the first.
    ///
    /// # Panics
    /// If there is none, or if one of them is no name.
    #[track_caller]
    pub fn with_pools<'p>(pools: impl IntoIterator<Item = &'p str>) -> Self {
        let name = |name: &str| PoolName::try_new(name).expect("the name of a pool");
        let pools: Vec<_> = pools.into_iter().map(name).collect();
        assert!(!pools.is_empty(), "a route leads to a pool");
        Self { pools, chain: Chain::default() }
    }

    /// With those that a configuration lists: `text` is what stands below `filters:`. `app` knows
    /// them by name. Relative paths start from the working directory.
    ///
    /// # Errors
    /// Every mistake in the text, with its place there, as for a configuration.
    pub fn yaml(mut self, app: &App, text: &str) -> Result<Self, ConfigErrors> {
        let base = std::env::current_dir().unwrap_or_else(|_| "/".into());
        let instances = config::parse_filters(text, &base, app.filters(), &self.pools)?;
        self.chain.append(instances);
        Ok(self)
    }

    /// With the filter `F`, made from its settings.
    ///
    /// # Errors
    /// When its constructor refuses them.
    pub fn and<F: Filter>(mut self, settings: F::Settings) -> Result<Self, SettingsError> {
        let mut setup = Setup::new(Path::new("."), &self.pools);
        let instance = filter::instance::<F>(settings, &mut setup)?;
        self.chain.append(vec![instance]);
        Ok(self)
    }

    /// Has them take over what outlives a reload from those of `predecessor`, as they do when the
    /// route of the same name has other filters after a reload.
    ///
    /// # Panics
    /// If a filter does.
    pub fn adopt(&mut self, predecessor: &Self) {
        self.chain.adopt(&predecessor.chain).unwrap_or_else(|mishap| panic!("{mishap}"));
    }

    /// Has `request` pass the filters, then `backend` answer it, and the response pass them too.
    /// What the proxy itself adds to either is not there.
    ///
    /// Waits for hooks that wait, on a thread and a Tokio runtime of its own.
    ///
    /// # Panics
    /// If the description is none: a target that does not begin with a slash, for one.
    pub fn run(&self, request: &Request, backend: impl Into<Backend>) -> Outcome {
        let backend = backend.into();
        thread::scope(|scope| {
            let work = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.expect("the system has room for a runtime");
                runtime.block_on(self.run_async(request, backend))
            };
            let ran = scope.spawn(work).join();
            ran.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The same on the caller's runtime, whose clock may be stopped.
    ///
    /// # Panics
    /// As for [`run`](Self::run).
    pub async fn run_async(&self, request: &Request, backend: impl Into<Backend>) -> Outcome {
        Run::new(self, request).finish(backend.into()).await
    }
}

/// What becomes of a request that the filters let go on.
#[derive(Clone, Debug)]
pub enum Backend {
    /// A backend gives this response.
    Answers(Response),
    /// No backend gets it, for this reason, and the balancer answers by itself.
    Fails(Reason),
}

impl From<Response> for Backend {
    fn from(response: Response) -> Self {
        Self::Answers(response)
    }
}

impl From<Reason> for Backend {
    fn from(reason: Reason) -> Self {
        Self::Fails(reason)
    }
}

/// A request as a backend would get it, without the fields that the proxy itself sets.
#[derive(Clone, Debug)]
pub struct Forwarded {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Bytes,
    pool: String,
    hash_key: Option<Vec<u8>>,
}

impl Forwarded {
    /// The method.
    pub fn method(&self) -> &str {
        self.method.as_str()
    }

    /// The path, with the query if there is one.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The header fields.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The value of a header field, if it is there and is text. Of several, the first.
    pub fn header(&self, name: &str) -> Option<&str> {
        text_of(&self.headers, name)
    }

    /// The whole body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The pool that it goes to.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// What a hashing policy would go by, if a filter said so.
    pub fn hash_key(&self) -> Option<&[u8]> {
        self.hash_key.as_deref()
    }
}

/// What came of a request.
#[derive(Clone, Debug)]
pub struct Outcome {
    forwarded: Option<Forwarded>,
    response: Response,
    reason: Reason,
    mishaps: Vec<Mishap>,
}

impl Outcome {
    /// The request that a backend gets; `None` if a filter answered, or no backend gets it.
    pub fn forwarded(&self) -> Option<&Forwarded> {
        self.forwarded.as_ref()
    }

    /// What the client gets. It is not complete if a filter broke it off.
    pub fn response(&self) -> &Response {
        &self.response
    }

    /// The status that the client gets.
    pub fn status(&self) -> u16 {
        self.response.status()
    }

    /// The reason code, as the access log has it.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// What went wrong in hooks: panics and errors. The error log of a balancer has each in a line.
    pub fn mishaps(&self) -> &[Mishap] {
        &self.mishaps
    }
}

/// One request on its way.
struct Run<'r> {
    filters: &'r Filters,
    request: &'r Request,
    incoming: Described,
    progress: Progress,
    rewritten: Option<String>,
    began: Instant,
    /// Whether a backend was chosen.
    sent: bool,
    response: Response,
    reason: Reason,
}

impl<'r> Run<'r> {
    fn new(filters: &'r Filters, request: &'r Request) -> Self {
        let (path, query) = match request.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (request.target.as_str(), None),
        };
        let path = normal_path(path).expect("a target that begins with a slash");
        let rewritten = match path {
            Cow::Owned(path) => Some(query.map_or(path.clone(), |query| format!("{path}?{query}"))),
            Cow::Borrowed(_) => None,
        };
        Self {
            filters,
            request,
            incoming: Described { head: head_of(request), body: request.bytes() },
            progress: Progress::default(),
            rewritten,
            began: Instant::now(),
            sent: false,
            response: Response::new(200),
            reason: Reason::Ok,
        }
    }

    /// What the filters see and change, beside the head that they see.
    fn parts(&mut self) -> (Passage<'_>, &mut Described) {
        let chosen = self.progress.choices.pool.as_ref().map(|pool| pool.index);
        let pool = &self.filters.pools[chosen.unwrap_or(0)];
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let passage = Passage {
            chain: &self.filters.chain,
            facts: Facts {
                client_ip: self.request.client.or(Some(localhost)),
                scheme: "http",
                tls: None,
                listener: self.request.listener.as_deref().unwrap_or(LISTENER),
                route: ROUTE,
                request_id: &REQUEST_ID,
                received: self.request.received.unwrap_or(self.began),
            },
            progress: &mut self.progress,
            rewritten: &mut self.rewritten,
            pool: Some(pool.as_str()),
            backend: self.sent.then_some(BACKEND),
            tries: u32::from(self.sent),
        };
        (passage, &mut self.incoming)
    }

    async fn finish(mut self, backend: Backend) -> Outcome {
        let mut forwarded = None;
        let (mut passage, incoming) = self.parts();
        match (passage.request(incoming).await, backend) {
            (Some(stop), _) => self.answer(answer_of(stop)).await,
            (None, Backend::Fails(reason)) => self.answer(Answer::error(reason)).await,
            (None, Backend::Answers(response)) => match self.forward().await {
                Err(stop) => self.answer(answer_of(stop)).await,
                Ok(sent) => {
                    forwarded = Some(sent);
                    self.respond(response).await;
                }
            },
        }
        self.log();
        let Self { response, reason, .. } = self;
        Outcome { forwarded, response, reason, mishaps: self.progress.take_mishaps() }
    }

    /// Runs the hooks on the request that the backend gets, and on its body.
    async fn forward(&mut self) -> Result<Forwarded, Stop> {
        self.sent = true;
        self.progress.begin_try();
        let pieces = self.request.body.clone();
        let (mut passage, incoming) = self.parts();
        let mut head = incoming.head.clone();
        if let Some(target) = passage.rewritten.as_ref() {
            head.set_raw_path(target.as_bytes()).expect(MADE);
        }
        if let Some(stop) = passage.upstream_request(&incoming.head, &mut head).await {
            return Err(stop);
        }
        let last = pieces.len().saturating_sub(1);
        let mut body = Vec::new();
        for (index, piece) in pieces.into_iter().enumerate() {
            let mut piece = Some(piece);
            if let Some(stop) = passage.request_body(&mut piece, index == last).await {
                return Err(stop);
            }
            body.extend(piece);
        }
        let pool = passage.pool.unwrap_or_default().to_owned();
        let hash_key = passage.progress.choices.hash_key.clone();
        Ok(Forwarded {
            method: head.method.clone(),
            target: String::from_utf8_lossy(head.raw_path()).into_owned(),
            headers: head.headers.clone(),
            body: body.concat().into(),
            pool,
            hash_key,
        })
    }

    /// Runs the hooks on the response of the backend, and on its body.
    async fn respond(&mut self, response: Response) {
        let (mut passage, incoming) = self.parts();
        let mut head = response_head(&response);
        if let Some(stop) = passage.response(&incoming.head, &mut head, None).await {
            return self.answer(answer_of(stop)).await;
        }
        let bare = incoming.head.method == Method::HEAD || response.body.is_empty();
        let pieces = if bare { Vec::new() } else { response.body };
        let last = pieces.len().saturating_sub(1);
        let (mut body, mut broken) = (Vec::new(), None);
        for (index, piece) in pieces.into_iter().enumerate() {
            let mut piece = Some(piece);
            broken = passage.response_body(&mut piece, index == last).err();
            if broken.is_some() {
                break;
            }
            body.extend(piece);
        }
        self.reason = broken.unwrap_or(Reason::Ok);
        self.response = Response { complete: broken.is_none(), ..received(&head, body) };
    }

    /// Answers instead of a backend.
    async fn answer(&mut self, answer: Answer) {
        let (mut passage, incoming) = self.parts();
        let way = Some((&mut passage, &incoming.head));
        let (head, body, reason) = own_response(way, answer, &REQUEST_ID, false).await.expect(MADE);
        self.reason = reason;
        self.response = received(&head, vec![body]);
    }

    fn log(&mut self) {
        let (reason, duration) = (self.reason, self.began.elapsed());
        let status = self.response.status;
        let bytes_in = if self.sent { self.request.bytes().len() as u64 } else { 0 };
        let bytes_out = self.response.bytes().len() as u64;
        let outcome = filter::Outcome { status, reason, duration, bytes_in, bytes_out };
        let (mut passage, incoming) = self.parts();
        passage.log(Some(&incoming.head), &outcome);
    }
}

fn answer_of(stop: Stop) -> Answer {
    match stop {
        Stop::Answer(answer) => answer,
        Stop::Connection(error) => unreachable!("there is no connection that could break: {error}"),
    }
}

fn head_of(request: &Request) -> RequestHeader {
    let method = request.method.clone();
    let mut head = RequestHeader::build(method, request.target.as_bytes(), None).expect(MADE);
    for (name, value) in &request.headers {
        head.append_header(name.clone(), value.clone()).expect(MADE);
    }
    head
}

fn response_head(response: &Response) -> ResponseHeader {
    let mut head = ResponseHeader::build(response.status, None).expect(MADE);
    for (name, value) in &response.headers {
        head.append_header(name.clone(), value.clone()).expect(MADE);
    }
    head
}

fn received(head: &ResponseHeader, body: Vec<Bytes>) -> Response {
    let headers = head.headers.clone();
    Response { status: head.status, headers, body, complete: true }
}

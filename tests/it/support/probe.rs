//! Filters for tests, and a balancer in this process that has them.

use super::{address::Address, client::Client, eventually};
use http::StatusCode;
use pingora_lb::{
    App,
    filter::{
        Answer, Ended, Filter, Flow, Request, RequestBody, Response, ResponseBody, Result,
        SettingsError, Setup, UpstreamRequest,
    },
    testing::Balancer,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Mutex, Once,
        atomic::{AtomicUsize, Ordering},
    },
};

/// What the probes have seen, each with the journal that it is for.
static JOURNALS: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());
/// What this process has logged at level warn and above.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            LOG.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// The lines of this process's log that contain `text`.
pub fn logged(text: &str) -> Vec<String> {
    let lines = LOG.lock().unwrap();
    lines.iter().filter(|line| line.contains(text)).cloned().collect()
}

/// A name that no other test in this process has.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What happened to the probes of one test.
pub struct Journal(pub String);

impl Journal {
    pub fn new() -> Self {
        Self(unique("journal"))
    }

    pub fn events(&self) -> Vec<String> {
        let events = JOURNALS.lock().unwrap();
        let mine = events.iter().filter(|(journal, _)| *journal == self.0);
        mine.map(|(_, event)| event.clone()).collect()
    }

    /// The events that contain `text`.
    pub fn with(&self, text: &str) -> Vec<String> {
        let mut events = self.events();
        events.retain(|event| event.contains(text));
        events
    }

    /// Waits until an event contains `text`, and returns the first.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        eventually(&format!("{text:?} in {:?}", self.0), || !self.with(text).is_empty());
        self.with(text).remove(0)
    }

    /// A probe with this tag and these settings, as an entry of `filters:`.
    pub fn probe(&self, tag: &str, settings: &str) -> String {
        format!("- probe: {{ tag: {tag}, journal: {}, {settings} }}", self.0).replace(",  }", " }")
    }
}

fn note(journal: &str, event: String) {
    JOURNALS.lock().unwrap().push((journal.to_owned(), event));
}

/// What a probe does in a hook, beside noting that it was called.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Act {
    Panic,
    /// After the hook has waited.
    PanicLater,
    Error,
    Answer(u16),
    /// Never goes on.
    Hang,
}

/// Settings of [`Probe`].
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    tag: String,
    journal: String,
    /// What is done in which hook.
    #[serde(default)]
    on: BTreeMap<String, Act>,
}

/// Notes every hook that is called, and does what it is told.
pub struct Probe(Settings);

/// Notes that it was dropped.
struct Kept(String, String);

impl Drop for Kept {
    fn drop(&mut self) {
        note(&self.0, format!("{} dropped", self.1));
    }
}

impl Probe {
    fn note(&self, event: &str) {
        note(&self.0.journal, format!("{} {event}", self.0.tag));
    }

    async fn act(&self, hook: &str) -> Result {
        match self.0.on.get(hook) {
            None => return Ok(Flow::Continue),
            Some(Act::PanicLater) => tokio::task::yield_now().await,
            Some(Act::Hang) => std::future::pending().await,
            Some(_) => {}
        }
        self.act_at_once(hook)
    }

    fn act_at_once(&self, hook: &str) -> Result {
        match self.0.on.get(hook) {
            None | Some(Act::Hang) => Ok(Flow::Continue),
            Some(Act::Panic | Act::PanicLater) => panic!("told to in {hook}"),
            Some(Act::Error) => Err(std::io::Error::other(format!("told to in {hook}")).into()),
            Some(Act::Answer(status)) => {
                Ok(Answer::new(StatusCode::from_u16(*status).unwrap()).into())
            }
        }
    }
}

impl Filter for Probe {
    const NAME: &'static str = "probe";
    type Settings = Settings;

    fn new(settings: Settings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Ok(Self(settings))
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Result {
        self.note("request");
        request.keep(Kept(self.0.journal.clone(), self.0.tag.clone()));
        self.act("request").await
    }

    async fn on_request_body(&self, piece: &mut RequestBody<'_>) -> Result {
        assert!(piece.kept::<Kept>().is_some());
        let (offset, length) = (piece.offset(), piece.data().len());
        self.note(&format!("request_body {offset}+{length} end={}", piece.is_end()));
        self.act("request_body").await
    }

    async fn on_upstream_request(&self, request: &mut UpstreamRequest<'_>) -> Result {
        assert!(request.kept::<Kept>().is_some());
        self.note(&format!("upstream_request {} {}", request.tries(), request.backend()));
        self.act("upstream_request").await
    }

    async fn on_response(&self, response: &mut Response<'_>) -> Result {
        let reason = response.reason().map_or("backend", |reason| reason.as_str());
        self.note(&format!("response {} {reason}", response.status().as_u16()));
        response.add_header("x-probe", self.0.tag.as_str())?;
        self.act("response").await
    }

    fn on_response_body(&self, piece: &mut ResponseBody<'_>) -> Result<()> {
        self.note(&format!("response_body {} end={}", piece.data().len(), piece.is_end()));
        match self.act_at_once("response_body")? {
            Flow::Continue => Ok(()),
            Flow::Answer(answer) => Err(answer.into()),
        }
    }

    fn on_log(&self, ended: &Ended<'_>) {
        let mut line = format!("log {} {}", ended.status().as_u16(), ended.reason().as_str());
        let (bytes_in, bytes_out) = (ended.bytes_in(), ended.bytes_out());
        write!(line, " in={bytes_in} out={bytes_out} tries={}", ended.tries()).unwrap();
        write!(line, " {}", ended.request_id()).unwrap();
        self.note(&line);
        // What it would answer is for nobody any more.
        let _ = self.act_at_once("log").is_ok();
    }
}

/// The balancer with the probe.
pub fn app() -> App {
    static LOGGER: Once = Once::new();
    LOGGER.call_once(|| {
        log::set_logger(&Logger).expect("nobody else sets a logger in this process");
        log::set_max_level(log::LevelFilter::Warn);
    });
    App::new().filter::<Probe>()
}

/// Runs a configuration in this process. In the text, `@FILTERS@` is this list of filters.
#[track_caller]
pub fn balancer(app: &App, text: &str, filters: &[String]) -> Balancer {
    let text = text.replace("@FILTERS@", &list(filters, 6));
    Balancer::start(app, &text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Runs one route with these filters to one pool in this process, with further keys of the route and
/// of the pool.
#[track_caller]
pub fn one_route(app: &App, filters: &[String], backends: &[String], more: &str) -> Balancer {
    balancer(app, &one_route_text(backends, more), filters)
}

/// The configuration of [`one_route`]. Lines of `more` that begin with `pool.` belong to the pool, those
/// with `listener.` to the listener.
pub fn one_route_text(backends: &[String], more: &str) -> String {
    let keys = |owner: &str| -> String {
        let lines = more.lines().map(str::trim).filter_map(|line| line.strip_prefix(owner));
        lines.fold(String::new(), |all, line| all + "\n    " + line)
    };
    let route = more.lines().map(str::trim).filter_map(|line| line.strip_prefix("route."));
    let route = route.fold(String::new(), |all, line| all + "\n    " + line);
    format!(
        "listeners:\n  web:\n    address: 127.0.0.1:0{}\nroutes:\n  - filters:\n@FILTERS@\n    \
         pool: app{route}\npools:\n  app:\n    backends: [{}]{}\n",
        keys("listener."),
        backends.join(", "),
        keys("pool."),
    )
}

/// A list in YAML, indented.
fn list(entries: &[String], indent: usize) -> String {
    let lines = entries.iter().map(|entry| " ".repeat(indent) + entry);
    lines.collect::<Vec<_>>().join("\n")
}

/// A raw client of the listener `web`.
#[track_caller]
pub fn client(balancer: &Balancer) -> Client {
    Client::connect(&web(balancer))
}

/// The address of the listener `web`.
pub fn web(balancer: &Balancer) -> Address {
    Address::Tcp(balancer.address("web"))
}

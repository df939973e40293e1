//! Filters: steps on a route that inspect, change or answer requests and responses.
//!
//! [`Filter`] is the one trait; the built-in filters implement it and use nothing else. A filter is
//! made from its settings in the configuration when the file is read, and is then shared by all the
//! requests of its route. [`Registry`] knows the filters by name, and [`Chain`] runs those of a
//! route.
//!
//! A hook is given one argument, which has what may be seen and changed at that moment:
//!
//! | hook | when | argument |
//! |---|---|---|
//! | [`on_request`](Filter::on_request) | the route is found, no backend is chosen yet | [`Request`] |
//! | [`on_request_body`](Filter::on_request_body) | a piece of the body goes to the backend | [`RequestBody`] |
//! | [`on_upstream_request`](Filter::on_upstream_request) | the request is about to go to a backend, once a try | [`UpstreamRequest`] |
//! | [`on_response`](Filter::on_response) | a response is about to go to the client | [`Response`] |
//! | [`on_response_body`](Filter::on_response_body) | a piece of its body is | [`ResponseBody`] |
//! | [`on_log`](Filter::on_log) | the request is over, however it ended | [`Ended`] |
//!
//! Requests pass the filters in the order of the file, responses in reverse. Our own answers, errors
//! included, pass the response hooks of the filters that the request came to.

mod answer;
pub(crate) mod builtin;
mod chain;
mod erased;
mod facts;
mod fields;
mod flow;
mod passage;
mod registry;
mod rehearsal;
mod request;
mod response;
pub mod settings;

pub use crate::model::Reason;
pub use answer::Answer;
pub use chain::{Chain, Mishap};
pub use fields::FieldError;
pub use flow::{Failure, Flow, Result};
pub use registry::{PoolRef, Registry, SettingsError, Setup};
pub use request::{MAX_READ_AHEAD, Request, RequestBody, TargetError, UpstreamRequest};
pub use response::{Ended, Response, ResponseBody};

pub(crate) use chain::{Instance, Shown, Stop};
pub(crate) use facts::{Facts, Variables};
pub(crate) use passage::{Outcome, Passage, Progress};
pub(crate) use registry::instance;
pub(crate) use rehearsal::{Effect, Step};
pub(crate) use request::{Described, Incoming, Reading, cookie_of, host_of, target_of};

use erased::NotImplemented;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use std::future::Future;

/// A filter.
///
/// Every hook is optional. Those that may have to wait are async. A hook that is not implemented
/// costs nothing: the chain of a route knows it and does not call it.
///
/// A hook that panics costs that request a 500 with the reason `filter_panic`, and nothing else.
///
/// # Example
///
/// A filter that wants a key. `deny_unknown_fields` makes a misspelt setting an error.
///
/// ```
/// use http::StatusCode;
/// use pingora_lb::filter::{Answer, Filter, Flow, Request, Result, SettingsError, Setup};
/// use schemars::JsonSchema;
/// use serde::Deserialize;
///
/// /// Lets in who has one of the keys.
/// struct ApiKey(Settings);
///
/// #[derive(Deserialize, JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct Settings {
///     /// The keys that are let in.
///     keys: Vec<String>,
/// }
///
/// impl Filter for ApiKey {
///     const NAME: &'static str = "api_key";
///     type Settings = Settings;
///
///     fn new(settings: Settings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
///         Ok(Self(settings))
///     }
///
///     async fn on_request(&self, request: &mut Request<'_>) -> Result<Flow> {
///         let key = request.header("x-api-key").unwrap_or_default();
///         if self.0.keys.iter().any(|known| known == key) {
///             return Ok(Flow::Continue);
///         }
///         Ok(Answer::new(StatusCode::UNAUTHORIZED).into())
///     }
/// }
/// ```
///
/// `pingora_lb::App::new().filter::<ApiKey>().run()` makes it known, and a route has it with
/// `filters: [{ api_key: { keys: [secret] } }]`.
pub trait Filter: Sized + Send + Sync + 'static {
    /// The name in the configuration: lower-case letters, digits and underscores, a letter first.
    const NAME: &'static str;

    /// The settings in the configuration. A struct needs `#[serde(deny_unknown_fields)]`, which is
    /// checked when the filter is made known. [`settings`] has types for durations, sizes, paths of
    /// files and the like. A filter without settings has [`settings::NoSettings`].
    type Settings: DeserializeOwned + JsonSchema;

    /// Whether its request hook does more than look at the request and decide: counts it, keeps
    /// something of it, tells somebody. Of a filter that says `false`, `pingora-lb explain` runs the
    /// request hook on the request that is described and shows what comes of it; of others it only
    /// says that they would see the request.
    const HAS_SIDE_EFFECTS: bool = true;

    /// Makes the filter from its settings, when a configuration is read; `-t` does so, too. It must
    /// not act on the outside world, as the configuration may come to nothing.
    ///
    /// # Errors
    /// When the settings cannot work. [`SettingsError::at`] says which one.
    fn new(settings: Self::Settings, setup: &mut Setup<'_>) -> Result<Self, SettingsError>;

    /// Takes over what must outlive a reload, such as counters and buckets, from the filter that was
    /// at this place in the route of the same name before. It is still in use by the requests that
    /// came before the reload, so what is taken over is shared, usually behind an `Arc`.
    fn adopt(&mut self, predecessor: &Self) {
        let _ = predecessor;
    }

    /// A request whose route was found. No backend is chosen yet.
    fn on_request(&self, request: &mut Request<'_>) -> impl Future<Output = Result> + Send {
        let _ = request;
        NotImplemented
    }

    /// A piece of the body on its way to the backend. A retry sends the pieces anew. It is not
    /// called for a request without a body.
    fn on_request_body(&self, piece: &mut RequestBody<'_>) -> impl Future<Output = Result> + Send {
        let _ = piece;
        NotImplemented
    }

    /// The request that a backend is about to get. It runs for each try, on what the client sent and
    /// what the proxy adds.
    fn on_upstream_request(
        &self,
        request: &mut UpstreamRequest<'_>,
    ) -> impl Future<Output = Result> + Send {
        let _ = request;
        NotImplemented
    }

    /// A response on its way to the client. With [`Flow::Answer`] the client gets that instead, and
    /// what is left of a backend's response is thrown away.
    fn on_response(&self, response: &mut Response<'_>) -> impl Future<Output = Result> + Send {
        let _ = response;
        NotImplemented
    }

    /// A piece of the response's body. This hook cannot wait: Pingora's is synchronous.
    ///
    /// # Errors
    /// The response has begun, so an error breaks it off.
    fn on_response_body(&self, piece: &mut ResponseBody<'_>) -> Result<()> {
        piece.unimplemented = true;
        Ok(())
    }

    /// The request is over. This hook cannot wait: hand work on to a task or a thread.
    fn on_log(&self, ended: &Ended<'_>) {
        ended.unimplemented.set(true);
    }
}

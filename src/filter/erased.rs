//! Filters of any type behind one object type.

use super::{
    Ended, Filter, Flow, Request, RequestBody, Response, ResponseBody, UpstreamRequest,
    flow::Result,
};
use std::{
    any::{Any, type_name},
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

pub(crate) type Hooked<'a> = Pin<Box<dyn Future<Output = Result> + Send + 'a>>;

/// A filter whose type is forgotten.
pub(crate) trait Erased: Send + Sync {
    fn name(&self) -> &'static str;
    fn hooks(&self) -> Hooks;
    fn has_side_effects(&self) -> bool;
    fn as_any(&self) -> &dyn Any;
    fn adopt(&mut self, predecessor: &dyn Erased);
    fn on_request<'a>(&'a self, request: &'a mut Request<'_>) -> Hooked<'a>;
    fn on_request_body<'a>(&'a self, piece: &'a mut RequestBody<'_>) -> Hooked<'a>;
    fn on_upstream_request<'a>(&'a self, request: &'a mut UpstreamRequest<'_>) -> Hooked<'a>;
    fn on_response<'a>(&'a self, response: &'a mut Response<'_>) -> Hooked<'a>;
    fn on_response_body(&self, piece: &mut ResponseBody<'_>) -> Result<()>;
    fn on_log(&self, ended: &Ended<'_>);
}

impl<F: Filter> Erased for F {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn hooks(&self) -> Hooks {
        Hooks {
            request: implements::<&F, &mut Request<'_>, _>(F::on_request),
            request_body: implements::<&F, &mut RequestBody<'_>, _>(F::on_request_body),
            upstream_request: implements::<&F, &mut UpstreamRequest<'_>, _>(F::on_upstream_request),
            response: implements::<&F, &mut Response<'_>, _>(F::on_response),
        }
    }

    fn has_side_effects(&self) -> bool {
        F::HAS_SIDE_EFFECTS
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn adopt(&mut self, predecessor: &dyn Erased) {
        if let Some(predecessor) = predecessor.as_any().downcast_ref::<F>() {
            Filter::adopt(self, predecessor);
        }
    }

    fn on_request<'a>(&'a self, request: &'a mut Request<'_>) -> Hooked<'a> {
        Box::pin(Filter::on_request(self, request))
    }

    fn on_request_body<'a>(&'a self, piece: &'a mut RequestBody<'_>) -> Hooked<'a> {
        Box::pin(Filter::on_request_body(self, piece))
    }

    fn on_upstream_request<'a>(&'a self, request: &'a mut UpstreamRequest<'_>) -> Hooked<'a> {
        Box::pin(Filter::on_upstream_request(self, request))
    }

    fn on_response<'a>(&'a self, response: &'a mut Response<'_>) -> Hooked<'a> {
        Box::pin(Filter::on_response(self, response))
    }

    fn on_response_body(&self, piece: &mut ResponseBody<'_>) -> Result<()> {
        Filter::on_response_body(self, piece)
    }

    fn on_log(&self, ended: &Ended<'_>) {
        Filter::on_log(self, ended);
    }
}

/// Which async hooks a filter implements. The synchronous ones say so themselves when they are
/// called for the first time, as their types do not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a hook of its own")]
pub(crate) struct Hooks {
    pub(crate) request: bool,
    pub(crate) request_body: bool,
    pub(crate) upstream_request: bool,
    pub(crate) response: bool,
}

/// What the hooks of the trait itself return. It is how a hook that is not implemented is told from
/// one that is, without calling it.
pub(crate) struct NotImplemented;

impl Future for NotImplemented {
    type Output = Result;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result> {
        Poll::Ready(Ok(Flow::Continue))
    }
}

/// Whether a hook is another than the trait's own, by the type of the future that it returns. Names
/// of types are meant for people and may change with the compiler; if this one ever does, a hook is
/// called for nothing, and a test fails.
fn implements<A, B, R>(_: fn(A, B) -> R) -> bool {
    type_name::<R>() != type_name::<NotImplemented>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{SettingsError, Setup, settings};

    struct Nothing;

    impl Filter for Nothing {
        const NAME: &'static str = "nothing";
        type Settings = settings::NoSettings;

        fn new(_: settings::NoSettings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
            Ok(Self)
        }
    }

    struct Everything;

    impl Filter for Everything {
        const NAME: &'static str = "everything";
        type Settings = settings::NoSettings;

        fn new(_: settings::NoSettings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
            Ok(Self)
        }

        async fn on_request(&self, _: &mut Request<'_>) -> Result {
            Ok(Flow::Continue)
        }

        async fn on_request_body(&self, _: &mut RequestBody<'_>) -> Result {
            Ok(Flow::Continue)
        }

        async fn on_upstream_request(&self, _: &mut UpstreamRequest<'_>) -> Result {
            Ok(Flow::Continue)
        }

        async fn on_response(&self, _: &mut Response<'_>) -> Result {
            Ok(Flow::Continue)
        }
    }

    #[test]
    fn hooks_that_are_not_implemented_are_told_from_those_that_are() {
        let all = |is| Hooks { request: is, request_body: is, upstream_request: is, response: is };
        assert_eq!(Nothing.hooks(), all(false));
        assert_eq!(Everything.hooks(), all(true));
    }
}

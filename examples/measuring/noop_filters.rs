//! Filters that do nothing, to see what having filters costs.

use pingora_lb::filter::{
    Filter, Flow, Request, Response, Result, SettingsError, Setup, settings::NoSettings,
};

/// A filter without hooks.
pub struct Plain;

impl Filter for Plain {
    const NAME: &'static str = "plain";
    type Settings = NoSettings;

    fn new(_: NoSettings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Ok(Self)
    }
}

/// A filter whose request and response hooks do nothing.
pub struct Hooked;

impl Filter for Hooked {
    const NAME: &'static str = "hooked";
    type Settings = NoSettings;

    fn new(_: NoSettings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Ok(Self)
    }

    async fn on_request(&self, _: &mut Request<'_>) -> Result {
        Ok(Flow::Continue)
    }

    async fn on_response(&self, _: &mut Response<'_>) -> Result {
        Ok(Flow::Continue)
    }
}

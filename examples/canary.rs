//! A filter that sends some of the users to another pool: those who ask for it, and a share of the
//! others, always the same ones.
//!
//! ```sh
//! cargo run --example canary -- backend --port 9001 --name stable-1     # in another terminal
//! cargo run --example canary -- backend --port 9002 --name canary-1     # in a third
//! cargo run --example canary -- -c examples/conf/canary.yaml
//! curl -i -H 'x-canary: 1' http://127.0.0.1:8080/
//! curl -i -H 'x-user: ada' http://127.0.0.1:8080/
//! ```
//!
//! A share of the requests rather than of the users needs no filter: `split` in the configuration does
//! that.

use pingora_lb::{
    App,
    filter::{Filter, Flow, PoolRef, Request, Result, SettingsError, Setup, settings::FieldName},
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    process::ExitCode,
};

/// Sends some of the users to another pool.
struct Canary {
    pool: PoolRef,
    settings: Settings,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The pool that they go to.
    pool: String,
    /// Requests with this header field go there.
    header: FieldName,
    /// The header field that says who the user is.
    user: FieldName,
    /// How many of a hundred users go there.
    percent: u8,
}

impl Filter for Canary {
    const NAME: &'static str = "canary";
    type Settings = Settings;

    fn new(settings: Settings, setup: &mut Setup<'_>) -> Result<Self, SettingsError> {
        if settings.percent > 100 {
            return Err(SettingsError::new("more than all of them", "0 to 100").at("percent"));
        }
        let pool = setup.pool(&settings.pool).map_err(|error| error.at("pool"))?;
        Ok(Self { pool, settings })
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Result {
        let Settings { header, user, percent, .. } = &self.settings;
        let asks = request.headers().contains_key(&header.0);
        let user = request.headers().get(&user.0);
        if asks || user.is_some_and(|user| place(user.as_bytes()) < u64::from(*percent)) {
            request.set_pool(&self.pool);
        }
        Ok(Flow::Continue)
    }
}

/// A user's place among a hundred: the same in every process that this program is built for.
fn place(user: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    user.hash(&mut hasher);
    hasher.finish() % 100
}

fn main() -> ExitCode {
    App::new().filter::<Canary>().run()
}

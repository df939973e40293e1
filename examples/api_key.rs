//! A filter of one's own: it lets in who has a key.
//!
//! ```sh
//! cargo run --example api_key -- backend --port 9001 --name app-1     # in another terminal
//! cargo run --example api_key -- -c examples/conf/api_key.yaml
//! curl -i -H 'x-api-key: secret' http://127.0.0.1:8080/
//! ```
//!
//! Without the key, the answer is a 401. `-t` checks the file, the settings of the filter included.

use http::StatusCode;
use pingora_lb::{
    App,
    filter::{Answer, Filter, Flow, Request, Result, SettingsError, Setup},
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{collections::HashSet, process::ExitCode};

/// Lets in who has one of the keys in `x-api-key`.
struct ApiKey(HashSet<String>);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The keys that are let in.
    keys: HashSet<String>,
}

impl Filter for ApiKey {
    const NAME: &'static str = "api_key";
    type Settings = Settings;

    fn new(settings: Settings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        if settings.keys.iter().any(String::is_empty) {
            return Err(
                SettingsError::new("an empty key", "keys of at least one letter").at("keys")
            );
        }
        Ok(Self(settings.keys))
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Result {
        if !request.header("x-api-key").is_some_and(|key| self.0.contains(key)) {
            return Ok(Answer::new(StatusCode::UNAUTHORIZED).into());
        }
        // The backends need not know it.
        request.remove_header("x-api-key")?;
        Ok(Flow::Continue)
    }
}

fn main() -> ExitCode {
    App::new().filter::<ApiKey>().run()
}

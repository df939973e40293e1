//! A filter that routes by the body: a field of a JSON object says which pool gets the request.
//!
//! ```sh
//! cargo run --example route_by_json -- backend --port 9001 --name gold-1    # in another terminal
//! cargo run --example route_by_json -- backend --port 9002 --name app-1     # in a third
//! cargo run --example route_by_json -- -c examples/conf/route_by_json.yaml
//! curl -i --json '{"tier": "gold"}' http://127.0.0.1:8080/
//! ```
//!
//! The backend gets the body as it was sent, on a retry too. A body above 64 KiB is refused with 413,
//! as no more is kept.

use http::StatusCode;
use pingora_lb::{
    App,
    filter::{
        Answer, Filter, Flow, MAX_READ_AHEAD, PoolRef, Request, Result, SettingsError, Setup,
    },
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, process::ExitCode};

/// Sends a request to the pool that a field of its body says.
struct RouteByJson {
    field: String,
    pools: BTreeMap<String, PoolRef>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The field, at the top of the object.
    field: String,
    /// Its values, each with the pool that gets the request. Other values go where the route leads.
    pools: BTreeMap<String, String>,
}

impl Filter for RouteByJson {
    const NAME: &'static str = "route_by_json";
    type Settings = Settings;

    fn new(settings: Settings, setup: &mut Setup<'_>) -> Result<Self, SettingsError> {
        let mut pools = BTreeMap::new();
        for (value, name) in settings.pools {
            let pool = setup.pool(&name).map_err(|error| error.at(format!("pools.{value}")))?;
            pools.insert(value, pool);
        }
        Ok(Self { field: settings.field, pools })
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Result {
        let body = request.body(MAX_READ_AHEAD).await?;
        if body.is_empty() {
            return Ok(Flow::Continue);
        }
        let Ok(json) = serde_json::from_slice::<Value>(&body) else {
            return Ok(Answer::new(StatusCode::BAD_REQUEST).into());
        };
        let value = json.get(&self.field).and_then(Value::as_str);
        if let Some(pool) = value.and_then(|value| self.pools.get(value)) {
            request.set_pool(pool);
        }
        Ok(Flow::Continue)
    }
}

fn main() -> ExitCode {
    App::new().filter::<RouteByJson>().run()
}

//! `pingora-lb drain`, `enable` and `disable`: a backend of the running instance.

use super::client::{AdminArguments, part};
use crate::model::BackendState;
use clap::Args;
use http::Method;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Arguments of these commands.
#[derive(Debug, Args)]
pub(super) struct BackendChoice {
    /// The pool
    #[arg(value_name = "POOL")]
    pool: String,

    /// The backend, by its name in the configuration; without one there, that is its address
    #[arg(value_name = "BACKEND")]
    backend: String,

    #[command(flatten)]
    admin: AdminArguments,
}

impl BackendChoice {
    /// Has the backend be in `state`, and says how it is then.
    pub(super) fn set(&self, state: BackendState) -> Result<String, String> {
        let path = format!("/api/v1/pools/{}/backends/{}", part(&self.pool), part(&self.backend));
        let wanted = json!({ "state": state.as_str() });
        let answer = self.admin.client().ask(Method::PUT, &path, Some(&wanted))?;
        let backends = answer["backends"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(backends.iter().fold(String::new(), |text, backend| self.line(text, backend)))
    }

    fn line(&self, mut text: String, backend: &Value) -> String {
        let of = |key: &str| backend[key].as_str().unwrap_or_default();
        let (name, state, health) = (of("name"), of("state"), of("health"));
        let (pool, in_flight) = (&self.pool, &backend["in_flight"]);
        writeln!(text, "{name} of pool {pool}: {state}, {health}, {in_flight} in flight")
            .expect("writing to a String cannot fail");
        text
    }
}

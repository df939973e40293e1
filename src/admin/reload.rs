//! `POST /api/v1/reload`: the configuration read again, as on HUP.

use super::{
    Admin, NotReloaded,
    answer::{self, Answer, refusal},
};
use http::StatusCode;
use serde_json::json;

pub(super) async fn perform(admin: &Admin) -> Answer {
    match admin.instance.reload().await {
        Ok(changes) => {
            let hash = admin.instance.in_force().hash_text();
            answer::json(StatusCode::OK, &json!({ "changes": changes, "config_hash": hash }))
        }
        Err(NotReloaded::Invalid(problems)) => {
            let message = "nothing has changed: the configuration has errors";
            answer::invalid("invalid_configuration", message, &problems)
        }
        Err(NotReloaded::Fixed(problems)) => {
            let message =
                "nothing has changed: hand over to a new instance, started with -u, instead";
            answer::invalid("hand_over_needed", message, &problems)
        }
        Err(NotReloaded::Unable(message)) => {
            refusal(StatusCode::CONFLICT, "not_reloaded", &message)
        }
    }
}

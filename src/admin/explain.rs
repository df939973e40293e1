//! `POST /api/v1/explain`: what becomes of a request that is described. It changes nothing; it is a
//! POST because a request is described in a body.

use super::{
    Admin,
    answer::{self, Answer, refusal},
};
use crate::explain::{Description, NotExplained, State, explain};
use http::StatusCode;

pub(super) async fn perform(admin: &Admin, text: &str) -> Answer {
    let invalid = |message: &str| refusal(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message);
    let description: Description = match serde_json::from_str(text) {
        Ok(description) => description,
        Err(error) => return invalid(&error.to_string()),
    };
    let explanation = explain(&admin.live.load(), &description, State::Live).await;
    match explanation.map(serde_json::to_value) {
        Ok(Ok(explanation)) => answer::json(StatusCode::OK, &explanation),
        Ok(Err(error)) => invalid(&error.to_string()),
        Err(error @ NotExplained::Malformed(_)) => invalid(&error.to_string()),
        Err(NotExplained::NoListener(message)) => {
            refusal(StatusCode::UNPROCESSABLE_ENTITY, "no_listener", &message)
        }
    }
}

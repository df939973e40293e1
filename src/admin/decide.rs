//! What is decided of backends at run time.

use super::{
    Admin,
    answer::{self, Answer, refusal},
    body, pools,
};
use crate::pool::{Departure, Pool};
use http::StatusCode;
use hyper::body::Incoming;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// How often it is looked whether the last request on a backend that leaves is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The pool called `name` in the snapshot in force.
fn pool(admin: &Admin, name: &str) -> Result<Arc<Pool>, Box<Answer>> {
    let snapshot = admin.live.load();
    pools::find(&snapshot, name).cloned().ok_or_else(|| Box::new(pools::unknown(name)))
}

fn unknown(pool: &str, name: &str) -> Answer {
    answer::not_found(&format!("there is no backend {name} in pool {pool}"))
}

/// `PUT`: another state, another weight.
pub(super) async fn amend(admin: &Admin, of: &str, name: &str, text: Incoming) -> Answer {
    let text = match body::read(text).await {
        Ok(text) => text,
        Err(refusal) => return *refusal,
    };
    let pool = match pool(admin, of) {
        Ok(pool) => pool,
        Err(refusal) => return *refusal,
    };
    if !pool.has(name) {
        return unknown(of, name);
    }
    if pool.is_leaving(name) {
        let message = format!("backend {name} is being removed");
        return refusal(StatusCode::CONFLICT, "conflict", &message);
    }
    let amendment = match admin.instance.read_amendment(&text) {
        Ok(amendment) => amendment,
        Err(problems) => return answer::invalid("invalid", "nothing has changed", &problems),
    };
    let Some(members) = pool.amend(name, amendment) else { return unknown(of, name) };
    if let Some(state) = amendment.state {
        log::info!("admin: backend {name} of pool {of} is {} now", state.as_str());
    }
    if let Some(weight) = amendment.weight {
        log::info!("admin: backend {name} of pool {of} has weight {} now", weight.get());
    }
    let backends = pools::backends(&members, pool.now());
    answer::json(StatusCode::OK, &json!({ "backends": backends }))
}

/// `POST`: another backend.
pub(super) async fn add(admin: &Admin, of: &str, text: Incoming) -> Answer {
    let text = match body::read(text).await {
        Ok(text) => text,
        Err(refusal) => return *refusal,
    };
    let pool = match pool(admin, of) {
        Ok(pool) => pool,
        Err(refusal) => return *refusal,
    };
    let backend = match admin.instance.read_backend(&text) {
        Ok(backend) => backend,
        Err(problems) => return answer::invalid("invalid", "nothing has changed", &problems),
    };
    let (name, address) = (backend.name.clone(), backend.address.to_string());
    match pool.add(backend).await {
        Ok(members) => {
            log::info!("admin: backend {name} ({address}) is in pool {of} now");
            let backends = pools::backends(&members, pool.now());
            answer::json(StatusCode::CREATED, &json!({ "backends": backends }))
        }
        Err(taken) => refusal(StatusCode::CONFLICT, "conflict", &taken.to_string()),
    }
}

/// `DELETE`: the backend gets no requests, and goes when its last one is over.
pub(super) async fn remove(admin: &Arc<Admin>, of: &str, name: &str) -> Answer {
    let pool = match pool(admin, of) {
        Ok(pool) => pool,
        Err(refusal) => return *refusal,
    };
    let Some(departure) = pool.dismiss(name) else { return unknown(of, name) };
    let in_flight = departure.in_flight();
    log::info!("admin: backend {name} leaves pool {of}, with {in_flight} requests in flight");
    let (status, removed) = if in_flight == 0 {
        finish(admin, &pool, &departure).await;
        (StatusCode::OK, true)
    } else {
        tokio::spawn(see_out(admin.clone(), pool, departure));
        (StatusCode::ACCEPTED, false)
    };
    answer::json(status, &json!({ "removed": removed, "in_flight": in_flight }))
}

/// Waits for the last request, but no longer than work may take that is to end.
async fn see_out(admin: Arc<Admin>, pool: Arc<Pool>, departure: Departure) {
    let deadline = Instant::now() + admin.instance.drain_timeout();
    while departure.in_flight() > 0 && Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    finish(&admin, &pool, &departure).await;
}

/// After a reload, the pool in force may be another one of the same name, or none.
async fn finish(admin: &Admin, before: &Arc<Pool>, departure: &Departure) {
    let snapshot = admin.live.load();
    let pool = pools::find(&snapshot, before.spec().name.as_str()).unwrap_or(before);
    pool.remove(departure).await;
}

//! What is decided of backends at run time.

use super::{
    Admin,
    answer::{self, Answer, refusal},
    pools,
};
use crate::pool::{Departure, Pool};
use http::StatusCode;
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

fn unknown(pool: &str, name: &str) -> Box<Answer> {
    Box::new(answer::not_found(&format!("there is no backend {name} in pool {pool}")))
}

fn conflict(message: &str) -> Box<Answer> {
    Box::new(refusal(StatusCode::CONFLICT, "conflict", message))
}

/// `PUT`: another state, another weight.
pub(super) fn amend(
    admin: &Admin,
    of: &str,
    name: &str,
    text: &str,
) -> Result<Answer, Box<Answer>> {
    let pool = pool(admin, of)?;
    if !pool.has(name) {
        return Err(unknown(of, name));
    }
    if pool.is_leaving(name) {
        return Err(conflict(&format!("backend {name} is being removed")));
    }
    let amendment =
        admin.instance.read_amendment(text).map_err(|problems| answer::unchanged(&problems))?;
    let members = pool.amend(name, amendment).ok_or_else(|| unknown(of, name))?;
    if let Some(state) = amendment.state {
        log::info!("admin: backend {name} of pool {of} is {} now", state.as_str());
    }
    if let Some(weight) = amendment.weight {
        log::info!("admin: backend {name} of pool {of} has weight {} now", weight.get());
    }
    let backends = pools::backends(&members, pool.now());
    Ok(answer::json(StatusCode::OK, &json!({ "backends": backends })))
}

/// `POST`: another backend.
pub(super) async fn add(admin: &Admin, of: &str, text: &str) -> Result<Answer, Box<Answer>> {
    let pool = pool(admin, of)?;
    let backend =
        admin.instance.read_backend(text).map_err(|problems| answer::unchanged(&problems))?;
    let (name, address) = (backend.name.clone(), backend.address.to_string());
    let added = pool.add(backend).await;
    let members = added.map_err(|taken| conflict(&taken.to_string()))?;
    log::info!("admin: backend {name} ({address}) is in pool {of} now");
    let backends = pools::backends(&members, pool.now());
    Ok(answer::json(StatusCode::CREATED, &json!({ "backends": backends })))
}

/// `DELETE`: the backend gets no requests, and goes when its last one is over.
pub(super) async fn remove(
    admin: &Arc<Admin>,
    of: &str,
    name: &str,
) -> Result<Answer, Box<Answer>> {
    let pool = pool(admin, of)?;
    let departure = pool.dismiss(name).ok_or_else(|| unknown(of, name))?;
    let in_flight = departure.in_flight();
    log::info!("admin: backend {name} leaves pool {of}, with {in_flight} requests in flight");
    let (status, removed) = if in_flight == 0 {
        finish(admin, &pool, &departure).await;
        (StatusCode::OK, true)
    } else {
        tokio::spawn(see_out(admin.clone(), pool, departure));
        (StatusCode::ACCEPTED, false)
    };
    Ok(answer::json(status, &json!({ "removed": removed, "in_flight": in_flight })))
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

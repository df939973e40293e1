//! What the balancer tells of itself: the access log and the error log.
//!
//! A leaf: anything may import it, and it imports only the model. Observing never slows down or
//! fails what is observed; what cannot be written is dropped and counted.

mod access_log;
pub mod error_log;
mod output;
mod queue;
mod sink;

pub use access_log::{AccessLog, AccessRecord};

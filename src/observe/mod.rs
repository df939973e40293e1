//! What the balancer tells of itself: the access log, the error log and metrics.
//!
//! A leaf: anything may import it, and it imports only the model. Observing never slows down or
//! fails what is observed; what cannot be written is dropped and counted.

mod access_log;
pub mod error_log;
mod metrics;
mod output;
mod queue;
mod sink;

pub use access_log::{AccessLog, AccessRecord};
pub use metrics::{
    ConnectionLabels, Connections, Family, Histogram, ListenerCounts, Metrics, Page, Reload,
    RequestLabels, Requests, Tally, Unused,
};

//! What puts load on the proxies: wrk for HTTP/1, h2load for HTTP/2, ours where neither fits.

pub(crate) use crate::measuring::load::{self as wrk, Answered, said};

pub(crate) mod client;
pub(crate) mod h2load;
pub(crate) mod idle;
pub(crate) mod open;
pub(crate) mod reload;
pub(crate) mod tasks;

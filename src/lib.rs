//! A load balancer and programmable reverse proxy built on Pingora.
//!
//! The `pingora-lb` binary is [`App`] with nothing added. This page is the map of the library; the
//! same with its reasons is in `docs/architecture.md`.
//!
//! # The life of a request
//!
//! 1. [`listener`] accepts the connection, reads the request's head under a deadline and checks it
//!    byte for byte. What is malformed is answered there.
//! 2. The [`runtime::Snapshot`] in force is loaded, once, for the whole of the request.
//! 3. [`proxy`] takes over through Pingora's hooks: [`route`] finds the route, the route's pool is
//!    asked for a backend.
//! 4. [`pool`] picks: the policy, over the backends that are usable now.
//! 5. Pingora connects and streams; [`proxy`] decides on retries, sets and removes header fields.
//! 6. The request is logged ([`observe`]) and the backend is released, on whatever path.
//!
//! # What lives where
//!
//! | module | what |
//! |---|---|
//! | [`config`] | file to validated [`model`], all errors at once |
//! | [`model`] | plain validated values |
//! | [`route`] | request facts to route, pure |
//! | [`pool`] | backends, health, balancing policies |
//! | [`listener`] | sockets, the HTTP/1 connection loop, draining, hand-over |
//! | [`admin`] | the admin API: what a running instance tells, and can be told |
//! | [`proxy`] | Pingora's hooks, header fields, retries, failures to answers |
//! | [`tcp`] | connections that are passed on as they are |
//! | [`runtime`] | the compiled configuration and its background tasks |
//! | [`tls`] | certificates and keys, and what listeners and pools make of them |
//! | [`observe`] | access log and error log |
//! | [`filter`] | what users extend: the trait, and the filters that come with the library |
//! | [`explain`] | what becomes of a request that is described, by the code that decides it |
//! | [`testing`] | filters without a socket, and a whole balancer inside of a test |
//! | [`cli`] | arguments and subcommands |

pub mod admin;
mod app;
mod aside;
pub mod cli;
pub mod config;
pub mod explain;
pub mod filter;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod listener;
pub mod model;
pub mod observe;
pub mod pool;
pub mod proxy;
pub mod route;
pub mod runtime;
pub mod tcp;
pub mod testing;
pub mod tls;

pub use app::{App, Difference, Mode, StartError};
/// The version of Pingora that this library is built on, so that a program that uses both agrees
/// with it.
pub use pingora;

/// The code in the README and in the pages on extending it, compiled with the documentation's tests.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/filters.md")]
    mod filters {}
}

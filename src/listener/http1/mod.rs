//! HTTP/1 from the client's side.
//!
//! [`connection`] is the loop: it reads a head under a deadline, has [`head`] check it, lends the
//! socket to Pingora behind a [`stream`] that ends where the request's body does ([`chunked`] finds
//! that end), and gets it back for the next request. So Pingora never sees a byte that was not
//! checked, an idle connection holds no buffer, and every end of a connection is decided in one place.

mod chunked;
mod connection;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod head;
mod stream;

pub(super) use connection::{Http1, IN_THE_CLEAR, TOO_MANY, serve_connection};
#[cfg(any(test, fuzzing))]
pub(crate) use fuzz::{fuzz_chunks, fuzz_head};
pub use head::{Refusal, check_head};
pub(super) use head::{bad, check_target, is_authority, refuse};

//! The TCP proxy: connections that are passed on as they are.
//!
//! They use the same pools as requests, by the same rules: a connection holds a lease on its backend
//! for as long as it lives, one that cannot be made is tried elsewhere while no byte of the client's
//! has been passed on, and one that finds every backend full waits in line. `connection` tells the
//! whole story, `hello` finds out whom the client asks for, `tries` gets to a backend, `relay` passes
//! the bytes on.

mod connection;
mod hello;
mod log_line;
mod pipe;
mod relay;
mod socket;
mod tries;

pub use connection::{Arrival, refuse, serve};
#[cfg(any(test, fuzzing))]
pub(crate) use hello::fuzz as fuzz_hello;
pub use pipe::Pipes;
pub use socket::{Socket, Stream};

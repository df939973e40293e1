//! HTTP/2 from the client's side.
//!
//! [`connection`] accepts streams and decides when the connection ends; each stream is a request in a
//! task of its own ([`stream`]). [`head`] checks a request as strictly as HTTP/1's head is, and
//! [`session`] is what Pingora sees of the stream. Below all of it, [`wire`] is the transport as the
//! `h2` crate sees it: it counts frames on their way, as that crate tells nobody of most of them.

mod connection;
mod frames;
mod head;
mod session;
mod stream;
mod wire;

pub(super) use connection::{Http2, PREFACE, TURNED_AWAY, serve_connection};

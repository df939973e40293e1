//! TLS: certificates and keys, and what listeners and pools make of them.
//!
//! The protocol is rustls's, on both sides. Towards clients its server side is ours to drive, in
//! `listener`; towards backends Pingora drives it for requests, and `tcp` for streams, and [`PeerTls`] says
//! how. A certificate is read
//! with the configuration, so that a wrong one is an error with a place in it, and read again by a
//! [`Watch`] when its file changes. What is in use is swapped in whole: a connection keeps what it
//! began with, and a file that is broken changes nothing.

mod acceptor;
mod certificate;
mod client;
mod facts;
mod load;
mod peer;
mod pinned;
mod watch;

pub use acceptor::{Acceptor, Handshakes};
pub use certificate::{ClientCertificate, Malformed};
pub use facts::TlsFacts;
pub use load::{FileError, IdentityError, authorities, identity, system_authorities, untimely};
pub use peer::{
    NO_AUTHORITIES, NOT_HTTP2, PeerTls, connector_options, failure, in_words, is_wrong_name,
};
pub use pinned::Trust;
pub use watch::{Watch, Watched, are_as_read, present_stamps};

use rustls::crypto::{CryptoProvider, ring};
use std::sync::Arc;

/// The cryptography: ring, as Pingora has it for backends. A second library would be a second of
/// everything to trust, and the other that rustls offers is a larger build.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

//! Listeners: accepting connections and turning their bytes into requests.

mod accept;
mod arrival;
mod bind;
mod drain;
mod handover;
mod http1;
mod http2;
mod pace;
mod proxy_header;
mod timer;
mod tls;
mod transport;
mod watchdog;

pub use accept::{Accepting, serve};
pub use bind::{BindError, Bound, BoundSocket, bind_admin, bind_all};
pub use drain::{Drain, Phase};
pub use handover::{Account, Predecessor, SocketFile, Successor, hand_over};
pub use http1::{Refusal, check_head};
#[cfg(any(test, fuzzing))]
pub(crate) use http1::{fuzz_chunks, fuzz_head};
#[cfg(any(test, fuzzing))]
pub(crate) use proxy_header::fuzz as fuzz_proxy_header;

/// Whether a GET may have this target.
#[cfg(any(test, fuzzing))]
pub(crate) fn is_target(target: &[u8]) -> bool {
    http1::check_target(b"GET", target).is_ok()
}

//! Listeners: accepting connections and turning their bytes into requests.

mod accept;
mod arrival;
mod bind;
mod drain;
mod handover;
mod http1;
mod http2;
mod proxy_header;
mod tls;
mod transport;
mod watchdog;

pub use accept::{Accepting, serve};
pub use bind::{BindError, Bound, BoundSocket, bind_admin, bind_all};
pub use drain::{Drain, Phase};
pub use handover::{Account, Predecessor, SocketFile, Successor, hand_over};
pub use http1::{Refusal, check_head};

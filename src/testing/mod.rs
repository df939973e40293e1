//! Tests of filters and of configurations, for those who extend the balancer.
//!
//! [`Filters`] runs filters on a described [`Request`], without a socket, and shows in an
//! [`Outcome`] what came of it. The hooks are called by the code of the proxy itself, in its order.
//!
//! ```
//! use pingora_lb::{App, testing::{Filters, Request, Response}};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // With `App::new().filter::<Mine>()`, the text may name a filter of yours, too.
//! let filters = Filters::new().yaml(&App::new(), "
//!     - request_headers: { set: { x-client: \"${client_ip}\" } }
//!     - response_headers: { remove: [server] }
//! ")?;
//! let backend = Response::new(200).with("server", "secret").body("hello");
//! let outcome = filters.run(&Request::get("/").from("192.0.2.7"), backend);
//!
//! let forwarded = outcome.forwarded().expect("no filter answered");
//! assert_eq!(forwarded.header("x-client"), Some("192.0.2.7"));
//! assert_eq!(outcome.response().header("server"), None);
//! assert_eq!(outcome.response().text(), "hello");
//! # Ok(())
//! # }
//! ```
//!
//! [`Balancer`] runs a whole configuration on ports of its own, and [`Origin`] is a backend for it:
//!
//! ```
//! use pingora_lb::{App, testing::{Balancer, Origin, Request}};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let origin = Origin::echo();
//! let text = format!("
//! listeners: {{ web: {{ address: 127.0.0.1:0 }} }}
//! pools: {{ app: {{ backends: [{}] }} }}
//! ", origin.address());
//! let balancer = Balancer::start(&App::new(), &text)?;
//! let answer = balancer.send(&Request::get("/hello"));
//! assert_eq!(answer.status(), 200);
//! assert_eq!(origin.requests()[0].target(), "/hello");
//! # Ok(())
//! # }
//! ```

mod balancer;
mod filters;
mod message;
mod origin;

pub use crate::filter::{Mishap, Reason};
pub use balancer::{Balancer, Error};
pub use filters::{Backend, Filters, Forwarded, Outcome};
pub use message::{Request, Response};
pub use origin::Origin;

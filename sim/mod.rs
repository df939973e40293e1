//! A simulator of a pool: the real [`Core`](pingora_lb::pool::Core) between simulated clients and
//! simulated backends, on a simulated clock.
//!
//! It is a discrete-event simulation. What is to happen is in a queue ordered by time
//! ([`events`]); taking out the next event moves the clock there. Clients come as [`arrivals`] say,
//! each with a piece of work whose length comes from [`service`]; the backends are [`station`]s that
//! work, refuse, fail, hang or slow down as a [`scenario`]'s script says. Everything between the two
//! is production code: the [`engine`] asks the core for a backend, waits in its queue, reports how
//! it ended, spends retries and feeds it probes, as the proxy does.
//!
//! Every step is watched from the outside ([`watch`]): what the core promises is checked against
//! counts that the simulator keeps itself. And every run is repeatable: all chance comes from one
//! seed. Arrivals and work are drawn from streams of their own, so two policies with the same seed
//! meet the same clients.

pub mod arrivals;
pub mod catalogue;
pub mod engine;
pub mod events;
pub mod measures;
pub mod scenario;
pub mod service;
pub mod station;
pub mod watch;

pub use engine::run;

//! What runs: the compiled configuration that requests see, and the tasks that keep it alive.

mod forwarding;
mod retired;
mod series;
mod snapshot;
mod supervisor;

pub use forwarding::Forwarding;
pub use retired::Retired;
pub use series::EndedRequest;
pub use snapshot::{Action, Live, Route, Snapshot, WeightedPools};
pub use supervisor::Supervisor;

//! The filters that come with the library. Each is written as a user's would be.

mod headers;
mod rewrite;

use super::Registry;

/// Makes them known.
pub(super) fn add_to(registry: &mut Registry) {
    registry.add::<headers::RequestHeaders>();
    registry.add::<headers::ResponseHeaders>();
    registry.add::<rewrite::Rewrite>();
}

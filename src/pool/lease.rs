//! What a request holds while it is on a backend, and what it remembers of the ones it tried.

use super::Member;
use std::{ops::Deref, sync::Arc};

/// One request's place on a backend. The request counts as in flight from the pick until this is
/// dropped, on whatever path.
#[derive(Debug)]
pub struct Lease(Arc<Member>);

impl Lease {
    pub(super) fn new(member: Arc<Member>) -> Self {
        member.state.begin_request();
        Self(member)
    }

    /// The backend.
    pub fn member(&self) -> &Arc<Member> {
        &self.0
    }
}

impl Deref for Lease {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.state.end_request();
    }
}

/// The backends a request has tried. The first is stored in place: most requests try no second.
#[derive(Debug, Default)]
pub struct Tried {
    first: Option<usize>,
    more: Vec<usize>,
}

impl Tried {
    /// Remembers `member`.
    pub fn add(&mut self, member: &Member) {
        if self.first.is_none() {
            self.first = Some(member.id());
        } else {
            self.more.push(member.id());
        }
    }

    /// Whether nothing was tried yet.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Whether `member` was tried.
    pub fn contains(&self, member: &Member) -> bool {
        self.first == Some(member.id()) || self.more.contains(&member.id())
    }
}

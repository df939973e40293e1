//! What has happened to the backends of a pool lately, for whoever looks at it later. Nothing is decided
//! by it, and the error log says the same at once.

use super::{Member, Time};
use crate::model::BackendState as Admission;
use std::{
    collections::VecDeque,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How many events of a pool are kept. The oldest goes when one comes.
const KEPT: usize = 100;

/// Something that happened to a backend.
#[derive(Clone, Debug)]
pub struct Event {
    /// When, on the clock of its pool.
    pub at: Time,
    /// The backend's name.
    pub backend: String,
    /// Its address.
    pub address: String,
    /// What it was.
    pub what: Happening,
}

/// What can happen to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// Its health checks have brought it back.
    Up,
    /// Its health checks have taken it out, for this reason.
    Down(String),
    /// Real traffic has taken it out.
    Ejected {
        /// For how long.
        time: Duration,
        /// After how many failures in a row.
        failures: u32,
    },
    /// Its ejection is over.
    Returned,
    /// It was given another state.
    State(Admission),
    /// It was given another weight.
    Weight(u32),
    /// It was added.
    Added,
    /// It is being removed.
    Leaving,
    /// It is gone.
    Removed,
}

impl Happening {
    /// Its code, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down(_) => "down",
            Self::Ejected { .. } => "ejected",
            Self::Returned => "returned",
            Self::State(state) => state.as_str(),
            Self::Weight(_) => "weight",
            Self::Added => "added",
            Self::Leaving => "leaving",
            Self::Removed => "removed",
        }
    }
}

/// In words, for people.
impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up => f.write_str("its health checks succeed again"),
            Self::Down(reason) => write!(f, "its health checks fail: {reason}"),
            Self::Ejected { time, failures: 1 } => write!(f, "ejected for {time:?}: a failure"),
            Self::Ejected { time, failures } => {
                write!(f, "ejected for {time:?}: {failures} failures in a row")
            }
            Self::Returned => f.write_str("back from its ejection"),
            Self::State(state) => write!(f, "set to {}", state.as_str()),
            Self::Weight(weight) => write!(f, "weight set to {weight}"),
            Self::Added => f.write_str("added"),
            Self::Leaving => f.write_str("is being removed"),
            Self::Removed => f.write_str("removed"),
        }
    }
}

/// The last events of one pool, oldest first.
#[derive(Debug, Default)]
pub(super) struct Events(Mutex<VecDeque<Event>>);

impl Events {
    pub(super) fn record(&self, member: &Member, what: Happening, at: Time) {
        let (backend, address) = (member.name().to_string(), member.key().to_owned());
        let event = Event { at, backend, address, what };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(event);
    }

    pub(super) fn all(&self) -> Vec<Event> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Weight,
        pool::{BackendState, MemberSpec},
    };
    use std::sync::Arc;

    #[test]
    fn the_last_hundred_are_kept() {
        let name = "a".to_owned();
        let spec =
            MemberSpec { name, weight: Weight::try_new(1).unwrap(), backup: false, probed: false };
        let member = spec.build(0, Arc::new(BackendState::default()));
        let events = Events::default();
        for number in 0..250 {
            events.record(&member, Happening::Weight(number), Time::from_nanos(number.into()));
        }
        let kept: Vec<_> = events.all().into_iter().map(|event| event.what).collect();
        assert_eq!(kept, (150..250).map(Happening::Weight).collect::<Vec<_>>());
    }
}

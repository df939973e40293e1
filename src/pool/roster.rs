//! What was decided at run time of the members of a pool. It outlives configurations, and ends with the
//! process.

use super::{Member, discovery::host_of};
use crate::model::{Amendment, Backend};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// The decisions about one pool, shared by all its configurations.
#[derive(Debug)]
pub(super) struct Roster {
    decided: Mutex<Decided>,
    /// Changes whenever something was decided.
    changed: watch::Sender<()>,
    /// Held while members come or go, so that each step is seen before the next.
    pub(super) moving: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Decided {
    /// Backends that were added.
    added: Vec<Backend>,
    /// Addresses of the configuration that are out, each with the configured address that it comes
    /// from, which is itself or a host name.
    removed: HashMap<String, String>,
    /// Addresses that are on their way out.
    leaving: HashSet<String>,
    /// By a backend's name, or by the name of the entry that it comes from.
    amended: HashMap<String, Amendment>,
}

impl Decided {
    /// The backends of a configuration that were not removed, and those that were added, which are marked.
    fn present<'b>(&'b self, file: &'b [Backend]) -> impl Iterator<Item = (&'b Backend, bool)> {
        let stays = |backend: &&Backend| {
            self.removed.is_empty() || !self.removed.contains_key(&backend.address.to_string())
        };
        let is_new = move |backend: &&Backend| {
            let mut known = file.iter().filter(stays);
            !known.any(|it| it.address == backend.address || it.name == backend.name)
        };
        let of_file = file.iter().filter(stays).map(|backend| (backend, false));
        of_file.chain(self.added.iter().filter(is_new).map(|backend| (backend, true)))
    }
}

/// A backend that a pool should have.
pub(super) struct Entry {
    pub(super) backend: Backend,
    /// Whether it was added at run time.
    pub(super) added: bool,
}

/// Members that are on their way out.
#[derive(Debug)]
pub struct Departure {
    /// The members.
    members: Vec<Arc<Member>>,
    names: Vec<String>,
    /// What is removed: a configured address, or one that a host name stands for.
    address: String,
    /// The configured address that it comes from.
    configured: String,
}

impl Departure {
    pub(super) fn members(&self) -> &[Arc<Member>] {
        &self.members
    }

    /// Requests that are still in flight on them.
    pub fn in_flight(&self) -> usize {
        self.members.iter().map(|member| member.state().in_flight()).sum()
    }
}

impl Default for Roster {
    fn default() -> Self {
        Self {
            decided: Mutex::default(),
            changed: watch::Sender::new(()),
            moving: tokio::sync::Mutex::default(),
        }
    }
}

impl Roster {
    fn decided(&self) -> MutexGuard<'_, Decided> {
        self.decided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the decisions.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) fn tell(&self) {
        self.changed.send_replace(());
    }

    /// The backends of a configuration without those that were removed, and those that were added.
    /// What the configuration has by now stands as it is there.
    pub(super) fn entries(&self, file: &[Backend]) -> Vec<Entry> {
        let entry = |(backend, added): (&Backend, bool)| Entry { backend: backend.clone(), added };
        self.decided().present(file).map(entry).collect()
    }

    /// Whether there is such a backend among the [`Roster::entries`].
    pub(super) fn has(&self, file: &[Backend], is_such: impl Fn(&Backend) -> bool) -> bool {
        self.decided().present(file).any(|(backend, _)| is_such(backend))
    }

    /// The host names among the [`Roster::entries`].
    pub(super) fn hosts(&self, file: &[Backend]) -> HashSet<String> {
        let decided = self.decided();
        let hosts = decided.present(file).filter_map(|(backend, _)| host_of(backend));
        hosts.map(str::to_owned).collect()
    }

    /// Whether an address that the host name of an entry stands for was removed.
    pub(super) fn is_removed(&self, address: &str, entry: &Backend) -> bool {
        let decided = self.decided();
        let from = decided.removed.get(address);
        from.is_some_and(|from| *from != address && *from == entry.address.to_string())
    }

    pub(super) fn is_leaving(&self, address: &str) -> bool {
        self.decided().leaving.contains(address)
    }

    /// What was decided of a backend, by its own name before that of its entry.
    pub(super) fn amendment(&self, name: &str, entry: &str) -> Amendment {
        let decided = self.decided();
        let of = |name| decided.amended.get(name).copied().unwrap_or_default();
        of(entry).and(of(name))
    }

    /// Decides of what is called `name`. Where that is an entry, what was decided of the backends that
    /// come from it, called `below`, no longer counts.
    pub(super) fn amend<'n>(
        &self,
        name: &str,
        below: impl Iterator<Item = &'n str>,
        amendment: Amendment,
    ) {
        let mut decided = self.decided();
        for other in below.filter(|other| *other != name) {
            if let Some(known) = decided.amended.get_mut(other) {
                *known = known.without(amendment);
            }
        }
        let known = decided.amended.entry(name.to_owned()).or_default();
        *known = known.and(amendment);
    }

    pub(super) fn add(&self, backend: Backend) {
        self.decided().added.push(backend);
    }

    /// The members called `name`, or that come from the entry of that name, begin to leave.
    pub(super) fn dismiss(
        &self,
        file: &[Backend],
        members: &[Arc<Member>],
        name: &str,
    ) -> Option<Departure> {
        let entries = self.entries(file);
        let entry_of = |name: &str| entries.iter().find(|it| it.backend.name.as_str() == name);
        let whole = entry_of(name);
        let one = members.iter().find(|member| member.name().as_str() == name);
        let entry = whole.or_else(|| entry_of(one?.entry.as_str()))?;
        let configured = entry.backend.address.to_string();
        let (address, members): (_, Vec<_>) = if let (None, Some(member)) = (whole, one) {
            (member.key().to_owned(), vec![member.clone()])
        } else {
            let from = members.iter().filter(|member| member.entry == entry.backend.name);
            (configured.clone(), from.cloned().collect())
        };
        let names = members.iter().map(|member| member.name().to_string());
        let names = names.chain([name.to_owned()]).collect();
        let keys = members.iter().map(|member| member.key().to_owned());
        self.decided().leaving.extend(keys);
        Some(Departure { members, names, address, configured })
    }

    /// They are gone. Nothing is done if somebody else has said so before: what is there by now may have
    /// been added since.
    pub(super) fn remove(&self, file: &[Backend], departure: &Departure) {
        let mut decided = self.decided();
        let is_leaving = |member: &Arc<Member>| decided.leaving.contains(member.key());
        if !departure.members.is_empty() && !departure.members.iter().any(is_leaving) {
            return;
        }
        for member in &departure.members {
            decided.leaving.remove(member.key());
        }
        for name in &departure.names {
            decided.amended.remove(name);
        }
        let Departure { address, configured, .. } = departure;
        decided.added.retain(|backend| backend.address.to_string() != *address);
        let comes_back = |backend: &Backend| backend.address.to_string() == *configured;
        if file.iter().chain(&decided.added).any(comes_back) {
            decided.removed.insert(address.clone(), configured.clone());
        }
    }

    /// Another configuration is in force. What was removed and added again stands as it is there, and what
    /// was decided of backends that are gone does not count for others that get their names. What was
    /// removed and not added again stays away, whether or not a configuration mentions it. Returns
    /// whether other members follow from that.
    pub(super) fn adapt(&self, file: &[Backend]) -> bool {
        let mut decided = self.decided();
        let Decided { added, removed, amended, .. } = &mut *decided;
        let addresses: HashSet<String> = if removed.is_empty() {
            HashSet::new()
        } else {
            file.iter().map(|backend| backend.address.to_string()).collect()
        };
        let before = removed.len();
        removed.retain(|address, configured| {
            let again = |backend: &Backend| backend.address.to_string() == *address;
            let whole = address == configured && addresses.contains(address);
            !(whole && added.iter().any(again))
        });
        if !amended.is_empty() {
            let entries = file.iter().chain(&*added).map(|backend| backend.name.as_str());
            let entries: HashSet<&str> = entries.collect();
            amended.retain(|name, _| is_of(name, &entries));
        }
        removed.len() != before
    }
}

/// Whether `name` is that of an entry, or of a backend that the entry's host name may lead to.
fn is_of(name: &str, entries: &HashSet<&str>) -> bool {
    let mut before_at = name.match_indices('@').map(|(at, _)| &name[..at]);
    entries.contains(name) || before_at.any(|entry| entries.contains(entry))
}

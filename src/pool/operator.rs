//! What an operator decides of a pool's members while it runs.

use super::{Departure, Happening, Member, Pool, discovery::OpenNames};
use crate::model::{Amendment, Backend};
use std::{collections::HashSet, sync::Arc};

/// Why a backend cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Taken {
    /// There is one of that name.
    #[error("there is a backend called {0} already")]
    Name(String),
    /// There is one at that address.
    #[error("there is a backend at {0} already")]
    Address(String),
    /// It is on its way out.
    #[error("backend {0} is being removed; its last requests are in flight")]
    Leaving(String),
}

impl Pool {
    /// The members called `name`, or that come from the entry of that name in the configuration.
    fn called(&self, name: &str) -> Vec<Arc<Member>> {
        let is_meant =
            |member: &&Arc<Member>| member.name().as_str() == name || member.entry.as_str() == name;
        self.members().iter().filter(is_meant).cloned().collect()
    }

    /// Whether a backend is called `name`, or an entry of the configuration that has no address at the
    /// moment.
    pub fn has(&self, name: &str) -> bool {
        let mut entries = self.roster().entries(&self.spec().backends).into_iter();
        !self.called(name).is_empty() || entries.any(|it| it.backend.name.as_str() == name)
    }

    /// Whether the backend called `name`, or one that comes from the entry of that name, is on its way
    /// out.
    pub fn is_leaving(&self, name: &str) -> bool {
        self.called(name).iter().any(|member| member.state().is_leaving())
    }

    /// Changes the backend called `name`, or all that come from the entry of that name in the
    /// configuration, at once. Returns those, which a host name may have none of at the moment;
    /// `None` if nothing is called so.
    pub fn amend(&self, name: &str, amendment: Amendment) -> Option<Vec<Arc<Member>>> {
        if !self.has(name) {
            return None;
        }
        let (meant, roster) = (self.called(name), self.roster());
        roster.amend(name, meant.iter().map(|member| member.name().as_str()), amendment);
        for member in &meant {
            let decided = roster.amendment(member.name().as_str(), member.entry.as_str());
            let before = member.admission();
            member.state().decide(decided);
            if member.admission() != before {
                member.state().set_since(self.now());
            }
        }
        for what in happenings(amendment) {
            self.record(&meant, &what);
        }
        self.decided();
        Some(meant)
    }

    /// Adds a backend and returns its members.
    ///
    /// # Errors
    /// When its name or address is taken.
    pub async fn add(self: &Arc<Self>, backend: Backend) -> Result<Vec<Arc<Member>>, Taken> {
        let roster = self.roster();
        self.check_free(&backend)?;
        // Ahead of its turn, as others would wait for the resolver in the line behind it.
        let open = OpenNames::of(&self.spec().name, &backend, &self.interner);
        open.look_up().await;
        let _one_at_a_time = roster.moving.lock().await;
        self.check_free(&backend)?;
        let name = backend.name.clone();
        roster.add(backend);
        self.refresh_known().await;
        roster.tell();
        let members = self.members();
        let added: Vec<_> = members.iter().filter(|it| it.entry == name).cloned().collect();
        self.record(&added, &Happening::Added);
        Ok(added)
    }

    fn record(&self, members: &[Arc<Member>], what: &Happening) {
        let now = self.now();
        for member in members {
            self.core().record(member, what.clone(), now);
        }
    }

    fn check_free(&self, backend: &Backend) -> Result<(), Taken> {
        let address = backend.address.to_string();
        let members = self.members();
        for member in members.iter() {
            let named = *member.name() == backend.name || member.entry == backend.name;
            if !named && member.key() != address {
                continue;
            }
            return Err(if member.state().is_leaving() {
                Taken::Leaving(member.name().to_string())
            } else if named {
                Taken::Name(backend.name.to_string())
            } else {
                Taken::Address(address)
            });
        }
        for entry in self.roster().entries(&self.spec().backends) {
            if entry.backend.address == backend.address {
                return Err(Taken::Address(address));
            }
            if entry.backend.name == backend.name {
                return Err(Taken::Name(backend.name.to_string()));
            }
        }
        Ok(())
    }

    /// Has the backend called `name` get no requests from now on, or all that come from the entry of
    /// that name, to be removed when their last request is over; `None` if there is none.
    pub fn dismiss(&self, name: &str) -> Option<Departure> {
        let members = self.members();
        let departure = self.roster().dismiss(&self.spec().backends, &members, name)?;
        for member in departure.members() {
            if !member.state().is_leaving() {
                member.state().set_since(self.now());
                self.record(std::slice::from_ref(member), &Happening::Leaving);
            }
            member.state().set_leaving(true);
        }
        self.decided();
        Some(departure)
    }

    /// Removes members that were dismissed.
    pub async fn remove(self: &Arc<Self>, departure: &Departure) {
        let roster = self.roster();
        let _one_at_a_time = roster.moving.lock().await;
        let present = self.members();
        roster.remove(&self.spec().backends, departure);
        self.refresh_known().await;
        let left: HashSet<usize> = self.members().iter().map(|member| member.id()).collect();
        let is_gone = |it: &&Arc<Member>| !left.contains(&it.id());
        let gone: Vec<_> = present.iter().filter(is_gone).cloned().collect();
        self.record(&gone, &Happening::Removed);
        roster.tell();
    }

    /// Makes what was decided of the members count.
    fn decided(&self) {
        self.core().renew_view(self.now());
        self.report_availability();
        self.roster().tell();
    }
}

fn happenings(amendment: Amendment) -> impl Iterator<Item = Happening> {
    let weight = amendment.weight.map(|weight| Happening::Weight(weight.get()));
    amendment.state.map(Happening::State).into_iter().chain(weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        filter::Registry,
        model::{self, BackendState},
        pool::Interner,
    };
    use std::path::Path;

    const SPEC: &str = "[{ address: 'app:80', name: app }, { address: 10.0.0.9:80, name: b }]";
    const DRAIN: Amendment = Amendment { state: Some(BackendState::Draining), weight: None };

    fn spec(backends: &str) -> model::Pool {
        let text = format!(
            "listeners: {{ web: {{ address: 127.0.0.1:80 }} }}\npools: {{ p: {{ backends: {backends} }} }}"
        );
        let read = config::parse(&text, "x", Path::new("/"), &|_| None, &Registry::default());
        read.unwrap().config.pools.remove(0)
    }

    /// A pool of [`SPEC`] in which `app` has these addresses.
    async fn pool(interner: &Arc<Interner>, addresses: &[&str]) -> Arc<Pool> {
        interner.set_answer("app", addresses);
        let pool = Pool::new(spec(SPEC), interner.clone());
        pool.refresh().await;
        pool
    }

    fn states(pool: &Pool) -> Vec<String> {
        let state =
            |member: &Arc<Member>| format!("{} {}", member.name(), member.admission().as_str());
        pool.members().iter().map(state).collect()
    }

    #[tokio::test]
    async fn what_is_decided_of_a_host_name_holds_for_the_addresses_that_come() {
        let interner = Arc::new(Interner::default());
        let pool = pool(&interner, &["10.0.0.1", "10.0.0.2"]).await;
        assert_eq!(states(&pool), ["app@10.0.0.1 active", "app@10.0.0.2 active", "b active"]);
        assert_eq!(pool.amend("app", DRAIN).unwrap().len(), 2);
        assert_eq!(states(&pool), ["app@10.0.0.1 draining", "app@10.0.0.2 draining", "b active"]);
        interner.set_answer("app", &["10.0.0.3"]);
        pool.refresh().await;
        assert_eq!(states(&pool), ["app draining", "b active"]);
        let active = Amendment { state: Some(BackendState::Active), weight: None };
        interner.set_answer("app", &["10.0.0.3", "10.0.0.4"]);
        pool.refresh().await;
        // One of them alone, and then all again.
        pool.amend("app@10.0.0.4", active).unwrap();
        assert_eq!(states(&pool), ["app@10.0.0.3 draining", "app@10.0.0.4 active", "b active"]);
        pool.amend("app", DRAIN).unwrap();
        assert_eq!(states(&pool), ["app@10.0.0.3 draining", "app@10.0.0.4 draining", "b active"]);
        assert!(pool.amend("c", DRAIN).is_none());
    }

    #[tokio::test]
    async fn one_address_of_a_host_name_or_all_of_them_can_be_removed() {
        let interner = Arc::new(Interner::default());
        let pool = pool(&interner, &["10.0.0.1", "10.0.0.2"]).await;
        let one = pool.dismiss("app@10.0.0.1").unwrap();
        assert_eq!(states(&pool)[0], "app@10.0.0.1 disabled");
        pool.remove(&one).await;
        assert_eq!(states(&pool), ["app@10.0.0.2 active", "b active"]);
        // It does not come back with another answer, nor with another configuration.
        interner.set_answer("app", &["10.0.0.1", "10.0.0.3"]);
        let next = Pool::new(spec(&SPEC.replace("name: b", "name: c")), interner.clone());
        next.refresh().await;
        next.put_in_force().await;
        assert_eq!(states(&next), ["app@10.0.0.3 active", "c active"]);
        let all = next.dismiss("app").unwrap();
        next.remove(&all).await;
        assert_eq!(states(&next), ["c active"]);
        // Nor does an entry that the file drops and has again later, until it is added.
        let without = Pool::new(spec("[10.0.0.9:80]"), interner.clone());
        without.put_in_force().await;
        let again = Pool::new(spec(SPEC), interner.clone());
        again.refresh().await;
        again.put_in_force().await;
        assert_eq!(states(&again), ["b active"]);
        let entry = config::parse_backend("{ address: 'app:80', name: app }", Path::new("/"));
        assert!(again.add(entry.unwrap()).await.unwrap().iter().all(|member| member.is_added()));
        // From the next configuration on, what stands in the file counts.
        let edited = Pool::new(spec(&SPEC.replace("name: app", "name: apps")), interner.clone());
        edited.refresh().await;
        edited.put_in_force().await;
        edited.refresh().await;
        assert_eq!(states(&edited), ["apps@10.0.0.3 active", "b active"]);
        assert!(edited.members().iter().all(|member| !member.is_added()));
    }

    #[tokio::test]
    async fn a_host_name_can_be_added_and_is_looked_up() {
        let interner = Arc::new(Interner::default());
        let pool = Pool::new(spec("[10.0.0.9:80]"), interner.clone());
        pool.refresh().await;
        assert!(!pool.has_host_names());
        interner.set_answer("app", &["10.0.0.1"]);
        let backend = config::parse_backend("app:80", Path::new("/")).unwrap();
        let added = pool.add(backend.clone()).await.unwrap();
        assert!(added[0].is_added() && pool.has_host_names());
        assert_eq!(states(&pool), ["10.0.0.9:80 active", "app:80 active"]);
        assert_eq!(pool.add(backend).await.unwrap_err(), Taken::Name("app:80".to_owned()));
        let same = config::parse_backend("{ address: 10.0.0.1:80, name: x }", Path::new("/"));
        let taken = Taken::Address("10.0.0.1:80".to_owned());
        assert_eq!(pool.add(same.unwrap()).await.unwrap_err(), taken);
    }

    #[tokio::test]
    async fn one_that_was_added_again_is_not_removed_by_who_asked_for_it_before() {
        let interner = Arc::new(Interner::default());
        let pool = Pool::new(spec("[10.0.0.9:80]"), interner);
        pool.refresh().await;
        let (first, second) = (pool.dismiss("10.0.0.9:80"), pool.dismiss("10.0.0.9:80"));
        pool.remove(&first.unwrap()).await;
        pool.add(config::parse_backend("10.0.0.9:80", Path::new("/")).unwrap()).await.unwrap();
        pool.remove(&second.unwrap()).await;
        assert_eq!(states(&pool), ["10.0.0.9:80 active"]);
    }

    #[tokio::test]
    async fn what_changes_at_an_address_is_another_member_of_the_same_state() {
        let interner = Arc::new(Interner::default());
        let pool = Pool::new(spec("[10.0.0.9:80, 10.0.0.8:80]"), interner);
        pool.refresh().await;
        let before = pool.members();
        pool.refresh().await;
        assert!(Arc::ptr_eq(&before[0], &pool.members()[0]));
        let gone = pool.dismiss("10.0.0.9:80").unwrap();
        pool.remove(&gone).await;
        let text = "{ address: 10.0.0.9:80, name: new, weight: 7 }";
        pool.add(config::parse_backend(text, Path::new("/")).unwrap()).await.unwrap();
        let now = pool.members();
        assert_eq!(states(&pool), ["10.0.0.8:80 active", "new active"]);
        assert_eq!((now[1].weight(), now[1].id()), (7, before[0].id()));
    }
}

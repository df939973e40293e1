//! Which addresses a pool has: those in the file, and those that its host names resolve to.

use super::{
    BackendState, Interner, Member,
    roster::{Entry, Roster},
};
use crate::model::{self, BackendAddress, BackendName};
use async_trait::async_trait;
use http::HeaderValue;
use pingora_core::protocols::l4::socket::SocketAddr;
use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr as InetAddr},
    os::unix::net::SocketAddr as UnixAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};
use tokio::task::JoinSet;

/// The longest a host name may take to resolve before it counts as failed.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Looks up host names.
#[async_trait]
pub(super) trait Resolver: std::fmt::Debug + Send + Sync {
    /// The addresses of `host`, in any order.
    async fn look_up(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver.
#[derive(Debug)]
pub(super) struct System;

#[async_trait]
impl Resolver for System {
    async fn look_up(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((host, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

/// A resolver that never answers.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct Silent;

#[cfg(test)]
#[async_trait]
impl Resolver for Silent {
    async fn look_up(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        std::future::pending().await
    }
}

/// Finds the members of a pool. Host names are resolved off the request path; a name that fails keeps
/// its last answer.
pub(super) struct Discovery {
    pool: model::PoolName,
    backends: Vec<model::Backend>,
    probed: bool,
    /// Each host name with its last answer, which is the interner's: a reload does not depend on the
    /// resolver.
    hosts: HashMap<String, Arc<Mutex<Answer>>>,
    interner: Arc<Interner>,
    /// What was decided at run time.
    roster: Arc<Roster>,
    /// The backends that have the address of another, for those who ask.
    repeats: Arc<Mutex<Vec<Repeat>>>,
    /// Those of them that were told, each once.
    told: HashSet<Repeat>,
}

/// A backend that has the address of an earlier one and so is left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Repeat {
    /// Its entry in the configuration.
    pub entry: BackendName,
    /// Its name.
    pub name: BackendName,
    /// The name of the earlier one.
    pub of: BackendName,
}

/// The last good answer for a host name, and whether its latest lookup failed.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    addresses: Vec<IpAddr>,
    failed: bool,
}

#[cfg(test)]
impl Answer {
    pub(super) fn of(addresses: Vec<IpAddr>) -> Self {
        Self { addresses, failed: false }
    }
}

impl Discovery {
    pub(super) fn new(pool: &model::Pool, interner: Arc<Interner>) -> Self {
        let hosts = pool.backends.iter().filter_map(host_of);
        let hosts = hosts.map(|host| (host.to_owned(), interner.answer(host))).collect();
        Self {
            hosts,
            pool: pool.name.clone(),
            backends: pool.backends.clone(),
            probed: pool.health_check.is_some(),
            roster: interner.roster(&pool.name),
            interner,
            repeats: Arc::default(),
            told: HashSet::new(),
        }
    }

    /// The members that there should be as far as is known now, in file order, those that were added last.
    /// Of `before`, those that are as they were are the same.
    pub(super) fn members(&mut self, before: &[Arc<Member>]) -> Vec<Arc<Member>> {
        let entries = self.roster.entries(&self.backends);
        let known: HashMap<usize, &Arc<Member>> =
            before.iter().map(|member| (member.id(), member)).collect();
        let mut seen: HashMap<String, BackendName> = HashMap::new();
        let mut repeats = Vec::new();
        let mut members = Vec::new();
        for (order, entry) in entries.iter().enumerate() {
            for (address, name) in self.addresses(&entry.backend) {
                let key = address_key(&address);
                if self.roster.is_removed(&key, &entry.backend) {
                    continue;
                }
                // Two entries may come to the same address through a host name: the first stands.
                if let Some(of) = seen.get(&key) {
                    let (entry, of) = (entry.backend.name.clone(), of.clone());
                    repeats.push(Repeat { entry, name, of });
                    continue;
                }
                seen.insert(key, name.clone());
                let member = self.member(order, entry, address, name);
                let same = known.get(&member.id()).filter(|known| known.is_like(&member));
                members.push(same.map_or_else(|| Arc::new(member), |same| Arc::clone(same)));
            }
        }
        self.tell(repeats);
        members
    }

    /// The backends that have the address of another, as of the last discovery.
    pub(super) fn repeats(&self) -> Arc<Mutex<Vec<Repeat>>> {
        Arc::clone(&self.repeats)
    }

    /// Warns once of each backend that is left out for its address: its weight goes with it.
    fn tell(&mut self, repeats: Vec<Repeat>) {
        for repeat in &repeats {
            if self.told.insert(repeat.clone()) {
                let (pool, Repeat { name, of, .. }) = (&self.pool, repeat);
                log::warn!(
                    "pool {pool}: backend {name} has the address of {of}, so it is left out with its weight"
                );
            }
        }
        *self.repeats.lock().unwrap_or_else(PoisonError::into_inner) = repeats;
    }

    /// The host names that are to be looked up: those that have no answer, and with `anew` all. Those of
    /// backends that are gone are let go.
    pub(super) fn open_names(&mut self, anew: bool) -> OpenNames {
        let named = self.roster.hosts(&self.backends);
        self.hosts.retain(|host, _| named.contains(host));
        for host in named {
            if !self.hosts.contains_key(&host) {
                let answer = self.interner.answer(&host);
                self.hosts.insert(host, answer);
            }
        }
        let open = self.hosts.iter().filter(|(_, answer)| anew || lacks_addresses(answer));
        OpenNames {
            pool: self.pool.clone(),
            resolver: self.interner.resolver.clone(),
            names: open.map(|(host, answer)| (host.clone(), answer.clone())).collect(),
        }
    }

    /// Whether each host name has had an answer.
    pub(super) fn knows_all(&self) -> bool {
        !self.hosts.values().any(lacks_addresses)
    }

    /// The addresses that `host` last had.
    fn known(&self, host: &str) -> Vec<IpAddr> {
        let Some(answer) = self.hosts.get(host) else { return Vec::new() };
        let answer = answer.lock().unwrap_or_else(PoisonError::into_inner);
        answer.addresses.clone()
    }

    /// The addresses of one configured backend, each with the name it goes by.
    fn addresses(&self, backend: &model::Backend) -> Vec<(SocketAddr, BackendName)> {
        match &backend.address {
            BackendAddress::Ip(address) => vec![(SocketAddr::Inet(*address), backend.name.clone())],
            BackendAddress::Unix(path) => match UnixAddr::from_pathname(path) {
                Ok(address) => vec![(SocketAddr::Unix(address), backend.name.clone())],
                Err(error) => {
                    log::error!("pool {}: {}: {error}", self.pool, backend.address);
                    Vec::new()
                }
            },
            BackendAddress::Host { host, port } => {
                let found = self.known(host);
                let name = |ip: IpAddr| numbered(&backend.name, ip, found.len());
                found
                    .iter()
                    .map(|ip| (SocketAddr::Inet(InetAddr::new(*ip, *port)), name(*ip)))
                    .collect()
            }
        }
    }

    fn member(
        &self,
        order: usize,
        entry: &Entry,
        address: SocketAddr,
        name: BackendName,
    ) -> Member {
        let backend = &entry.backend;
        let key = address_key(&address);
        let state: Arc<BackendState> = self.interner.state(&self.pool, &key);
        state.decide(self.roster.amendment(name.as_str(), backend.name.as_str()));
        state.set_leaving(self.roster.is_leaving(&key));
        if self.probed {
            state.begin_to_watch();
        }
        let host_name = host_of(backend).map(Into::into);
        let authority = match &backend.address {
            BackendAddress::Unix(_) => "localhost".to_owned(),
            other => other.to_string(),
        };
        Member {
            order,
            name_value: header_value(name.as_str()),
            name,
            entry: backend.name.clone(),
            added: entry.added,
            address,
            authority: header_value(&authority),
            host_name,
            key,
            weight: backend.weight,
            admission: backend.state,
            backup: backend.backup,
            probed: self.probed,
            state,
            tag: OnceLock::new(),
        }
    }
}

/// Host names that are to be looked up, and where the answers go. It takes seconds where a resolver
/// hangs, so nobody who has to decide anything waits for it.
pub(super) struct OpenNames {
    pool: model::PoolName,
    resolver: Arc<dyn Resolver>,
    names: HashMap<String, Arc<Mutex<Answer>>>,
}

impl OpenNames {
    /// The host name of `backend`, if it is given by one and that has no answer.
    pub(super) fn of(pool: &model::PoolName, backend: &model::Backend, from: &Interner) -> Self {
        let host = host_of(backend).map(|host| (host.to_owned(), from.answer(host)));
        let names = host.into_iter().filter(|(_, answer)| lacks_addresses(answer)).collect();
        Self { pool: pool.clone(), resolver: from.resolver.clone(), names }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Looks all of them up at the same time: one that hangs holds up no other for longer than it may
    /// take itself.
    pub(super) async fn look_up(&self) {
        let mut lookups = JoinSet::new();
        for host in self.names.keys().cloned() {
            let resolver = self.resolver.clone();
            lookups.spawn(async move {
                let found = look_up(&*resolver, &host).await;
                (host, found)
            });
        }
        while let Some(looked_up) = lookups.join_next().await {
            match looked_up {
                Ok((host, found)) => self.remember(&host, found),
                Err(error) => log::error!("pool {}: a lookup failed to run: {error}", self.pool),
            }
        }
    }

    /// Takes in what a lookup of `host` has found. Only changes between success and failure are logged.
    fn remember(&self, host: &str, looked_up: io::Result<Vec<IpAddr>>) {
        let Some(answer) = self.names.get(host) else { return };
        let mut answer = answer.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = &self.pool;
        match looked_up {
            Ok(addresses) => {
                if std::mem::take(&mut answer.failed) {
                    log::info!("pool {pool}: host name {host} resolves again");
                }
                answer.addresses = addresses;
            }
            Err(error) => {
                if !std::mem::replace(&mut answer.failed, true) {
                    let kept = answer.addresses.len();
                    log::warn!(
                        "pool {pool}: host name {host} does not resolve ({error}); {kept} known addresses stay"
                    );
                }
            }
        }
    }
}

fn lacks_addresses(answer: &Arc<Mutex<Answer>>) -> bool {
    answer.lock().unwrap_or_else(PoisonError::into_inner).addresses.is_empty()
}

/// The host name that a backend is given by; `None` if that is an address.
pub(super) fn host_of(backend: &model::Backend) -> Option<&str> {
    match &backend.address {
        BackendAddress::Host { host, .. } => Some(host),
        BackendAddress::Ip(_) | BackendAddress::Unix(_) => None,
    }
}

/// What a backend's state is interned by: its address as text.
fn address_key(address: &SocketAddr) -> String {
    match address {
        SocketAddr::Inet(address) => address.to_string(),
        SocketAddr::Unix(address) => address
            .as_pathname()
            .map_or_else(String::new, |path| format!("unix:{}", path.display())),
    }
}

/// A host name with several addresses makes several backends, told apart by address.
fn numbered(name: &BackendName, ip: IpAddr, of: usize) -> BackendName {
    if of < 2 {
        return name.clone();
    }
    BackendName::try_new(&format!("{name}@{ip}")).unwrap_or_else(|_| name.clone())
}

fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("names and addresses are visible ASCII")
}

/// All IPv4 addresses of `host`, or its IPv6 addresses where it has no other, in a stable order.
async fn look_up(resolver: &dyn Resolver, host: &str) -> io::Result<Vec<IpAddr>> {
    let found = tokio::time::timeout(RESOLVE_TIMEOUT, resolver.look_up(host))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the resolver did not answer"))??;
    let (mut v4, mut v6): (Vec<_>, Vec<_>) = found.into_iter().partition(IpAddr::is_ipv4);
    let addresses = if v4.is_empty() { &mut v6 } else { &mut v4 };
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no address"));
    }
    Ok(std::mem::take(addresses))
}

#[cfg(test)]
mod tests;

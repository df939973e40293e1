//! Which addresses a pool has: those in the file, and those that its host names resolve to.

use super::{
    BackendState, Interner, Member,
    backend::selectable,
    roster::{Entry, Roster},
};
use crate::model::{self, BackendAddress, BackendName};
use async_trait::async_trait;
use http::HeaderValue;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_load_balancing::{Backend, discovery::ServiceDiscovery};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr as InetAddr},
    os::unix::net::SocketAddr as UnixAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

/// The longest a host name may take to resolve before it counts as failed.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Service discovery over a pool's configuration. Host names are resolved with the system's
/// resolver, off the request path; a name that fails keeps its last answer.
pub struct Discovery {
    pool: model::PoolName,
    backends: Vec<model::Backend>,
    probed: bool,
    /// Keeps the answers too, so that a reload does not depend on the resolver.
    interner: Arc<Interner>,
    /// What was decided at run time.
    roster: Arc<Roster>,
    /// Whether names are looked up that have an answer.
    anew: AtomicBool,
    /// The members that were found last.
    found: Mutex<Vec<Arc<Member>>>,
}

/// The same for Pingora, which wants it to itself.
pub(super) struct Source(pub(super) Arc<Discovery>);

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
        Self {
            pool: pool.name.clone(),
            backends: pool.backends.clone(),
            probed: pool.health_check.is_some(),
            roster: interner.roster(&pool.name),
            interner,
            anew: AtomicBool::new(true),
            found: Mutex::default(),
        }
    }

    /// Whether names that have an answer are looked up from now on.
    pub(super) fn look_up_anew(&self, anew: bool) {
        self.anew.store(anew, Relaxed);
    }

    /// What was decided at run time.
    pub(super) fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// The members that were found last.
    pub(super) fn found(&self) -> Vec<Arc<Member>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The answer that is known for `host`, unless it is to be looked up.
    fn known(&self, host: &str) -> Option<Vec<IpAddr>> {
        if self.anew.load(Relaxed) {
            return None;
        }
        let resolved = self.interner.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        resolved.get(host).map(|answer| answer.addresses.clone())
    }

    /// Looks up `host` and remembers the answer. Only changes between success and failure are
    /// logged.
    async fn resolve(&self, host: &str) -> Vec<IpAddr> {
        let looked_up = look_up(host).await;
        let mut resolved = self.interner.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = resolved.entry(host.to_owned()).or_default();
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
        answer.addresses.clone()
    }

    /// The addresses of one configured backend, each with the name it goes by.
    async fn addresses(&self, backend: &model::Backend) -> Vec<(SocketAddr, BackendName)> {
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
                let found = match self.known(host) {
                    Some(known) => known,
                    None => self.resolve(host).await,
                };
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
        let host_name = match &backend.address {
            BackendAddress::Host { host, .. } => Some(host.as_str().into()),
            BackendAddress::Ip(_) | BackendAddress::Unix(_) => None,
        };
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

#[async_trait]
impl ServiceDiscovery for Source {
    async fn discover(&self) -> pingora::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let found = self.0.find().await;
        let selectable = found.iter().map(|member| selectable(member.address().clone())).collect();
        *self.0.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
        Ok((selectable, HashMap::new()))
    }
}

impl Discovery {
    /// The members that there should be. Those that are as they were are the same.
    async fn find(&self) -> Vec<Arc<Member>> {
        let mut seen = HashSet::new();
        let (mut found, before) = (Vec::new(), self.found());
        for (order, entry) in self.roster.entries(&self.backends).iter().enumerate() {
            for (address, name) in self.addresses(&entry.backend).await {
                let key = address_key(&address);
                if self.roster.is_removed(&key, &entry.backend) {
                    continue;
                }
                // Two entries may come to the same address through a host name: the first stands.
                if !seen.insert(key) {
                    log::debug!("pool {}: {name} is listed before, ignored", self.pool);
                    continue;
                }
                let member = self.member(order, entry, address, name);
                let same = before.iter().find(|known| known.is_like(&member));
                found.push(same.cloned().unwrap_or_else(|| Arc::new(member)));
            }
        }
        found
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
async fn look_up(host: &str) -> io::Result<Vec<IpAddr>> {
    let lookup = tokio::net::lookup_host((host, 0));
    let found = tokio::time::timeout(RESOLVE_TIMEOUT, lookup)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the resolver did not answer"))??;
    let (mut v4, mut v6): (Vec<_>, Vec<_>) =
        found.map(|address| address.ip()).partition(IpAddr::is_ipv4);
    let addresses = if v4.is_empty() { &mut v6 } else { &mut v4 };
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no address"));
    }
    Ok(std::mem::take(addresses))
}

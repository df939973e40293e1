//! Which addresses a pool has: those in the file, and those that its host names resolve to.

use super::{BackendState, Interner, Member, backend::selectable};
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
    sync::{Arc, OnceLock, PoisonError},
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
}

/// The last good answer for a host name, and whether its latest lookup failed.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    addresses: Vec<IpAddr>,
    failed: bool,
}

impl Discovery {
    pub(super) fn new(pool: &model::Pool, interner: Arc<Interner>) -> Self {
        Self {
            pool: pool.name.clone(),
            backends: pool.backends.clone(),
            probed: pool.health_check.is_some(),
            interner,
        }
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
                let found = self.resolve(host).await;
                let name = |ip: IpAddr| numbered(&backend.name, ip, found.len());
                found
                    .iter()
                    .map(|ip| (SocketAddr::Inet(InetAddr::new(*ip, *port)), name(*ip)))
                    .collect()
            }
        }
    }

    fn member(&self, order: usize, address: SocketAddr, name: BackendName) -> Member {
        let backend = &self.backends[order];
        let key = address_key(&address);
        let state: Arc<BackendState> = self.interner.state(&self.pool, &key);
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
impl ServiceDiscovery for Discovery {
    async fn discover(&self) -> pingora::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let mut seen = HashSet::new();
        let mut found = BTreeSet::new();
        for (order, backend) in self.backends.iter().enumerate() {
            for (address, name) in self.addresses(backend).await {
                // Two entries may come to the same address through a host name: the first stands.
                if !seen.insert(address_key(&address)) {
                    log::debug!("pool {}: {name} is listed before, ignored", self.pool);
                    continue;
                }
                let mut selectable = selectable(address.clone());
                selectable.ext.insert(Arc::new(self.member(order, address, name)));
                found.insert(selectable);
            }
        }
        Ok((found, HashMap::new()))
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

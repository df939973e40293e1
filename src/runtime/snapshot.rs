//! The compiled, immutable form of a configuration.

use super::{EndedRequest, Forwarding, series::Series};
use crate::{
    filter::{Chain, Mishap},
    model,
    observe::{AccessLog, Connections, ListenerCounts, Metrics},
    pool::{Interner, Pool},
    route::{Condition, Facts, RouteTable},
    tls::{Acceptor, Watch, Watched},
};
use arc_swap::ArcSwap;
use ipnet::IpNet;
use rand::Rng;
use std::{
    collections::HashMap,
    net::IpAddr,
    ops::Deref,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

/// Everything a request needs to know. A request loads one and keeps it to its end, so there is no
/// moment in which half of a configuration applies.
#[derive(Debug)]
pub struct Snapshot {
    /// The listeners, in file order.
    pub listeners: Vec<model::Listener>,
    /// Where the connections of each listener go, in the same order; `None` for those that speak HTTP.
    forwardings: Vec<Option<Forwarding>>,
    /// What each listener, in the same order, meets its clients with; `None` is clear text.
    acceptors: Vec<Option<Arc<Acceptor>>>,
    /// The routes, in file order.
    pub routes: Vec<Route>,
    /// The pools, in file order.
    pub pools: Vec<Arc<Pool>>,
    /// Finds a request's route.
    table: RouteTable,
    trusted_proxies: Vec<IpNet>,
    announces_clients: bool,
    /// Who may use the admin API; `None` when there is none.
    pub admin: Option<model::Admin>,
    /// Where requests are logged.
    pub access_log: Option<Arc<AccessLog>>,
    /// What outlives it of what is counted.
    pub metrics: Arc<Metrics>,
    series: Series,
}

/// A route with its action resolved.
#[derive(Debug)]
pub struct Route {
    /// Its name.
    pub name: model::RouteName,
    /// What it does.
    pub action: Action,
    /// Time until the response's headers.
    pub timeout: Option<Duration>,
    /// The protocols that its requests may change to.
    pub upgrades: model::Upgrades,
    /// The filters that its requests and their responses pass.
    pub filters: Chain,
}

/// What a route does.
#[derive(Debug)]
pub enum Action {
    /// Proxy to one of these pools.
    Proxy(WeightedPools),
    /// Send the client elsewhere.
    Redirect(model::Redirect),
    /// Answer at once.
    Respond(model::Respond),
}

/// One pool, or several with their shares.
#[derive(Debug)]
pub struct WeightedPools {
    /// Each pool with the sum of the shares up to and including its own.
    pools: Vec<(Arc<Pool>, u64)>,
}

impl WeightedPools {
    /// Each pool with its share.
    pub fn shares(&self) -> impl Iterator<Item = (&Arc<Pool>, u64)> {
        let mut before = 0;
        self.pools.iter().map(move |(pool, sum)| (pool, sum - std::mem::replace(&mut before, *sum)))
    }

    /// One of the pools, at random in proportion to their shares.
    pub fn choose<R: Rng>(&self, rng: impl FnOnce() -> R) -> &Arc<Pool> {
        let (last, total) = self.pools.last().expect("a route names at least one pool");
        if self.pools.len() == 1 {
            return last;
        }
        let ticket = rng().random_range(0..*total);
        let chosen = self.pools.partition_point(|(_, sum)| *sum <= ticket);
        &self.pools[chosen].0
    }
}

impl Snapshot {
    /// Compiles `config`. No I/O: pools have no members until the supervisor runs.
    ///
    /// `chains` are the filters of each route, in the order of the routes; routes beyond them have
    /// none.
    pub fn compile(
        config: &model::Config,
        chains: Vec<Chain>,
        interner: &Arc<Interner>,
        access_log: Option<Arc<AccessLog>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let pools = config.pools.iter().map(|pool| Pool::new(pool.clone(), interner.clone()));
        let listeners = config.listeners.iter().map(|it| (it.clone(), acceptor(it))).collect();
        Self::assemble(config, listeners, pools.collect(), chains, (access_log, metrics))
    }

    /// Compiles `config` to come into force after this one. Pools of which nothing has changed are
    /// the same, and filters take over what must outlive a reload. The listeners, which are those of
    /// this snapshot, keep their order: it is what connections know them by.
    ///
    /// # Errors
    /// When a filter panics while it takes over.
    pub fn succeed(
        &self,
        config: &model::Config,
        mut chains: Vec<Chain>,
        interner: &Arc<Interner>,
        access_log: Option<Arc<AccessLog>>,
    ) -> Result<Self, Mishap> {
        let place = |listener: &model::Listener| {
            self.listeners.iter().position(|known| known.name == listener.name)
        };
        let mut listeners = config.listeners.clone();
        listeners.sort_by_key(place);
        // An acceptor that knew the one before knows the sessions that clients want to resume.
        let listeners = listeners.into_iter().map(|listener| {
            let before = place(&listener).and_then(|at| self.acceptors[at].as_ref());
            let acceptor = match (before, &listener.tls) {
                (Some(before), Some(tls)) => Some(Arc::new(before.succeed(tls.clone()))),
                _ => acceptor(&listener),
            };
            (listener, acceptor)
        });
        let listeners = listeners.collect();
        let known: HashMap<_, _> =
            self.pools.iter().map(|known| (&known.spec().name, known)).collect();
        let pool = |spec: &model::Pool| {
            let same = known.get(&spec.name).filter(|known| known.spec() == spec);
            same.map_or_else(|| Pool::new(spec.clone(), interner.clone()), |same| Arc::clone(same))
        };
        let pools = config.pools.iter().map(pool).collect();
        let known: HashMap<_, _> = self.routes.iter().map(|known| (&known.name, known)).collect();
        for (route, chain) in config.routes.iter().zip(&mut chains) {
            if let Some(before) = known.get(&route.name) {
                chain.adopt(&before.filters)?;
            }
        }
        let shared = (access_log, self.metrics.clone());
        Ok(Self::assemble(config, listeners, pools, chains, shared))
    }

    fn assemble(
        config: &model::Config,
        listeners: Vec<(model::Listener, Option<Arc<Acceptor>>)>,
        pools: Vec<Arc<Pool>>,
        chains: Vec<Chain>,
        (access_log, metrics): (Option<Arc<AccessLog>>, Arc<Metrics>),
    ) -> Self {
        let by_name: HashMap<_, _> =
            pools.iter().map(|pool| (pool.spec().name.clone(), pool.clone())).collect();
        let (listeners, acceptors): (Vec<_>, Vec<_>) = listeners.into_iter().unzip();
        let names: Vec<_> = listeners.iter().map(|listener| listener.name.clone()).collect();
        let forwardings = listeners.iter().map(|it| compile_listener(it, &by_name));
        let forwardings: Vec<_> = forwardings.collect();
        let routes = compile_routes(config, chains, &by_name);
        Self {
            series: compile_series(&metrics, (&listeners, &forwardings), &routes, &by_name),
            metrics,
            forwardings,
            acceptors,
            listeners,
            routes,
            pools,
            table: RouteTable::new(&config.routes, &names),
            trusted_proxies: config.trusted_proxies.clone(),
            admin: config.admin.clone(),
            announces_clients: config.pools.iter().any(|pool| pool.proxy_protocol.is_some()),
            access_log,
        }
    }

    /// Finds the route of a request: its index among [`Snapshot::routes`].
    pub fn find_route(&self, facts: &Facts<'_>) -> Option<usize> {
        self.table.find(facts)
    }

    /// The first condition of the route with this index that a request does not meet; `None` if it
    /// meets all.
    pub fn why_not(&self, route: usize, facts: &Facts<'_>) -> Option<Condition<'_>> {
        self.table.why_not(route, facts)
    }

    /// Where the connections of the listener with this index go; `None` if it speaks HTTP.
    pub fn forwarding(&self, listener: usize) -> Option<&Forwarding> {
        self.forwardings[listener].as_ref()
    }

    /// Counts a request that has ended.
    pub fn count_request(&self, ended: &EndedRequest<'_>) {
        self.series.count(ended);
        if let Some(reason) = ended.local {
            self.metrics.count_local(reason);
        }
    }

    /// What is counted of the listener with this index.
    pub fn listener_counts(&self, listener: usize) -> &Arc<ListenerCounts> {
        self.series.listener(listener)
    }

    /// What is counted of the connections of the tcp listener with this index that go to `pool`, or to
    /// none.
    pub fn connections(&self, listener: usize, pool: Option<&Arc<Pool>>) -> &Arc<Connections> {
        self.series.connections(listener, pool)
    }

    /// Whether a backend is told what a client has connected to.
    pub fn announces_clients(&self) -> bool {
        self.announces_clients
    }

    /// What the listener with this index meets its clients with, if it speaks TLS.
    pub fn acceptor(&self, listener: usize) -> Option<&Arc<Acceptor>> {
        self.acceptors[listener].as_ref()
    }

    /// Everything in it that is made of certificates and follows their files.
    pub fn watch(&self) -> Watch {
        let acceptors = self.acceptors.iter().flatten().cloned().map(|it| it as Arc<dyn Watched>);
        let peers = self.pools.iter().filter_map(|pool| pool.tls().cloned());
        Watch::new(acceptors.chain(peers.map(|it| it as Arc<dyn Watched>)))
    }

    /// Whether `address` is a proxy whose `X-Forwarded-*` fields are believed.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}

/// Finds the counters of everything that is counted by name.
fn compile_series(
    metrics: &Metrics,
    (listeners, forwardings): (&[model::Listener], &[Option<Forwarding>]),
    routes: &[Route],
    by_name: &PoolsByName,
) -> Series {
    let pools = |it: &Option<Forwarding>| it.as_ref().map_or_else(Vec::new, Forwarding::pools);
    let listeners: Vec<_> = listeners.iter().zip(forwardings.iter().map(pools)).collect();
    let routes: Vec<_> = routes.iter().map(|it| (&it.name, pools_of(it, by_name))).collect();
    Series::new(metrics, &listeners, &routes)
}

/// The pools that the requests of a route may go to, each once.
fn pools_of(route: &Route, by_name: &PoolsByName) -> Vec<Arc<Pool>> {
    let mut pools = match &route.action {
        Action::Proxy(weighted) => weighted.pools.iter().map(|(pool, _)| pool.clone()).collect(),
        Action::Redirect(_) | Action::Respond(_) => Vec::new(),
    };
    for name in route.filters.pools() {
        let pool = named(by_name, name);
        if !pools.iter().any(|known| Arc::ptr_eq(known, &pool)) {
            pools.push(pool);
        }
    }
    pools
}

fn compile_routes(config: &model::Config, chains: Vec<Chain>, pools: &PoolsByName) -> Vec<Route> {
    let chains = chains.into_iter().chain(std::iter::repeat_with(Chain::default));
    let routes = config.routes.iter().zip(chains);
    routes.map(|(route, filters)| Route { filters, ..compile_route(route, pools) }).collect()
}

type PoolsByName = HashMap<model::PoolName, Arc<Pool>>;

fn named(pools: &PoolsByName, name: &model::PoolName) -> Arc<Pool> {
    pools.get(name).expect("a validated configuration has every pool that it names").clone()
}

fn acceptor(listener: &model::Listener) -> Option<Arc<Acceptor>> {
    let tls = listener.tls.clone()?;
    Some(Arc::new(Acceptor::new(listener.name.clone(), tls)))
}

fn compile_listener(listener: &model::Listener, pools: &PoolsByName) -> Option<Forwarding> {
    Some(Forwarding::new(listener.tcp()?, |name| named(pools, name)))
}

fn compile_route(route: &model::Route, pools: &PoolsByName) -> Route {
    let pool = |name: &model::PoolName| named(pools, name);
    let action = match &route.action {
        model::Action::Pool(name) => Action::Proxy(WeightedPools { pools: vec![(pool(name), 1)] }),
        model::Action::Split(model::Split(shares)) => {
            // As many shares as there may be in a file do not fit in the type of one.
            let mut sum = 0;
            let up_to = |(name, share): &(model::PoolName, u32)| {
                sum += u64::from(*share);
                (pool(name), sum)
            };
            Action::Proxy(WeightedPools { pools: shares.iter().map(up_to).collect() })
        }
        model::Action::Redirect(redirect) => Action::Redirect(redirect.clone()),
        model::Action::Respond(respond) => Action::Respond(respond.clone()),
    };
    let model::Route { name, timeout, upgrades, .. } = route.clone();
    Route { name, action, timeout, upgrades, filters: Chain::default() }
}

/// The one place that holds the snapshot in force.
#[derive(Debug)]
pub struct Live {
    snapshot: ArcSwap<Snapshot>,
    /// Connections that each listener serves, in the order of the listeners, which is that of every
    /// snapshot.
    open: Box<[Arc<AtomicUsize>]>,
}

impl Live {
    /// Puts `snapshot` in force.
    pub fn new(snapshot: Snapshot) -> Self {
        let open = snapshot.listeners.iter().map(|_| Arc::default()).collect();
        Self { snapshot: ArcSwap::from_pointee(snapshot), open }
    }

    /// How many connections the listener with this index serves.
    pub fn open(&self, listener: usize) -> &Arc<AtomicUsize> {
        &self.open[listener]
    }

    /// Puts another snapshot in force. Requests that have begun keep theirs.
    pub fn store(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(snapshot);
    }

    /// The snapshot in force.
    pub fn load(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The same for a short look, which costs less than half.
    pub fn peek(&self) -> impl Deref<Target = Arc<Snapshot>> {
        self.snapshot.load()
    }
}

//! Where the requests and connections of a snapshot are counted: found once, when it is compiled.

use crate::{
    model::{Listener, ListenerName, PoolName, Reason, RouteName},
    observe::{
        ConnectionLabels, Connections, Histogram, ListenerCounts, Metrics, RequestLabels, Requests,
    },
    pool::Pool,
};
use std::{sync::Arc, time::Duration};

/// The counters of a snapshot, by the numbers that it knows its parts by.
#[derive(Debug)]
pub(super) struct Series {
    /// By listener.
    listeners: Vec<Arc<ListenerCounts>>,
    /// By route.
    routes: Vec<Counted>,
    /// Requests that came to no route.
    unrouted: Counted,
    /// By listener; those that speak HTTP have none.
    connections: Vec<Option<ByPool<Connections>>>,
}

/// What the requests of one route are counted by.
#[derive(Debug)]
struct Counted {
    durations: Arc<Histogram>,
    /// By listener.
    requests: Vec<ByPool<Requests>>,
}

/// Counters by pool. There are few pools for each route and listener, so they are searched.
#[derive(Debug)]
struct ByPool<C> {
    /// For what came to no pool.
    none: Arc<C>,
    pools: Box<[(Arc<Pool>, Arc<C>)]>,
}

impl<C> ByPool<C> {
    fn new(pools: &[Arc<Pool>], counter: impl Fn(Option<PoolName>) -> Arc<C>) -> Self {
        let of = |pool: &Arc<Pool>| (pool.clone(), counter(Some(pool.spec().name.clone())));
        Self { none: counter(None), pools: pools.iter().map(of).collect() }
    }

    fn of(&self, pool: Option<&Arc<Pool>>) -> &Arc<C> {
        let find = |pool: &Arc<Pool>| {
            let same = self.pools.iter().find(|(it, _)| Arc::ptr_eq(it, pool));
            // One that waited while a reload came has ended in the pool as that is now.
            let named = || self.pools.iter().find(|(it, _)| it.spec().name == pool.spec().name);
            same.or_else(named)
        };
        pool.and_then(find).map_or(&self.none, |(_, counter)| counter)
    }
}

/// A request that has ended, as far as it is counted.
#[derive(Clone, Copy, Debug)]
pub struct EndedRequest<'a> {
    /// The listener's index.
    pub listener: usize,
    /// The route's index, if it came to one.
    pub route: Option<usize>,
    /// The pool, if it came to one.
    pub pool: Option<&'a Arc<Pool>>,
    /// The method, whatever the client sent.
    pub method: &'a str,
    /// The status in its line of the access log.
    pub status: u16,
    /// Why it ended so, if its answer is ours.
    pub local: Option<Reason>,
    /// From its first byte on.
    pub duration: Duration,
    /// Bytes of its body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
}

impl Series {
    /// The counters of these listeners, with the pools that their connections may go to, and of these
    /// routes, with theirs.
    pub(super) fn new(
        metrics: &Metrics,
        listeners: &[(&Listener, Vec<Arc<Pool>>)],
        routes: &[(&RouteName, Vec<Arc<Pool>>)],
    ) -> Self {
        let names: Vec<_> = listeners.iter().map(|(listener, _)| &listener.name).collect();
        let connections = listeners.iter().map(|(listener, pools)| {
            let of = |pool| {
                let listener = listener.name.clone();
                metrics.connections(ConnectionLabels { listener, pool })
            };
            listener.tcp().map(|_| ByPool::new(pools, of))
        });
        let of_route = |(name, pools): &(&RouteName, Vec<_>)| {
            Counted::new(metrics, &names, Some((*name).clone()), pools)
        };
        Self {
            connections: connections.collect(),
            listeners: names.iter().map(|name| metrics.listener((*name).clone())).collect(),
            routes: routes.iter().map(of_route).collect(),
            unrouted: Counted::new(metrics, &names, None, &[]),
        }
    }

    pub(super) fn count(&self, ended: &EndedRequest<'_>) {
        let route = ended.route.and_then(|index| self.routes.get(index)).unwrap_or(&self.unrouted);
        let requests = route.requests[ended.listener].of(ended.pool);
        requests.count(ended.method, ended.status);
        route.durations.observe(ended.duration);
        self.listeners[ended.listener].count_bytes(ended.bytes_in, ended.bytes_out);
    }

    pub(super) fn listener(&self, listener: usize) -> &Arc<ListenerCounts> {
        &self.listeners[listener]
    }

    pub(super) fn connections(
        &self,
        listener: usize,
        pool: Option<&Arc<Pool>>,
    ) -> &Arc<Connections> {
        let by_pool = self.connections[listener].as_ref();
        by_pool.expect("only tcp listeners pass connections on").of(pool)
    }
}

impl Counted {
    fn new(
        metrics: &Metrics,
        listeners: &[&ListenerName],
        route: Option<RouteName>,
        pools: &[Arc<Pool>],
    ) -> Self {
        let requests = listeners.iter().map(|listener| {
            let of = |pool| {
                let (listener, route) = ((*listener).clone(), route.clone());
                metrics.requests(RequestLabels { listener, route, pool })
            };
            ByPool::new(pools, of)
        });
        Self { requests: requests.collect(), durations: metrics.durations(route) }
    }
}

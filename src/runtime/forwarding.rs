//! Where the connections of a tcp listener go.

use crate::{
    model::{HostPattern, PoolName, Tcp},
    pool::Pool,
};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// The pools of a tcp listener: by the name in the client's TLS hello, and for all others.
#[derive(Debug)]
pub struct Forwarding {
    exact: HashMap<String, Arc<Pool>>,
    /// By the domain that the name is below.
    below: HashMap<String, Arc<Pool>>,
    pool: Option<Arc<Pool>>,
    /// How long a connection may go without a byte in either direction.
    pub idle_timeout: Duration,
}

impl Forwarding {
    pub(super) fn new(tcp: &Tcp, pool: impl Fn(&PoolName) -> Arc<Pool>) -> Self {
        let (mut exact, mut below) = (HashMap::new(), HashMap::new());
        for (pattern, name) in &tcp.sni {
            match pattern {
                HostPattern::Exact(host) => exact.insert(host.clone(), pool(name)),
                HostPattern::Below(domain) => below.insert(domain.clone(), pool(name)),
            };
        }
        let fallback = tcp.pool.as_ref().map(pool);
        Self { exact, below, pool: fallback, idle_timeout: tcp.idle_timeout }
    }

    /// The pools that connections may go to, each once.
    pub(super) fn pools(&self) -> Vec<Arc<Pool>> {
        let mut pools: Vec<Arc<Pool>> = Vec::new();
        for pool in self.exact.values().chain(self.below.values()).chain(&self.pool) {
            if !pools.iter().any(|known| Arc::ptr_eq(known, pool)) {
                pools.push(pool.clone());
            }
        }
        pools
    }

    /// Whether the name that a client asks for makes a difference.
    pub fn depends_on_name(&self) -> bool {
        !self.exact.is_empty() || !self.below.is_empty()
    }

    /// The pool for a client that asks for `name`, in lower case, or for none: that of the name, else
    /// that of the longest domain it is below, else that of everybody else.
    pub fn choose(&self, name: Option<&str>) -> Option<&Arc<Pool>> {
        name.and_then(|name| self.by_name(name)).or(self.pool.as_ref())
    }

    fn by_name(&self, name: &str) -> Option<&Arc<Pool>> {
        if let Some(pool) = self.exact.get(name) {
            return Some(pool);
        }
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(pool) = self.below.get(parent) {
                return Some(pool);
            }
            rest = parent;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, filter::Registry, pool::Interner};
    use std::path::Path;

    fn forwarding(listener: &str) -> Forwarding {
        let text = format!(
            "listeners: {{ x: {{ address: 127.0.0.1:1, protocol: tcp, {listener} }} }}\n\
             pools: {{ a: {{ backends: [a:1] }}, b: {{ backends: [b:1] }}, c: {{ backends: [c:1] }} }}"
        );
        let config =
            config::parse(&text, "lb.yaml", Path::new("/"), &|_| None, &Registry::default());
        let config = config.unwrap().config;
        let interner = Arc::new(Interner::default());
        let pool = |name: &PoolName| {
            let spec = config.pools.iter().find(|pool| pool.name == *name).unwrap();
            Pool::new(spec.clone(), interner.clone())
        };
        Forwarding::new(config.listeners[0].tcp().unwrap(), pool)
    }

    fn chosen(forwarding: &Forwarding, name: Option<&str>) -> Option<String> {
        forwarding.choose(name).map(|pool| pool.spec().name.to_string())
    }

    #[test]
    fn the_narrowest_name_decides_wherever_it_stands() {
        let all = forwarding("sni: { '*.x.org': a, '*.b.x.org': b, a.b.x.org: c }");
        for (name, pool) in [
            ("a.b.x.org", Some("c")),
            ("z.b.x.org", Some("b")),
            ("y.z.b.x.org", Some("b")),
            ("b.x.org", Some("a")),
            ("a.c.x.org", Some("a")),
            ("x.org", None),
            ("org", None),
            ("ax.org", None),
            ("", None),
        ] {
            assert_eq!(chosen(&all, Some(name)).as_deref(), pool, "{name}");
        }
        assert_eq!(chosen(&all, None), None);
        assert!(all.depends_on_name());
    }

    #[test]
    fn the_pool_is_for_everybody_else() {
        let some = forwarding("sni: { x.org: a }, pool: b");
        assert_eq!(chosen(&some, Some("x.org")).as_deref(), Some("a"));
        assert_eq!(chosen(&some, Some("y.org")).as_deref(), Some("b"));
        assert_eq!(chosen(&some, None).as_deref(), Some("b"));
        assert!(!forwarding("pool: b").depends_on_name());
    }
}

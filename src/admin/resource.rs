//! Paths, and which methods each takes.

use http::Method;
use percent_encoding::percent_decode_str;

/// What a path stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    /// The page for people.
    Dashboard,
    Health,
    Readiness,
    Metrics,
    Status,
    Events,
    Pools,
    /// A pool, by its name.
    Pool(String),
    /// The backends of a pool.
    Backends(String),
    /// A backend, by its pool's name and its own.
    Backend(String, String),
    Config,
    /// What the file of the configuration says.
    File,
    Explain,
    LogLevel,
    Reload,
}

impl Resource {
    /// The resource at a path, whose parts may be percent-encoded, so that names can have slashes.
    pub(super) fn at(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let name = |part: &str| {
            let name = percent_decode_str(part).decode_utf8().ok()?;
            Some(name.into_owned()).filter(|name| !name.is_empty())
        };
        Some(match parts[..] {
            [""] => Self::Dashboard,
            ["healthz"] => Self::Health,
            ["readyz"] => Self::Readiness,
            ["metrics"] => Self::Metrics,
            ["api", "v1", "status"] => Self::Status,
            ["api", "v1", "events"] => Self::Events,
            ["api", "v1", "pools"] => Self::Pools,
            ["api", "v1", "pools", pool] => Self::Pool(name(pool)?),
            ["api", "v1", "pools", pool, "backends"] => Self::Backends(name(pool)?),
            ["api", "v1", "pools", pool, "backends", backend] => {
                Self::Backend(name(pool)?, name(backend)?)
            }
            ["api", "v1", "config"] => Self::Config,
            ["api", "v1", "config", "file"] => Self::File,
            ["api", "v1", "explain"] => Self::Explain,
            ["api", "v1", "log_level"] => Self::LogLevel,
            ["api", "v1", "reload"] => Self::Reload,
            _ => return None,
        })
    }

    /// The methods that it takes, as they stand in `Allow`.
    pub(super) fn methods(&self) -> &'static str {
        match self {
            Self::Reload | Self::Backends(_) | Self::Explain => "POST",
            Self::Backend(..) => "PUT, DELETE",
            Self::LogLevel => "GET, HEAD, PUT",
            _ => "GET, HEAD",
        }
    }

    pub(super) fn takes(&self, method: &Method) -> bool {
        self.methods().split(", ").any(|taken| taken == method.as_str())
    }

    /// Whether it is there for those who have no token: what asks for it seldom can have one.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Health | Self::Readiness)
    }
}

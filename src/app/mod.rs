//! From a configuration to a running server.
//!
//! [`App`] is what a `main` holds: the shipped binary's and that of anyone who builds on the library.
//! Everything that can fail at the start fails before the process goes to the background: the
//! configuration is compiled, the log files are opened and every address is bound first. The server
//! itself is Pingora's; it daemonizes, runs our one [`service`] on its worker threads, and ends when
//! our [`signals`] say so.

mod difference;
mod explain;
mod files;
mod in_process;
mod instance;
mod notify;
mod reload;
mod service;
mod signals;
mod watch;

pub use difference::Difference;
pub(crate) use in_process::Serving;

use crate::{
    config::Checked,
    filter::{Filter, Registry},
    listener::BindError,
    model::Config,
    observe::{AccessLog, error_log},
    pool::Interner,
    runtime::Snapshot,
    tls,
};
use pingora::server::{RunArgs, Server, configuration::ServerConf};
use service::{Places, Service, Sockets, Start};
use signals::{Control, Signals};
use std::{io, path::PathBuf, sync::Arc};

/// A balancer that is to run. It is made in `main` and consumed by `run`.
#[derive(Debug, Default)]
pub struct App {
    filters: Registry,
}

/// How a configuration is to be served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// Go to the background, whatever the configuration says.
    pub daemon: bool,
    /// Take the listening sockets over from the running instance.
    pub upgrade: bool,
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A file that is needed cannot be used.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The access log would go nowhere.
    #[error(
        "access_log.path is stdout, which a daemon with server.error_log does not have; \
         give access_log.path a file"
    )]
    NoStdout,
    /// The user or group to run as is unknown.
    #[error("{kind} {name}: {problem}")]
    Account {
        /// `user` or `group`.
        kind: &'static str,
        /// As configured.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The log could not be set up.
    #[error("cannot set up logging: {0}")]
    Logging(io::Error),
    /// It failed after it began to start; the log says why.
    #[error("{0}")]
    Failed(String),
}

impl App {
    /// A balancer with the built-in parts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the filter `F` known, so that routes may name it. A name that a filter has already is an
    /// error of every configuration.
    #[must_use]
    pub fn filter<F: Filter>(mut self) -> Self {
        self.filters.add::<F>();
        self
    }

    /// The filters that routes may name.
    pub fn filters(&self) -> &Registry {
        &self.filters
    }

    /// Compiles a configuration as a start would, and throws the result away: what `-t` runs.
    pub fn check(&self, checked: Checked) {
        let interner = Arc::new(Interner::default());
        let metrics = Arc::default();
        drop(Snapshot::compile(&checked.config, checked.filters, &interner, None, metrics));
    }

    /// Serves a configuration until the process is told to end, and returns when it may.
    ///
    /// # Errors
    /// When it cannot start.
    pub fn serve(&self, checked: Checked, mode: Mode) -> Result<(), StartError> {
        signals::hold();
        let config = checked.config.clone();
        let daemon = mode.daemon || config.server.daemon;
        files::prepare(&config, daemon)?;
        let error_file = config.server.error_log.as_deref().filter(|_| daemon);
        let error_log =
            error_log::init(config.server.log_level, error_file).map_err(StartError::Logging)?;
        for warning in &checked.warnings {
            log::warn!("{warning}");
        }
        if !daemon && (config.server.user.is_some() || config.server.group.is_some()) {
            log::warn!("server.user and server.group apply to a daemon only; nothing changes here");
        }
        let sockets = if mode.upgrade {
            Sockets::TakenOver(files::await_hand_over(&config, daemon)?)
        } else {
            Sockets::Bound(Places::bind(&config, |_| None)?)
        };
        let control = Arc::new(Control::new(&config, error_log, &sockets));
        if !daemon {
            control.start_error_log();
        }
        let mut server = Server::new_with_opt_and_conf(None, server_conf(&config, daemon));
        let start = Start {
            checked,
            filters: self.filters.clone(),
            sockets,
            control: control.clone(),
            conf: server.configuration.clone(),
        };
        server.add_service(Service::new(start));
        server.run(RunArgs { shutdown_signal: Box::new(Signals::new(control.clone())) });
        control.finish(&config, daemon)
    }
}

/// Opens the access log as the configuration says.
fn open_access_log(config: &Config) -> Result<Option<Arc<AccessLog>>, StartError> {
    let Some(settings) = &config.access_log else { return Ok(None) };
    match AccessLog::open(settings) {
        Ok(log) => Ok(Some(Arc::new(log))),
        Err(source) => Err(StartError::File { path: files::access_log_path(settings), source }),
    }
}

/// The most tries of one request that Pingora allows; how many there are is our decision.
const MAX_TRIES: usize = 64;
/// Idle connections to backends that each worker thread keeps.
const UPSTREAM_POOL: usize = 1024;

fn server_conf(config: &Config, daemon: bool) -> ServerConf {
    let server = &config.server;
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    ServerConf {
        daemon,
        threads: server.threads,
        // The runtime that could give work to another thread runs next what a task has just woken, so that an
        // HTTP/2 connection writes for each of its streams. A single thread has nobody to give work to.
        work_stealing: server.threads > 1,
        pid_file: text(&server.pid_file),
        upgrade_sock: text(&server.upgrade_sock),
        error_log: server.error_log.as_ref().map(text).filter(|_| daemon),
        user: server.user.clone().filter(|_| daemon),
        group: server.group.clone().filter(|_| daemon),
        // By the time Pingora is told to end, we have drained.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        upstream_keepalive_pool_size: UPSTREAM_POOL,
        max_retries: MAX_TRIES,
        // Whom to believe is said for each backend; see `tls::PeerTls`.
        ca_file: Some(tls::NO_AUTHORITIES.to_owned()),
        ..ServerConf::default()
    }
}

//! Settings of the process.

use std::{path::PathBuf, time::Duration};

/// `server:` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Worker threads shared by all listeners; at least 1.
    pub threads: usize,
    /// Run in the background.
    pub daemon: bool,
    /// Where a daemon writes its process id.
    pub pid_file: PathBuf,
    /// The socket over which a successor receives the listening sockets.
    pub upgrade_sock: PathBuf,
    /// Where a daemon logs; `None` is stderr.
    pub error_log: Option<PathBuf>,
    /// The user a daemon runs as.
    pub user: Option<String>,
    /// The group a daemon runs as.
    pub group: Option<String>,
    /// How long work in flight may go on after TERM or a hand-over.
    pub drain_timeout: Duration,
    /// How long it goes on accepting after TERM, while it says that it is not ready.
    pub shutdown_delay: Duration,
    /// The least severe messages that are logged.
    pub log_level: log::LevelFilter,
    /// Whether a change of the configuration's file, or of one that it names, is a reload.
    pub watch: bool,
}

/// `access_log:` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Where the lines go.
    pub path: LogTarget,
    /// What a line looks like.
    pub format: AccessLogFormat,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// The process's standard output.
    Stdout,
    /// A file, appended to, reopened on HUP and USR1.
    File(PathBuf),
}

/// The form of an access-log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// One JSON object a line.
    Json,
    /// Apache's combined format.
    Combined,
}

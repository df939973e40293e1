//! `server:`, the settings of the process.

use super::{
    reader::{Context, Field, Keys, Section},
    scalar::Hint,
};
use crate::model::{MAX_SOCKET_PATH, Server};
use log::LevelFilter;
use std::{
    path::{Path, PathBuf},
    thread::available_parallelism,
    time::Duration,
};

pub(super) const KEYS: Keys = Keys {
    section: "server",
    names: &[
        "threads",
        "daemon",
        "pid_file",
        "upgrade_sock",
        "error_log",
        "user",
        "group",
        "drain_timeout",
        "shutdown_delay",
        "log_level",
        "watch",
    ],
};

const MAX_THREADS: usize = 1024;
pub(super) const LOG_LEVELS: [(&str, LevelFilter); 6] = [
    ("off", LevelFilter::Off),
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];

/// The settings of a file without `server:`.
pub(super) fn defaults(env: &dyn Fn(&str) -> Option<String>) -> Server {
    let folder = RuntimeFolder::of_this_process(env);
    Server {
        threads: available_parallelism().map_or(1, |threads| threads.get().min(MAX_THREADS)),
        daemon: false,
        pid_file: folder.0.join("pingora-lb.pid"),
        upgrade_sock: folder.0.join("pingora-lb-upgrade.sock"),
        error_log: None,
        user: None,
        group: None,
        drain_timeout: Duration::from_secs(30),
        shutdown_delay: Duration::ZERO,
        log_level: LevelFilter::Info,
        watch: false,
    }
}

/// Where the process keeps its own files unless told otherwise.
struct RuntimeFolder(PathBuf);

impl RuntimeFolder {
    fn of_this_process(env: &dyn Fn(&str) -> Option<String>) -> Self {
        let user = rustix::process::geteuid();
        Self::of(user.is_root(), user.as_raw(), env("XDG_RUNTIME_DIR"))
    }

    /// `/run` belongs to root; another user has a folder of their own, which the session manager
    /// made or which whoever binds the socket makes with mode 0700.
    fn of(root: bool, user: u32, session: Option<String>) -> Self {
        if root {
            return Self(PathBuf::from("/run"));
        }
        let session = session.filter(|folder| Path::new(folder).is_absolute());
        Self(
            session.map_or_else(|| PathBuf::from(format!("/tmp/pingora-lb-{user}")), PathBuf::from),
        )
    }
}

/// Reads `server:`, all of which has defaults.
pub(super) fn read(field: Option<&Field<'_>>, context: &Context<'_>) -> Option<Server> {
    let defaults = defaults(&|name| context.env(name));
    let Some(field) = field else { return Some(defaults) };
    field.section(&KEYS).map(|section| settings(&section, defaults))
}

fn settings(section: &Section<'_>, defaults: Server) -> Server {
    let threads = |field: &Field<'_>| {
        field.integer(1..=MAX_THREADS as u64).and_then(|threads| usize::try_from(threads).ok())
    };
    Server {
        threads: section.or("threads", defaults.threads, threads),
        daemon: section.or("daemon", defaults.daemon, Field::switch),
        pid_file: section.or("pid_file", defaults.pid_file, Field::file),
        upgrade_sock: section.or("upgrade_sock", defaults.upgrade_sock, socket),
        error_log: section.optional("error_log", Field::file),
        user: section.optional("user", |field| account(field, "user")),
        group: section.optional("group", |field| account(field, "group")),
        drain_timeout: section.or("drain_timeout", defaults.drain_timeout, Field::duration),
        shutdown_delay: section.or("shutdown_delay", defaults.shutdown_delay, Field::duration),
        log_level: section.or("log_level", defaults.log_level, log_level),
        watch: section.or("watch", defaults.watch, Field::switch),
    }
}

const LOG_LEVEL: Keys = Keys { section: "", names: &["level"] };

/// Reads the log level alone.
pub(super) fn read_log_level(field: &Field<'_>) -> Option<LevelFilter> {
    let level = field.section(&LOG_LEVEL)?.require("level", "a log level")?;
    log_level(&level)
}

fn log_level(field: &Field<'_>) -> Option<LevelFilter> {
    if field.is_off() { Some(LevelFilter::Off) } else { field.word("log level", &LOG_LEVELS) }
}

fn socket(field: &Field<'_>) -> Option<PathBuf> {
    let base = field.context().base();
    field.scalar("the path of a socket", |text| {
        let path = base.join(text);
        let fits = path.as_os_str().len() <= MAX_SOCKET_PATH;
        if text.is_empty() || text.contains('\0') {
            Err(Hint::default())
        } else if fits {
            Ok(path)
        } else {
            Err(Hint::expected("the path of a socket, at most 107 bytes with its folder"))
        }
    })
}

fn account(field: &Field<'_>, what: &str) -> Option<String> {
    field.scalar(&format!("the name of a {what}"), |text| {
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b':' | b'/');
        let valid = (1..=32).contains(&text.len()) && text.bytes().all(plain);
        if valid { Ok(text.to_owned()) } else { Err(Hint::default()) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_files_are_where_the_user_may_write() {
        let session = || Some("/run/user/7".to_owned());
        assert_eq!(RuntimeFolder::of(true, 0, session()).0, Path::new("/run"));
        assert_eq!(RuntimeFolder::of(false, 7, session()).0, Path::new("/run/user/7"));
        for session in [None, Some(String::new()), Some("relative".to_owned())] {
            let folder = RuntimeFolder::of(false, 7, session);
            assert_eq!(folder.0, Path::new("/tmp/pingora-lb-7"));
        }
    }
}

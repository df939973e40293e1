//! The files a server needs besides its configuration, tried out while there is still a terminal to
//! complain on.

use super::StartError;
use crate::{
    listener::{Account, Successor},
    model::{self, AccessLog, Config, LogTarget},
};
use nix::unistd::{Gid, Group, Uid, User, geteuid};
use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};
use std::{
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

/// Makes or checks what the server will need.
pub(super) fn prepare(config: &Config, daemon: bool) -> Result<(), StartError> {
    let server = &config.server;
    let owner = Owner::of(server, daemon)?;
    if daemon {
        usable(&server.pid_file, owner.private_parent(&server.pid_file))?;
        if let Some(path) = &server.error_log {
            usable(path, owner.appendable(path))?;
        }
    }
    match config.access_log.as_ref().map(|log| &log.path) {
        Some(LogTarget::File(path)) => usable(path, owner.appendable(path)),
        Some(LogTarget::Stdout) if daemon && server.error_log.is_some() => {
            Err(StartError::NoStdout)
        }
        Some(LogTarget::Stdout) | None => Ok(()),
    }
}

/// Listens for the running instance. A daemon's user could not make the socket in a folder of root's,
/// so this is done before the process becomes that user, and the socket is given to it.
pub(super) fn await_hand_over(config: &Config, daemon: bool) -> Result<Successor, StartError> {
    let path = &config.server.upgrade_sock;
    let owner = Owner::of(&config.server, daemon)?;
    usable(path, owner.private_parent(path))?;
    usable(path, Successor::listen(path, owner.account()))
}

fn usable<T>(path: &Path, tried: io::Result<T>) -> Result<T, StartError> {
    tried.map_err(|source| StartError::File { path: path.to_path_buf(), source })
}

/// Whom the files must belong to: the account a daemon runs as uses them after it has given up root's
/// rights.
#[derive(Default)]
struct Owner {
    user: Option<Uid>,
    group: Option<Gid>,
}

impl Owner {
    fn of(server: &model::Server, daemon: bool) -> Result<Self, StartError> {
        if !daemon {
            return Ok(Self::default());
        }
        let user = match &server.user {
            Some(name) => Some(account("user", name, User::from_name(name), |user| user.uid)?),
            None => None,
        };
        let group = match &server.group {
            Some(name) => Some(account("group", name, Group::from_name(name), |group| group.gid)?),
            None => None,
        };
        Ok(Self { user, group })
    }

    fn account(&self) -> Account {
        Account { user: self.user.map(Uid::as_raw), group: self.group.map(Gid::as_raw) }
    }

    /// Makes the folder of `path` if it is missing, for nobody but us and the account. A folder in a
    /// place that everyone can write to must not be somebody else's: the default for users without a
    /// runtime directory lies in one.
    fn private_parent(&self, path: &Path) -> io::Result<()> {
        let Some(folder) = path.parent() else { return Ok(()) };
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Ok(()) => return std::os::unix::fs::chown(folder, self.account().user, None),
            Err(error) => return Err(error),
        }
        let owner = fs::metadata(folder)?.uid();
        if [Some(0), Some(geteuid().as_raw()), self.account().user].contains(&Some(owner)) {
            return Ok(());
        }
        let problem = "its folder belongs to another user";
        Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
    }

    /// Opens `path` for appending as a server would, and sees to it that the server may.
    fn appendable(&self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let Account { user, group } = self.account();
        let meta = file.metadata()?;
        let changes = user.is_some_and(|user| user != meta.uid())
            || group.is_some_and(|group| group != meta.gid());
        if changes && meta.is_file() {
            std::os::unix::fs::fchown(&file, user, group)?;
        }
        Ok(())
    }
}

/// Looks an account up, and makes sure that we can become it.
fn account<A, I>(
    kind: &'static str,
    name: &str,
    found: nix::Result<Option<A>>,
    id: impl Fn(&A) -> I,
) -> Result<I, StartError> {
    let error = |problem: String| StartError::Account { kind, name: name.to_owned(), problem };
    match found {
        Ok(Some(account)) if geteuid().is_root() => Ok(id(&account)),
        Ok(Some(_)) => Err(error("only root can run as another account".to_owned())),
        Ok(None) => Err(error("there is no such account".to_owned())),
        Err(problem) => Err(error(problem.desc().to_owned())),
    }
}

/// Removes the pid file if it is ours: a successor writes its own.
pub(super) fn remove_pid_file(config: &Config) {
    let path = &config.server.pid_file;
    let ours =
        fs::read_to_string(path).is_ok_and(|text| text.trim() == std::process::id().to_string());
    if ours {
        // Nobody waits for this; a leftover pid file is replaced by the next start.
        let _ = fs::remove_file(path);
    }
}

/// After a daemon that was to succeed another one has not: puts back the pid file of that one, which
/// was moved out of the way, unless another start has put its own there.
pub(super) fn restore_pid_file(config: &Config) {
    let path = &config.server.pid_file;
    let mut old = path.clone().into_os_string();
    old.push(".old");
    let old = PathBuf::from(old);
    let running = fs::read_to_string(&old).is_ok_and(|text| is_running(text.trim()));
    if !running || path.exists() {
        return;
    }
    if let Err(error) = fs::rename(&old, path) {
        let (old, path) = (old.display(), path.display());
        log::warn!("cannot rename {old} back to {path}: {error}");
    }
}

fn is_running(pid: &str) -> bool {
    let pid = pid.parse().ok().and_then(Pid::from_raw);
    // Another user's process answers with an error of permission.
    pid.is_some_and(|pid| matches!(test_kill_process(pid), Ok(()) | Err(Errno::PERM)))
}

/// The name of the access log for an error message.
pub(super) fn access_log_path(settings: &AccessLog) -> PathBuf {
    match &settings.path {
        LogTarget::Stdout => PathBuf::from("stdout"),
        LogTarget::File(path) => path.clone(),
    }
}

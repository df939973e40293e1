//! A file of users that may change.

use super::users::{Users, Wrong};
use arc_swap::ArcSwap;
use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

/// How often the file is looked at, at most.
const LOOK: Duration = Duration::from_secs(1);
/// A file that was written this short a time ago may be written again within the same tick of the
/// file system's clock, and so without a trace.
const SETTLED: Duration = Duration::from_secs(2);
/// The longest file, in bytes: two hundred thousand users.
const MAX_LENGTH: u64 = 16 << 20;

/// The users in a file, and what is known of the file.
pub(super) struct UserFile {
    path: PathBuf,
    users: ArcSwap<Users>,
    /// Time is counted from here.
    began: Instant,
    /// When the file was looked at last, in nanoseconds.
    looked: AtomicU64,
    /// Held while somebody looks.
    seen: Mutex<Seen>,
}

/// What the last look saw.
struct Seen {
    /// `None` if the file must be read again whatever it looks like.
    mark: Option<Mark>,
    /// What was wrong, and was logged.
    fault: Option<Fault>,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What is wrong with a file, in the words of a configuration error.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) found: String,
    pub(super) expected: String,
}

impl UserFile {
    /// Reads the file.
    pub(super) fn open(path: PathBuf) -> Result<Self, Fault> {
        let mark = look_at(&path);
        let users = ArcSwap::from_pointee(read(&path)?);
        let seen = Mutex::new(Seen { mark, fault: None });
        Ok(Self { path, users, began: Instant::now(), looked: AtomicU64::new(0), seen })
    }

    /// The users of now.
    pub(super) fn users(&self) -> Arc<Users> {
        self.users.load_full()
    }

    /// Whether it is the same file with the same users.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.path == other.path && self.users().are_same(&other.users())
    }

    /// Whether it is time to look at the file. It says so once; who is told so must do it.
    pub(super) fn is_due(&self) -> bool {
        self.is_due_at(u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn is_due_at(&self, now: u64) -> bool {
        let last = self.looked.load(Relaxed);
        u128::from(now.saturating_sub(last)) >= LOOK.as_nanos()
            && self.looked.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
    }

    /// Reads the file again if it has changed. If it cannot be used, the users stay as they are, and
    /// the error log says so, once. This reads from a disk and so may wait.
    pub(super) fn look(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = look_at(&self.path);
        if mark.is_some() && mark == seen.mark {
            return;
        }
        seen.mark = mark;
        match read(&self.path) {
            Ok(users) => self.replace(users, seen.fault.take().is_some()),
            Err(fault) if seen.fault.as_ref() == Some(&fault) => {}
            Err(fault) => {
                let Fault { found, expected } = &fault;
                log::error!(
                    "basic_auth: {found}; expected {expected}; the users stay as they were"
                );
                seen.fault = Some(fault);
            }
        }
    }

    /// The users who are still the same keep what they have proved.
    fn replace(&self, users: Users, was_wrong: bool) {
        let same = users.are_same(&self.users());
        if !same || was_wrong {
            let (name, count) = (quote(&self.path), users.len());
            log::info!("basic_auth: {name} was read again; users: {count}");
        }
        if !same {
            self.users.store(Arc::new(users));
        }
    }
}

/// What the file looks like; `None` if that cannot be relied on.
fn look_at(path: &Path) -> Option<Mark> {
    let meta = fs::metadata(path).ok()?;
    let age = SystemTime::now().duration_since(meta.modified().ok()?).ok()?;
    (age > SETTLED).then(|| Mark::of(&meta))
}

impl Mark {
    fn of(meta: &Metadata) -> Self {
        Self {
            file: (meta.dev(), meta.ino()),
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

fn read(path: &Path) -> Result<Users, Fault> {
    let name = quote(path);
    let bytes = read_bytes(path).map_err(|error| Fault {
        found: format!("cannot read {name}: {error}"),
        expected: "a file of users that can be read".to_owned(),
    })?;
    Users::read(&bytes).map_err(|Wrong { line, found, expected }| {
        let place = line.map_or_else(String::new, |line| format!("line {line} of "));
        Fault { found: format!("{place}{name} has {found}"), expected }
    })
}

/// The path in quotes, on one line whatever is in it.
fn quote(path: &Path) -> String {
    format!("{:?}", path.to_string_lossy())
}

/// Reads a file that is one: a pipe would have no end.
fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if meta.len() > MAX_LENGTH {
        return Err(io::Error::other("it is longer than 16 MiB"));
    }
    fs::read(path)
}

#[cfg(test)]
mod tests {
    use super::{super::users::tests::line, *};
    use std::fs::File;

    const SECOND: u64 = 1_000_000_000;

    /// A file with this text, written so many seconds ago.
    fn write(path: &Path, text: &str, age: u64) {
        fs::write(path, text).unwrap();
        let modified = SystemTime::now() - Duration::from_secs(age);
        File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
    }

    fn fault(file: &UserFile) -> Option<String> {
        file.seen.lock().unwrap().fault.as_ref().map(|fault| fault.found.clone())
    }

    #[test]
    fn one_request_in_a_second_looks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        write(&path, &line("ada", "a"), 10);
        let file = UserFile::open(path).unwrap();
        assert!(!file.is_due_at(SECOND - 1));
        assert!(file.is_due_at(SECOND));
        assert!(!file.is_due_at(SECOND));
        assert!(!file.is_due_at(2 * SECOND - 1));
        assert!(file.is_due_at(3 * SECOND));
        assert!(!file.is_due_at(2 * SECOND), "a request that was late");
    }

    #[test]
    fn a_change_is_seen_and_what_cannot_be_used_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        write(&path, &line("ada", "a"), 10);
        let file = UserFile::open(path.clone()).unwrap();
        let first = file.users();
        file.look();
        assert!(Arc::ptr_eq(&first, &file.users()), "nothing has changed");

        write(&path, "broken\n", 9);
        file.look();
        assert!(fault(&file).unwrap().ends_with("has no colon"));
        assert!(Arc::ptr_eq(&first, &file.users()));
        fs::remove_file(&path).unwrap();
        file.look();
        assert!(fault(&file).unwrap().contains("No such file"));
        assert!(Arc::ptr_eq(&first, &file.users()));

        write(&path, &line("zoe", "z"), 8);
        file.look();
        assert_eq!(fault(&file), None);
        assert!(file.users().verify("zoe", "z") && !file.users().verify("ada", "a"));
    }

    #[test]
    fn a_file_that_was_just_written_is_read_whatever_it_looks_like() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        write(&path, &line("ada", "a"), 0);
        let file = UserFile::open(path.clone()).unwrap();
        let first = file.users();
        file.look();
        assert!(file.seen.lock().unwrap().mark.is_none(), "it may change without a trace");
        assert!(Arc::ptr_eq(&first, &file.users()), "the same users stay who they are");
        write(&path, &line("ada", "b"), 0);
        file.look();
        assert!(file.users().verify("ada", "b"));
    }
}

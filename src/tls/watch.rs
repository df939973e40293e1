//! Noticing that files have changed, and taking in what they hold now.

use super::load::{self, FileError, IdentityError};
use crate::model::{Authorities, Identity, Source, Stamp};
use std::{
    fs,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Something made of files, which can be made anew.
pub trait Watched: Send + Sync {
    /// What it is called in messages, such as `listener web`.
    fn name(&self) -> String;

    /// The files that it was made of.
    fn sources(&self) -> Vec<Source>;

    /// Makes it anew from what the files hold now, and puts that in the place of the old.
    ///
    /// # Errors
    /// What is wrong with a file. The old stays in use.
    fn read_again(&self) -> Result<Reread, FileError>;
}

/// What was read again, and what about it looks like a mistake.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reread {
    /// One warning each.
    pub warnings: Vec<String>,
}

impl Reread {
    /// Reads an identity again.
    pub(super) fn identity(before: &Identity) -> Result<Identity, FileError> {
        load::identity(&before.cert.path, &before.key.path).map_err(IdentityError::into_file_error)
    }

    /// Reads authorities again. Those of the system stay.
    pub(super) fn authorities(before: &Authorities) -> Result<Authorities, FileError> {
        match &before.file {
            Some(file) => load::authorities(&file.path),
            None => Ok(before.clone()),
        }
    }

    /// What these identities are worth a warning for.
    pub(super) fn of<'a>(identities: impl Iterator<Item = &'a Identity>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let warning = |identity: &Identity| {
            let problem = load::untimely(identity.validity, now)?;
            Some(format!("{} has {problem}", identity.cert.path.display()))
        };
        Self { warnings: identities.filter_map(warning).collect() }
    }
}

/// Everything that is to follow its files.
pub struct Watch(Vec<Entry>);

struct Entry {
    what: Arc<dyn Watched>,
    /// The files as they were when reading them failed, until they change.
    failed: Option<Failed>,
}

struct Failed {
    stamps: Vec<Option<Stamp>>,
    reported: bool,
}

impl Watch {
    /// Watches these.
    pub fn new(watched: impl IntoIterator<Item = Arc<dyn Watched>>) -> Self {
        let entry = |what| Entry { what, failed: None };
        Self(watched.into_iter().map(entry).collect())
    }

    /// Whether there is nothing to watch.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in what has changed since it was read, before anybody uses it, and says nothing: what is wrong
    /// with a file is told at the next look. This waits for the file system.
    pub fn catch_up(&self) {
        for Entry { what, .. } in &self.0 {
            let sources = what.sources();
            if !are_as_read(&sources, &present_stamps(&sources)) {
                let _ = what.read_again();
            }
        }
    }

    /// Takes in what has changed; with `all`, also what has not. This waits for the file system.
    pub fn look(&mut self, all: bool) {
        for entry in &mut self.0 {
            entry.look(all);
        }
    }
}

impl Entry {
    fn look(&mut self, always: bool) {
        let sources = self.what.sources();
        let stamps = present_stamps(&sources);
        let is_as_read = are_as_read(&sources, &stamps);
        if is_as_read && !always {
            self.failed = None;
            return;
        }
        let before = self.failed.take().filter(|failed| failed.stamps == stamps);
        if !always && before.as_ref().is_some_and(|failed| failed.reported) {
            self.failed = before;
            return;
        }
        match self.what.read_again() {
            Ok(reread) => self.succeeded(&reread),
            // A daemon's user may not be able to read its keys. As long as they are the same, nothing
            // is lost.
            Err(error) if is_as_read => log::debug!("{}: {error}", self.what.name()),
            // A certificate and its key are two files, and somebody may be between the two: what is
            // wrong is told when it has stayed so until the next look.
            Err(error) => {
                let reported = always || before.is_some();
                if reported {
                    log::error!("{}: {error}; what was read before stays in use", self.what.name());
                }
                self.failed = Some(Failed { stamps, reported });
            }
        }
    }

    fn succeeded(&self, reread: &Reread) {
        let name = self.what.name();
        log::info!("{name}: certificates read again");
        for warning in &reread.warnings {
            log::warn!("{name}: {warning}");
        }
    }
}

/// What files are like now; `None` for one that is not there. This waits for the file system.
pub fn present_stamps(sources: &[Source]) -> Vec<Option<Stamp>> {
    let present = |source: &Source| fs::metadata(&source.path).ok().map(|it| Stamp::of(&it));
    sources.iter().map(present).collect()
}

/// Whether files that are like this now are as they were when they were read.
pub fn are_as_read(sources: &[Source], stamps: &[Option<Stamp>]) -> bool {
    sources.iter().map(|source| Some(source.stamp)).eq(stamps.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        path::PathBuf,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
    };

    /// Something made of one file, which is good unless it says `bad`.
    struct Thing {
        source: Mutex<Source>,
        reads: AtomicUsize,
    }

    impl Watched for Thing {
        fn name(&self) -> String {
            "thing".to_owned()
        }

        fn sources(&self) -> Vec<Source> {
            vec![self.source.lock().unwrap().clone()]
        }

        fn read_again(&self) -> Result<Reread, FileError> {
            self.reads.fetch_add(1, Relaxed);
            let mut source = self.source.lock().unwrap();
            if fs::read_to_string(&source.path).is_ok_and(|text| text != "bad") {
                *source = source_of(source.path.clone());
                return Ok(Reread::default());
            }
            Err(FileError { problem: "bad".to_owned(), expected: "good" })
        }
    }

    fn source_of(path: PathBuf) -> Source {
        let stamp = Stamp::of(&fs::metadata(&path).unwrap());
        Source { path, stamp }
    }

    struct Test {
        folder: tempfile::TempDir,
        thing: Arc<Thing>,
        watch: Watch,
    }

    impl Test {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("file"), "good").unwrap();
            let source = Mutex::new(source_of(folder.path().join("file")));
            let thing = Arc::new(Thing { source, reads: AtomicUsize::new(0) });
            let watch = Watch::new([thing.clone() as Arc<dyn Watched>]);
            Self { folder, thing, watch }
        }

        fn replace(&self, text: &str) {
            let new = self.folder.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, self.folder.path().join("file")).unwrap();
        }

        /// How often it was read in that many looks.
        fn reads(&mut self, looks: usize, all: bool) -> usize {
            (0..looks).for_each(|_| self.watch.look(all));
            self.thing.reads.swap(0, Relaxed)
        }

        /// Whether it was told that the file is bad, if it is.
        fn reported(&self) -> Option<bool> {
            self.watch.0[0].failed.as_ref().map(|failed| failed.reported)
        }
    }

    #[test]
    fn what_has_changed_is_taken_in_before_it_is_used() {
        let test = Test::new();
        let reads = || test.thing.reads.load(Relaxed);
        test.watch.catch_up();
        assert_eq!(reads(), 0);
        test.replace("better");
        test.watch.catch_up();
        test.watch.catch_up();
        assert_eq!(reads(), 1);
        test.replace("bad");
        test.watch.catch_up();
        assert_eq!((reads(), test.watch.0[0].failed.is_none()), (2, true));
    }

    #[test]
    fn what_has_not_changed_is_not_read() {
        let mut test = Test::new();
        assert_eq!(test.reads(3, false), 0);
        assert_eq!(test.reads(3, true), 3, "unless it is asked for");
    }

    #[test]
    fn what_has_changed_is_read_once() {
        let mut test = Test::new();
        test.replace("other");
        assert_eq!(test.reads(3, false), 1);
        assert_eq!(test.reported(), None);
    }

    #[test]
    fn what_stays_bad_is_told_at_the_second_look_and_left_alone_then() {
        let mut test = Test::new();
        test.replace("bad");
        assert_eq!((test.reads(1, false), test.reported()), (1, Some(false)));
        assert_eq!((test.reads(1, false), test.reported()), (1, Some(true)));
        assert_eq!((test.reads(3, false), test.reported()), (0, Some(true)));
        test.replace("mended");
        assert_eq!((test.reads(3, false), test.reported()), (1, None));
    }

    #[test]
    fn what_is_bad_for_a_moment_is_not_told() {
        let mut test = Test::new();
        test.replace("bad");
        test.reads(1, false);
        test.replace("mended");
        assert_eq!((test.reads(1, false), test.reported()), (1, None));
        // Bad in a new way is new.
        test.replace("bad");
        test.reads(1, false);
        test.replace("bad");
        assert_eq!((test.reads(1, false), test.reported()), (1, Some(false)));
    }

    #[test]
    fn who_asks_is_told_at_once_and_each_time() {
        let mut test = Test::new();
        test.replace("bad");
        assert_eq!((test.reads(1, true), test.reported()), (1, Some(true)));
        assert_eq!((test.reads(2, true), test.reported()), (2, Some(true)));
    }

    #[test]
    fn what_cannot_be_read_is_no_matter_while_it_is_the_same() {
        let mut test = Test::new();
        test.replace("bad");
        let stamp = source_of(test.folder.path().join("file"));
        *test.thing.source.lock().unwrap() = stamp;
        assert_eq!((test.reads(1, true), test.reported()), (1, None));
    }

    #[test]
    fn a_file_that_is_gone_is_as_bad_as_any() {
        let mut test = Test::new();
        fs::remove_file(test.folder.path().join("file")).unwrap();
        assert_eq!((test.reads(3, false), test.reported()), (2, Some(true)));
        test.replace("back");
        assert_eq!((test.reads(1, false), test.reported()), (1, None));
    }
}

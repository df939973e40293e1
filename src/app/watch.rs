//! `server.watch`: noticing that the configuration's file, or one that it names, has changed.
//!
//! Files are looked at again and again rather than watched: that sees a file that is renamed into its
//! place, a link that is turned to another folder and a file system without notices, all alike. What
//! has changed is taken in when it was the same at two looks in a row, as whoever writes may not be
//! done.

use crate::{
    config::{self, Checked},
    filter::Registry,
    model::{Source, Stamp},
    tls::{are_as_read, present_stamps},
};
use std::{future::pending, path::PathBuf, time::Duration};

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the files are like; `None` for one that is not there.
type Stamps = Vec<Option<Stamp>>;

/// Follows the files of the configuration in force.
#[derive(Debug, Default)]
pub(super) struct FileWatch {
    /// What they were like at the last look.
    seen: Option<Stamps>,
    /// What they were like when a reload was refused, until they change.
    refused: Option<Stamps>,
    /// Whether it was refused for errors in the configuration. These may also be mended by a file
    /// that is not among those followed, as it was not there.
    invalid: bool,
}

impl FileWatch {
    /// Resolves when the configuration in force is not what its files say any more, and that is worth
    /// a reload. It may be dropped at any time.
    pub(super) async fn changed(&mut self, checked: &Checked, filters: &Registry) {
        if !checked.config.server.watch {
            return pending().await;
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let Some(stamps) = look(checked.files.clone()).await else { continue };
            let before = self.seen.replace(stamps.clone());
            if are_as_read(&checked.files, &stamps) {
                self.refused = None;
                continue;
            }
            // Whoever writes may not be done.
            let settled = before.as_ref() == Some(&stamps);
            let tried = self.refused.as_ref() == Some(&stamps);
            if settled && (!tried || self.invalid && is_mended(checked, filters).await) {
                return;
            }
        }
    }

    /// A reload was refused, perhaps for errors in the configuration.
    pub(super) fn refused(&mut self, invalid: bool) {
        self.refused.clone_from(&self.seen);
        self.invalid = invalid;
    }
}

/// Looks at the files, on a thread that may wait for the file system; `None` where the runtime shuts
/// down before.
async fn look(files: Vec<Source>) -> Option<Stamps> {
    let looking = tokio::task::spawn_blocking(move || present_stamps(&files));
    looking.await.ok()
}

/// Whether a file that had errors has none any more.
async fn is_mended(checked: &Checked, filters: &Registry) -> bool {
    let Some(source): Option<PathBuf> = checked.source.clone() else { return false };
    let filters = filters.clone();
    let reading = tokio::task::spawn_blocking(move || config::load(&source, &filters).is_ok());
    reading.await.unwrap_or(false)
}

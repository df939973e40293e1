//! Log files.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
};

/// Opens a log file for appending, and creates it if need be.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let annotate = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot open {}: {error}", path.display()))
    };
    OpenOptions::new().append(true).create(true).open(path).map_err(annotate)
}

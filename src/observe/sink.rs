//! Where the writer of a log writes.

use super::output;
use std::{
    fs::File,
    io::{self, ErrorKind, Write},
    os::fd::AsFd,
    path::PathBuf,
};

/// The open log and how writing to it goes.
#[derive(Debug)]
pub(super) struct Sink {
    /// Which log it is, for messages.
    log: &'static str,
    file: File,
    /// `None` for standard output and standard error.
    path: Option<PathBuf>,
    /// A failure cut a line off, which the next line must not continue.
    torn: bool,
    /// Lines lost since writing began to fail; `None` while it works. A failure is reported once,
    /// because one a request would drown the error log, on the same full disk perhaps.
    failing: Option<u64>,
}

impl Sink {
    /// A file that is opened for appending.
    pub(super) fn file(log: &'static str, path: PathBuf) -> io::Result<Self> {
        Ok(Self::new(log, output::open(&path)?, Some(path)))
    }

    /// A duplicate of standard output, say: the handles in `std::io` look for line ends or have
    /// locks.
    pub(super) fn stream(log: &'static str, stream: &impl AsFd) -> io::Result<Self> {
        Ok(Self::new(log, File::from(stream.as_fd().try_clone_to_owned()?), None))
    }

    pub(super) fn new(log: &'static str, file: File, path: Option<PathBuf>) -> Self {
        Self { log, file, path, torn: false, failing: None }
    }

    /// Opens the file at its path, which may be another one by now. If that fails the old one
    /// stays in use.
    pub(super) fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match output::open(path) {
            Ok(file) => {
                self.torn &= file.metadata().is_ok_and(|metadata| metadata.len() > 0);
                self.file = file;
            }
            Err(error) => log::error!("{}: {error}; the old file stays in use", self.log),
        }
    }

    /// Writes whole lines and returns how many were lost.
    pub(super) fn write(&mut self, lines: &[u8]) -> u64 {
        if lines.is_empty() {
            return 0;
        }
        let mut rest = lines;
        match self.mend().and_then(|()| write_all(&mut self.file, &mut rest)) {
            Ok(()) => {
                self.works();
                0
            }
            Err(error) => {
                let written = &lines[..lines.len() - rest.len()];
                self.torn |= written.last().is_some_and(|&byte| byte != b'\n');
                let lost = memchr::memchr_iter(b'\n', rest).count() as u64;
                self.fails(&error, lost);
                lost
            }
        }
    }

    /// Ends a line that was cut off.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.write_all(b"\n")?;
            self.torn = false;
        }
        Ok(())
    }

    fn fails(&mut self, error: &io::Error, lost: u64) {
        if self.failing.is_none() {
            log::error!(
                "{}: cannot write: {error}; lines are dropped until it works again",
                self.log
            );
        }
        self.failing = Some(self.failing.unwrap_or(0) + lost);
    }

    fn works(&mut self) {
        if let Some(lost) = self.failing.take() {
            log::warn!("{}: writing works again; {lost} lines were dropped", self.log);
        }
    }
}

/// Like `Write::write_all`, but leaves in `rest` what was not written.
fn write_all(file: &mut File, rest: &mut &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => *rest = &rest[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, OFlags, mkfifoat};
    use std::{
        fs::{self, OpenOptions},
        io::Read,
        os::unix::fs::OpenOptionsExt,
    };

    #[test]
    fn a_line_that_was_cut_off_is_ended_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        // Not blocking, so that a full FIFO fails like a full disk: in the middle of a line.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let mut reader =
            OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path).unwrap();
        let file = reader.try_clone().unwrap();
        let mut sink = Sink::new("test", file, None);

        let lines = "abcdefgh\n".repeat(10_000);
        let lost = sink.write(lines.as_bytes());
        let mut bytes = vec![0; lines.len()];
        let read = reader.read(&mut bytes).unwrap();
        assert_ne!(bytes[read - 1], b'\n', "the test needs a torn line");
        assert_eq!(lost, 10_000 - read as u64 / 9);

        assert_eq!(sink.write(b"next\n"), 0);
        let read = reader.read(&mut bytes).unwrap();
        assert_eq!(&bytes[..read], b"\nnext\n");
        assert_eq!(sink.failing, None);
    }

    #[test]
    fn a_new_file_does_not_begin_with_the_end_of_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let mut sink = Sink::file("test", path.clone()).unwrap();
        sink.torn = true;
        sink.reopen();
        assert_eq!(sink.write(b"next\n"), 0);
        assert_eq!(fs::read(&path).unwrap(), b"next\n");
    }

    #[test]
    fn standard_output_is_not_reopened() {
        let mut sink = Sink::stream("test", &io::stdout()).unwrap();
        sink.reopen();
        assert_eq!(sink.write(b""), 0);
    }
}

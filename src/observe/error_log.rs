//! The error log: what the process has to say, through the `log` macros, one line a message.
//!
//! Lines look like `2026-11-20T11:26:00.123Z INFO  message`; those of level debug and trace name
//! their module too. Pingora speaks of much that is no concern of an operator, a client that goes
//! away for one, so of its messages only errors are shown unless the level is debug or trace.

use super::output;
use env_logger::{Builder, Target};
use jiff::Timestamp;
use log::{Level, LevelFilter, Record};
use std::{
    borrow::Cow,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// The installed error log.
#[derive(Debug)]
pub struct ErrorLog {
    output: Arc<Output>,
}

/// Installs the error log as the backend of the `log` macros: messages of `level` and above go to
/// the file `target`, or to standard error.
///
/// # Errors
/// If the file cannot be opened, or if the process has a logger already.
pub fn init(level: LevelFilter, target: Option<&Path>) -> io::Result<ErrorLog> {
    let output = Arc::new(Output::open(target)?);
    builder(level, &output).try_init().map_err(io::Error::other)?;
    Ok(ErrorLog { output })
}

impl ErrorLog {
    /// Opens the file anew, which may be another one by now. If that fails the old one stays in
    /// use, and an error is logged. Standard error stays as it is.
    pub fn reopen(&self) {
        if let Err(error) = self.output.reopen() {
            log::error!("error log: {error}; the old file stays in use");
        }
    }
}

fn builder(level: LevelFilter, output: &Arc<Output>) -> Builder {
    let pingora = if level >= LevelFilter::Debug { level } else { level.min(LevelFilter::Error) };
    let mut builder = Builder::new();
    builder
        .filter_level(level)
        // Rules go by the beginning of the module's name and the longest one counts: the first
        // covers all of Pingora's crates, and us as well but for the second.
        .filter_module("pingora", pingora)
        .filter_module("pingora_lb", level)
        .format(|line, record| write_line(line, Timestamp::now(), record))
        .target(Target::Pipe(Box::new(Pipe(Arc::clone(output)))));
    builder
}

fn write_line(line: &mut impl Write, time: Timestamp, record: &Record<'_>) -> io::Result<()> {
    let message =
        record.args().as_str().map_or_else(|| record.args().to_string().into(), Cow::from);
    let message = without_controls(message);
    let level = record.level();
    if level >= Level::Debug {
        writeln!(line, "{time:.3} {level:<5} {}: {message}", record.target())
    } else {
        writeln!(line, "{time:.3} {level:<5} {message}")
    }
}

/// Escapes control characters, since a message may quote what a client or a backend sent.
fn without_controls(message: Cow<'_, str>) -> Cow<'_, str> {
    if !message.contains(char::is_control) {
        return message;
    }
    let mut escaped = String::with_capacity(message.len() + 8);
    for char in message.chars() {
        if char.is_control() {
            escaped.extend(char.escape_default());
        } else {
            escaped.push(char);
        }
    }
    Cow::Owned(escaped)
}

#[derive(Debug)]
enum Output {
    Stderr,
    File {
        path: PathBuf,
        /// Locked by the logger to write a line and by `reopen` to swap the file.
        file: Mutex<File>,
    },
}

impl Output {
    fn open(target: Option<&Path>) -> io::Result<Self> {
        let Some(path) = target else { return Ok(Self::Stderr) };
        Ok(Self::File { path: path.to_owned(), file: Mutex::new(output::open(path)?) })
    }

    fn reopen(&self) -> io::Result<()> {
        let Self::File { path, file } = self else { return Ok(()) };
        let new = output::open(path)?;
        *file.lock().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }
}

/// What `env_logger` writes to.
struct Pipe(Arc<Output>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &*self.0 {
            Output::Stderr => io::stderr().write(bytes),
            Output::File { file, .. } => {
                file.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
            }
        }
    }

    /// Neither output has a buffer.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::{Log, Metadata};
    use std::fs;

    fn line(level: Level, message: &str) -> String {
        let mut line = Vec::new();
        let time = Timestamp::from_millisecond(1_795_173_960_123).unwrap();
        let arguments = format_args!("{message}");
        let record = Record::builder().level(level).target("pingora_lb::x").args(arguments).build();
        write_line(&mut line, time, &record).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_line_has_time_level_and_message() {
        assert_eq!(line(Level::Info, "message"), "2026-11-20T11:26:00.123Z INFO  message\n");
        assert_eq!(line(Level::Error, "message"), "2026-11-20T11:26:00.123Z ERROR message\n");
    }

    #[test]
    fn only_details_name_their_module() {
        assert!(line(Level::Debug, "m").ends_with("Z DEBUG pingora_lb::x: m\n"));
        assert!(line(Level::Trace, "m").ends_with("Z TRACE pingora_lb::x: m\n"));
    }

    #[test]
    fn a_message_stays_one_line() {
        assert!(line(Level::Info, "a\r\nb\u{1b}[2J\u{e9}").ends_with("a\\r\\nb\\u{1b}[2J\u{e9}\n"));
    }

    #[test]
    fn pingora_is_quiet_and_we_are_not() {
        use Level::{Debug, Error, Info, Warn};
        let cases = [
            (LevelFilter::Info, "pingora_lb::pool", Info, true),
            (LevelFilter::Info, "pingora_lb", Debug, false),
            (LevelFilter::Info, "pingora_load_balancing", Warn, false),
            (LevelFilter::Info, "pingora_proxy::proxy_h1", Error, true),
            (LevelFilter::Info, "pingora_core::services", Info, false),
            (LevelFilter::Info, "pingora::x", Info, false),
            (LevelFilter::Info, "hyper", Info, true),
            (LevelFilter::Debug, "pingora_core", Debug, true),
            (LevelFilter::Warn, "pingora_lb::pool", Info, false),
            (LevelFilter::Off, "pingora_core", Error, false),
            (LevelFilter::Off, "pingora_lb", Error, false),
        ];
        for (filter, target, level, expected) in cases {
            let logger = builder(filter, &Arc::new(Output::Stderr)).build();
            let metadata = Metadata::builder().target(target).level(level).build();
            assert_eq!(logger.enabled(&metadata), expected, "{filter} {target} {level}");
        }
    }

    #[test]
    fn lines_after_a_reopen_go_to_the_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let [path, old] = ["error.log", "error.log.1"].map(|name| folder.path().join(name));
        let output = Arc::new(Output::open(Some(&path)).unwrap());
        let logger = builder(LevelFilter::Info, &output).build();
        let say = |message: &str| {
            logger
                .log(&Record::builder().level(Level::Info).args(format_args!("{message}")).build());
        };
        say("one");
        fs::rename(&path, &old).unwrap();
        say("two");
        output.reopen().unwrap();
        say("three");
        let messages = |path: &Path| -> Vec<String> {
            let text = fs::read_to_string(path).unwrap();
            text.lines().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
        };
        assert_eq!(messages(&old), ["one", "two"]);
        assert_eq!(messages(&path), ["three"]);
    }

    #[test]
    fn a_reopen_that_fails_keeps_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("error.log");
        let output = Arc::new(Output::open(Some(&path)).unwrap());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(output.reopen().is_err());
        assert_eq!(Pipe(output).write(b"x").unwrap(), 1);
    }

    #[test]
    fn installing_twice_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("error.log");
        // The level stays off so that other tests of this process keep their standard error.
        let first = init(LevelFilter::Off, Some(&path)).unwrap();
        assert!(init(LevelFilter::Off, None).is_err());
        first.reopen();
        assert!(init(LevelFilter::Off, Some(Path::new("/nonexistent/x"))).is_err());
    }
}

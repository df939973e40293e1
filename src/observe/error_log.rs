//! The error log: what the process has to say, through the `log` macros, one line a message.
//!
//! Lines look like `2026-11-20T11:26:00.123Z INFO  message`; those of level debug and trace name
//! their module too. Pingora speaks of much that is no concern of an operator, a client that goes
//! away for one, so of its messages only errors are shown unless the level is debug or trace, and
//! rustls, which warns of clients that speak TLS badly, is not heard at all.
//!
//! At first each line is written where it is logged, because a process that may yet become a daemon
//! has no threads: they do not survive the fork. From [`ErrorLog::start`] on, lines go through the
//! queue of the access log to a thread of their own, and whoever logs never waits: a terminal that
//! was stopped or a pipe that nobody reads would else hold up every request, and the signals too.

use super::{
    output,
    queue::{Batch, Queue},
    sink::Sink,
};
use arc_swap::ArcSwap;
use env_logger::{Builder, Logger, Target};
use jiff::Timestamp;
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::{
    borrow::Cow,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

/// How many bytes of lines may wait for the writer.
const CAPACITY: usize = 1 << 20;
/// The longest [`ErrorLog::flush`] waits for a reader that does not read.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// The installed error log.
#[derive(Debug)]
pub struct ErrorLog {
    shared: Arc<Shared>,
    logger: Arc<ArcSwap<Logger>>,
}

/// The logger of the process, which goes by the level that was set last.
struct Current(Arc<ArcSwap<Logger>>);

impl Log for Current {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.load().enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.0.load().log(record);
    }

    fn flush(&self) {
        self.0.load().flush();
    }
}

/// Installs the error log as the backend of the `log` macros: messages of `level` and above go to
/// the file `target`, or to standard error.
///
/// # Errors
/// If the file cannot be opened, or if the process has a logger already.
pub fn init(level: LevelFilter, target: Option<&Path>) -> io::Result<ErrorLog> {
    let shared = Arc::new(Shared::new(Direct::open(target)?, CAPACITY));
    let logger = Arc::new(ArcSwap::from_pointee(builder(level, &shared).build()));
    log::set_boxed_logger(Box::new(Current(logger.clone()))).map_err(io::Error::other)?;
    log::set_max_level(level);
    Ok(ErrorLog { shared, logger })
}

impl ErrorLog {
    /// From here on messages of `level` and above are logged.
    pub fn set_level(&self, level: LevelFilter) {
        self.logger.store(Arc::new(builder(level, &self.shared).build()));
        log::set_max_level(level);
    }

    /// From here on lines are written by a thread of their own. Call this when the process will not
    /// fork any more.
    pub fn start(&self) {
        if let Err(error) = self.shared.start() {
            log::error!("error log: {error}; each line is written where it is logged");
        }
    }

    /// Opens the file anew, which may be another one by now. If that fails the old one stays in
    /// use, and an error is logged. Standard error stays as it is.
    pub fn reopen(&self) {
        if let Err(error) = self.shared.reopen() {
            log::error!("error log: {error}; the old file stays in use");
        }
    }

    /// Waits until everything logged before is written, but not for more than a second. Returns
    /// whether it is.
    pub fn flush(&self) -> bool {
        self.shared.queue.flush(FLUSH_LIMIT)
    }
}

fn builder(level: LevelFilter, shared: &Arc<Shared>) -> Builder {
    let detailed = level >= LevelFilter::Debug;
    let pingora = if detailed { level } else { level.min(LevelFilter::Error) };
    // At `trace` it writes handshakes.
    let rustls = if detailed { LevelFilter::Debug } else { LevelFilter::Off };
    let mut builder = Builder::new();
    // At `debug` and `trace` these write whole messages, with the credentials in them.
    for module in ["pingora_proxy", "pingora_core::protocols", "h2", "hyper"] {
        let quiet = if module.starts_with("pingora") { pingora } else { level };
        builder.filter_module(module, quiet.min(LevelFilter::Info));
    }
    builder
        .filter_level(level)
        // Rules go by the beginning of the module's name and the longest one counts: the first
        // covers all of Pingora's crates, and us as well but for the second.
        .filter_module("pingora", pingora)
        .filter_module("pingora_lb", level)
        .filter_module("rustls", rustls)
        .format(|line, record| write_line(line, Timestamp::now(), record))
        .target(Target::Pipe(Box::new(Pipe(Arc::clone(shared)))));
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

/// What those who log and the writer share.
#[derive(Debug)]
struct Shared {
    /// Where lines are written as long as there is no writer. Locked for each of them, so that none
    /// overtakes another when the writer begins.
    direct: Mutex<Option<Direct>>,
    queue: Queue,
    /// Lines for which the queue had no room, and which were not reported yet.
    dropped: AtomicU64,
}

impl Shared {
    fn new(direct: Direct, capacity: usize) -> Self {
        let queue = Queue::new(capacity);
        Self { direct: Mutex::new(Some(direct)), queue, dropped: AtomicU64::new(0) }
    }

    fn direct(&self) -> MutexGuard<'_, Option<Direct>> {
        self.direct.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: &Arc<Self>) -> io::Result<()> {
        let mut direct = self.direct();
        let Some(output) = &*direct else { return Ok(()) };
        let sink = output.to_sink()?;
        let writer = Arc::clone(self);
        thread::Builder::new().name("error-log".to_owned()).spawn(move || writer.write_to(sink))?;
        *direct = None;
        Ok(())
    }

    /// The writer's life.
    fn write_to(&self, mut sink: Sink) {
        let mut batch = Batch::default();
        while self.queue.take(&mut batch) {
            // The sink reports by itself what it could not write.
            let _ = batch.write_to(&mut sink);
            match self.dropped.swap(0, Relaxed) {
                0 => {}
                lost => log::warn!("error log: {lost} lines were dropped, it could not keep up"),
            }
        }
    }

    fn reopen(&self) -> io::Result<()> {
        if let Some(output) = &mut *self.direct() {
            return output.reopen();
        }
        self.queue.reopen();
        Ok(())
    }

    fn write(&self, line: &[u8]) -> io::Result<()> {
        let mut direct = self.direct();
        if let Some(output) = &mut *direct {
            return output.write(line);
        }
        drop(direct);
        if !self.queue.push(line) {
            self.dropped.fetch_add(1, Relaxed);
        }
        Ok(())
    }
}

/// Where lines go before there is a writer.
#[derive(Debug)]
enum Direct {
    Stderr,
    File { path: PathBuf, file: File },
}

impl Direct {
    fn open(target: Option<&Path>) -> io::Result<Self> {
        let Some(path) = target else { return Ok(Self::Stderr) };
        Ok(Self::File { path: path.to_owned(), file: output::open(path)? })
    }

    fn to_sink(&self) -> io::Result<Sink> {
        match self {
            Self::Stderr => Sink::stream("error log", &io::stderr()),
            Self::File { path, file } => {
                Ok(Sink::new("error log", file.try_clone()?, Some(path.clone())))
            }
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        let Self::File { path, file } = self else { return Ok(()) };
        *file = output::open(path)?;
        Ok(())
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().write_all(line),
            Self::File { file, .. } => file.write_all(line),
        }
    }
}

/// What `env_logger` writes to, a line at a time.
struct Pipe(Arc<Shared>);

impl Write for Pipe {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(line)?;
        Ok(line.len())
    }

    /// There is no buffer.
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
            (LevelFilter::Debug, "pingora_proxy::proxy_h1", Debug, false),
            (LevelFilter::Debug, "pingora_proxy::proxy_h1", Info, true),
            (LevelFilter::Warn, "pingora_proxy::proxy_h1", Warn, false),
            (LevelFilter::Trace, "pingora_core::protocols::http::v1::client", Debug, false),
            (LevelFilter::Trace, "h2::codec", Debug, false),
            (LevelFilter::Off, "h2::codec", Error, false),
            (LevelFilter::Trace, "rustls::check", Level::Trace, false),
            (LevelFilter::Info, "rustls::check", Warn, false),
            (LevelFilter::Info, "rustls::common_state", Error, false),
            (LevelFilter::Debug, "rustls::check", Warn, true),
            (LevelFilter::Warn, "pingora_lb::pool", Info, false),
            (LevelFilter::Off, "pingora_core", Error, false),
            (LevelFilter::Off, "pingora_lb", Error, false),
        ];
        for (filter, target, level, expected) in cases {
            let logger = builder(filter, &Arc::new(Shared::new(Direct::Stderr, 1))).build();
            let metadata = Metadata::builder().target(target).level(level).build();
            assert_eq!(logger.enabled(&metadata), expected, "{filter} {target} {level}");
        }
    }

    fn say(logger: &impl Log, message: &str) {
        let arguments = format_args!("{message}");
        logger.log(&Record::builder().level(Level::Info).args(arguments).build());
    }

    fn messages(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn lines_after_a_reopen_go_to_the_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let [path, first, second] =
            ["error.log", "error.log.1", "error.log.2"].map(|name| folder.path().join(name));
        let shared = Arc::new(Shared::new(Direct::open(Some(&path)).unwrap(), CAPACITY));
        let logger = builder(LevelFilter::Info, &shared).build();
        // Once without the writer and once with it.
        for (old, [before, between, after]) in
            [(&first, ["one", "two", "three"]), (&second, ["four", "five", "six"])]
        {
            say(&logger, before);
            fs::rename(&path, old).unwrap();
            say(&logger, between);
            shared.reopen().unwrap();
            say(&logger, after);
            shared.start().unwrap();
        }
        assert!(shared.queue.flush(Duration::from_secs(10)));
        assert_eq!(messages(&first), ["one", "two"]);
        assert_eq!(messages(&second), ["three", "four", "five"]);
        assert_eq!(messages(&path), ["six"]);
    }

    #[test]
    fn whoever_logs_does_not_wait_for_the_reader() {
        let (reader, writer) = io::pipe().unwrap();
        let shared = Arc::new(Shared::new(Direct::Stderr, 10_000));
        *shared.direct() = None;
        let logger = builder(LevelFilter::Info, &shared).build();
        let sink = Sink::stream("test", &writer).unwrap();
        drop(writer);
        let written = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.write_to(sink)
        });
        let message = "x".repeat(1000);
        // Until the pipe is full, and then more than the queue holds.
        let fills = |_: &usize| {
            say(&logger, &message);
            !shared.queue.flush(Duration::from_millis(10))
        };
        let filled = (0..1000).find(fills).expect("a pipe holds less than a thousand lines");
        for _ in 0..200 {
            say(&logger, &message);
        }
        assert!(!shared.queue.flush(Duration::from_millis(1)));
        let read = thread::spawn(move || io::read_to_string(reader).unwrap());
        assert!(shared.queue.flush(Duration::from_secs(10)));
        shared.queue.close();
        written.join().unwrap();
        let lines = read.join().unwrap().lines().count();
        assert!((10..filled + 200).contains(&lines), "{lines} lines were written");
        assert_eq!(shared.dropped.load(Relaxed), 0, "they were reported");
    }

    #[test]
    fn a_reopen_that_fails_keeps_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("error.log");
        let shared = Shared::new(Direct::open(Some(&path)).unwrap(), CAPACITY);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(shared.reopen().is_err());
        shared.write(b"x").unwrap();
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

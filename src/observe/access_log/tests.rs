//! The log as a whole, on real files and FIFOs.

use super::*;
use crate::model::LogTarget;
use rustix::fs::{CWD, Mode, mkfifoat};
use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    os::unix::fs::symlink,
    path::Path,
};

pub(super) fn record() -> AccessRecord<'static> {
    AccessRecord {
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_173_960_007),
        method: "GET",
        host: "a.example",
        path: "/x?y=1",
        status: 200,
        bytes_in: 0,
        bytes_out: 1234,
        duration: Duration::from_nanos(12_345_678),
        queue: None,
        connect: Some(Duration::from_micros(500)),
        upstream: Some(Duration::from_millis(11)),
        client_ip: Some([192, 0, 2, 1].into()),
        listener: "web",
        route: Some("api"),
        pool: Some("app"),
        backend: Some("app-1"),
        tries: 1,
        reason: "ok",
        request_id: "r-1",
        protocol: "HTTP/1.1",
        tls: None,
        user_agent: Some(b"curl/8"),
        referer: None,
    }
}

fn settings(path: &Path) -> model::AccessLog {
    model::AccessLog { path: LogTarget::File(path.to_owned()), format: AccessLogFormat::Combined }
}

fn log_path(log: &AccessLog, path: &str) {
    log.log(&AccessRecord { path, ..record() });
}

/// The logged targets, in order.
fn targets(text: &str) -> Vec<String> {
    let target = |line: &str| line.split(' ').nth(6).unwrap_or(line).to_owned();
    text.lines().map(target).collect()
}

fn targets_in(path: &Path) -> Vec<String> {
    targets(&fs::read_to_string(path).unwrap())
}

fn fifo(path: &Path) -> File {
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
    // Opened for both, because opening one end alone waits for the other.
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

#[test]
fn flush_waits_for_what_was_logged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    fs::write(&path, "before\n").unwrap();
    let log = AccessLog::open(&settings(&path)).unwrap();
    assert!(log.flush());
    log_path(&log, "/1");
    assert!(log.flush());
    assert_eq!(targets_in(&path), ["before", "/1"]);
    log_path(&log, "/2");
    log_path(&log, "/3");
    assert!(log.flush());
    assert_eq!(targets_in(&path), ["before", "/1", "/2", "/3"]);
    assert_eq!(log.dropped(), 0);
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_that_names_it() {
    let error = AccessLog::open(&settings(Path::new("/nonexistent/access.log"))).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().starts_with("cannot open /nonexistent/access.log: "), "{error}");
}

#[test]
fn threads_share_a_log_without_mixing_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let log = AccessLog::open(&settings(&path)).unwrap();
    thread::scope(|scope| {
        for name in 0..4 {
            let log = &log;
            scope.spawn(move || (0..1000).for_each(|at| log_path(log, &format!("/{name}/{at}"))));
        }
    });
    assert!(log.flush());
    let all = targets_in(&path);
    assert_eq!(all.len() as u64 + log.dropped(), 4000);
    for name in 0..4 {
        let own: Vec<_> = all.iter().filter(|it| it.starts_with(&format!("/{name}/"))).collect();
        let expected: Vec<_> = (0..1000).map(|at| format!("/{name}/{at}")).collect();
        assert_eq!(own, expected.iter().collect::<Vec<_>>());
    }
}

#[test]
fn lines_before_a_reopen_go_to_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let [path, old] = ["access.log", "access.log.1"].map(|name| folder.path().join(name));
    let log = AccessLog::open(&settings(&path)).unwrap();
    log_path(&log, "/1");
    fs::rename(&path, &old).unwrap();
    log_path(&log, "/2");
    log.reopen();
    log.reopen();
    log_path(&log, "/3");
    assert!(log.flush());
    assert_eq!(targets_in(&old), ["/1", "/2"]);
    assert_eq!(targets_in(&path), ["/3"]);
}

#[test]
fn a_reopen_that_fails_keeps_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("logs");
    fs::create_dir(&inner).unwrap();
    let log = AccessLog::open(&settings(&inner.join("access.log"))).unwrap();
    let moved = folder.path().join("moved");
    fs::rename(&inner, &moved).unwrap();
    log.reopen();
    log_path(&log, "/1");
    assert!(log.flush());
    assert_eq!(targets_in(&moved.join("access.log")), ["/1"]);
}

/// Logs until the FIFO is full and the writer blocks in it. Returns how many lines it took.
fn block_writer(log: &AccessLog) -> u64 {
    for logged in 0.. {
        log_path(log, &format!("/{logged}"));
        if logged % 64 == 0 && !log.shared.queue.flush(Duration::from_millis(50)) {
            return logged + 1;
        }
    }
    unreachable!("a FIFO nobody reads takes no more than 64 KiB")
}

#[test]
fn a_full_buffer_drops_and_counts_without_blocking() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    let mut reader = fifo(&path);
    let log = AccessLog::with_capacity(&settings(&path), 16 << 10).unwrap();
    let mut logged = block_writer(&log);
    while log.dropped() < 1000 {
        log_path(&log, &format!("/{logged}"));
        logged += 1;
    }

    let kept = logged - log.dropped();
    let mut text = String::new();
    while (text.matches('\n').count() as u64) < kept {
        let mut bytes = [0; 4096];
        let read = reader.read(&mut bytes).unwrap();
        text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    assert!(log.flush());
    let numbers: Vec<u64> = targets(&text).iter().map(|it| it[1..].parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next));
    assert_eq!(numbers.len() as u64, kept);
    log_path(&log, "/after");
    assert!(log.flush());
    assert_eq!(log.dropped(), logged - kept);
}

#[test]
fn a_reopen_does_not_wait_for_a_blocked_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    let _reader = fifo(&path);
    let log = AccessLog::open(&settings(&path)).unwrap();
    block_writer(&log);
    log.reopen();
    log.reopen();
}

#[test]
fn writing_goes_on_after_a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    symlink("/dev/full", &path).unwrap();
    let log = AccessLog::open(&settings(&path)).unwrap();
    log_path(&log, "/1");
    log_path(&log, "/2");
    assert!(log.flush());
    assert_eq!(log.dropped(), 2);
    fs::remove_file(&path).unwrap();
    log.reopen();
    log_path(&log, "/3");
    assert!(log.flush());
    assert_eq!(log.dropped(), 2);
    assert_eq!(targets_in(&path), ["/3"]);
}

#[test]
fn dropping_the_log_writes_the_rest_and_ends_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    let both = fifo(&path);
    let mut reader = File::open(&path).unwrap();
    let log = AccessLog::open(&settings(&path)).unwrap();
    log_path(&log, "/1");
    log_path(&log, "/2");
    drop(both);
    drop(log);
    // The end of the file comes when the writer has closed it.
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(targets(&text), ["/1", "/2"]);
}

#[test]
fn dropped_lines_are_reported_once_in_a_while() {
    let shared =
        Shared { queue: Queue::new(0), dropped: AtomicU64::new(0), unreported: AtomicU64::new(0) };
    let left = || shared.unreported.load(Ordering::Relaxed);
    let drop_one = || shared.unreported.fetch_add(1, Ordering::Relaxed);
    let (mut reported, start) = (None, Instant::now());
    shared.report(&mut reported, start);
    assert_eq!(reported, None, "nothing to report");
    drop_one();
    shared.report(&mut reported, start);
    assert_eq!((left(), reported), (0, Some(start)));
    drop_one();
    shared.report(&mut reported, start + REPORT_INTERVAL / 2);
    assert_eq!((left(), reported), (1, Some(start)));
    shared.report(&mut reported, start + REPORT_INTERVAL);
    assert_eq!(left(), 0);
}

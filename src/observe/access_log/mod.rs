//! The access log: one line a request, written by a thread of its own.
//!
//! A request formats its line into a buffer of its thread and copies it into a bounded queue, which
//! takes a short lock and, in the steady state, no allocation and no system call. The writer takes
//! all that is queued at once. When it cannot keep up, or cannot write at all, lines are dropped
//! and counted; no request ever waits for it.

mod line;
#[cfg(test)]
mod tests;

use super::{
    queue::{Batch, Queue},
    sink::Sink,
};
use crate::model::{self, AccessLogFormat, LogTarget};
use line::Line;
use std::{
    cell::RefCell,
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

/// How many bytes of lines may wait for the writer. At 400 bytes a line and 100,000 requests a
/// second that bridges 0.4 seconds in which nothing can be written. Bytes rather than lines are
/// counted because a line may be long if a client wants it so.
const CAPACITY: usize = 16 << 20;
/// The longest [`AccessLog::flush`] waits. Without a limit, a reader that stops reading our
/// standard output would keep the process from ending.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// How often dropped lines are reported at most: under a load that the disk cannot take, a report a
/// batch would be a hundred a second.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

thread_local! {
    /// Where the calling thread formats its lines.
    static LINE: RefCell<Line> = RefCell::default();
}

/// What the access log says about a request.
#[derive(Clone, Copy, Debug)]
pub struct AccessRecord<'a> {
    /// When its first byte was seen.
    pub time: SystemTime,
    /// The method.
    pub method: &'a str,
    /// The host asked for; empty if none.
    pub host: &'a str,
    /// The target as sent, with its query.
    pub path: &'a str,
    /// The status of the response, or 499 if the client went away before it.
    pub status: u16,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// From then to the last byte of the response.
    pub duration: Duration,
    /// How long it waited for a free backend, if it did.
    pub queue: Option<Duration>,
    /// How long connecting to the backend took, if a connection was made.
    pub connect: Option<Duration>,
    /// From the start of the last try to the response's headers, if they came.
    pub upstream: Option<Duration>,
    /// The client's address; `None` for one on a unix socket.
    pub client_ip: Option<IpAddr>,
    /// The listener's name.
    pub listener: &'a str,
    /// The route's name, if one matched.
    pub route: Option<&'a str>,
    /// The pool's name, if the route has one.
    pub pool: Option<&'a str>,
    /// The name of the last backend tried, if any.
    pub backend: Option<&'a str>,
    /// How many backends were tried.
    pub tries: u32,
    /// `ok`, or the reason code of the failure.
    pub reason: &'a str,
    /// The request's id.
    pub request_id: &'a str,
    /// The protocol and version, such as `HTTP/1.1`.
    pub protocol: &'a str,
    /// The version of TLS, if it was used.
    pub tls: Option<&'a str>,
    /// The `User-Agent` field.
    pub user_agent: Option<&'a [u8]>,
    /// The `Referer` field.
    pub referer: Option<&'a [u8]>,
}

/// The access log. Dropping it lets the writer finish what is queued and end, without waiting.
#[derive(Debug)]
pub struct AccessLog {
    format: AccessLogFormat,
    shared: Arc<Shared>,
}

/// What requests and the writer share.
#[derive(Debug)]
struct Shared {
    queue: Queue,
    /// Lines lost, whether for want of room or because writing failed.
    dropped: AtomicU64,
    /// Those of them that had no room and that no report has counted yet. Written by requests, taken
    /// by the writer. Writes that fail are reported by the [`Sink`].
    unreported: AtomicU64,
}

impl AccessLog {
    /// Opens the log and starts its writer. Call this after the process has become a daemon: a fork
    /// does not take threads along.
    ///
    /// # Errors
    /// If the file cannot be opened or the thread cannot be started.
    pub fn open(settings: &model::AccessLog) -> io::Result<Self> {
        Self::with_capacity(settings, CAPACITY)
    }

    fn with_capacity(settings: &model::AccessLog, capacity: usize) -> io::Result<Self> {
        let sink = match &settings.path {
            LogTarget::Stdout => Sink::stream("access log", &io::stdout())?,
            LogTarget::File(path) => Sink::file("access log", path.clone())?,
        };
        let shared = Arc::new(Shared {
            queue: Queue::new(capacity),
            dropped: AtomicU64::new(0),
            unreported: AtomicU64::new(0),
        });
        let writer = Arc::clone(&shared);
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writer.write_to(sink))?;
        Ok(Self { format: settings.format, shared })
    }

    /// Logs a request. Never blocks: if the writer is too far behind, the line is dropped.
    pub fn log(&self, record: &AccessRecord<'_>) {
        let queued =
            LINE.with_borrow_mut(|line| self.shared.queue.push(line.format(self.format, record)));
        if !queued {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            self.shared.unreported.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Has the file opened anew, after what was logged before is written to the old one. Does not
    /// wait for it. Standard output stays as it is.
    pub fn reopen(&self) {
        self.shared.queue.reopen();
    }

    /// How many lines were lost so far.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything logged before is written, but not for more than 5 seconds. Returns
    /// whether it is.
    pub fn flush(&self) -> bool {
        self.shared.queue.flush(FLUSH_LIMIT)
    }

    /// Flushes for the last time, and says how many lines were lost in all.
    pub fn finish(&self) {
        if !self.flush() {
            log::warn!("access log: not everything could be written in time");
        }
        match self.dropped() {
            0 => {}
            dropped => log::warn!("access log: {dropped} lines were dropped since the start"),
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

impl Shared {
    /// The writer's life.
    fn write_to(&self, mut sink: Sink) {
        let mut batch = Batch::default();
        let mut reported = None;
        while self.queue.take(&mut batch) {
            let lost = batch.write_to(&mut sink);
            self.dropped.fetch_add(lost, Ordering::Relaxed);
            self.report(&mut reported, Instant::now());
        }
    }

    /// Reports the lines that had no room, unless a report was made a short while ago: the next
    /// one then counts them.
    fn report(&self, reported: &mut Option<Instant>, now: Instant) {
        let too_soon = reported.is_some_and(|last| now < last + REPORT_INTERVAL);
        if too_soon || self.unreported.load(Ordering::Relaxed) == 0 {
            return;
        }
        let dropped = self.unreported.swap(0, Ordering::Relaxed);
        log::warn!("access log: {dropped} lines were dropped, as they came faster than written");
        *reported = Some(now);
    }
}

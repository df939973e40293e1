//! Opening connections that requests share, one at a time for each backend.
//!
//! A connection of HTTP/2 can be shared once it is there. Of a crowd that comes while there is none, each
//! would open its own, dozens where a few are enough; so those who come while one is being opened wait
//! for it. A failure lets all of them go, as nobody should wait for one failure after another. So does a
//! number of connections that were full at once: the backend allows few requests on each.

use super::Dialer;
use async_trait::async_trait;
use pingora_core::{
    connectors::l4::Connect,
    protocols::l4::{socket::SocketAddr, stream::Stream},
};
use std::{
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// How many connections a request waits for, if those before it fill them.
const ROUNDS: usize = 4;

/// Whether connections to one backend are being opened.
#[derive(Debug, Default)]
pub struct Opening {
    under_way: AtomicUsize,
    /// How many have failed so far.
    failures: AtomicUsize,
    /// Notified when one is there, or has failed.
    ended: Notify,
}

impl Opening {
    /// Waits while a connection is being opened, for as long as `limit` at most, until one fails, and for
    /// no more than a few of them.
    pub async fn wait(&self, limit: Duration) {
        if self.under_way.load(SeqCst) > 0 {
            // One that takes longer is not waited for by others.
            let _ = tokio::time::timeout(limit, self.until_none()).await;
        }
    }

    async fn until_none(&self) {
        let failures = self.failures.load(SeqCst);
        for _ in 0..ROUNDS {
            let mut ended = pin!(self.ended.notified());
            // Registered before looking, so that an end in between is noticed.
            ended.as_mut().enable();
            if self.under_way.load(SeqCst) == 0 || self.failures.load(SeqCst) != failures {
                return;
            }
            ended.await;
        }
    }
}

/// A connection that is being opened. Dropped without having succeeded, it has failed.
#[derive(Debug)]
struct Opens {
    opening: Arc<Opening>,
    succeeded: bool,
}

impl Opens {
    fn begin(opening: &Arc<Opening>) -> Self {
        opening.under_way.fetch_add(1, SeqCst);
        Self { opening: opening.clone(), succeeded: false }
    }
}

impl Drop for Opens {
    fn drop(&mut self) {
        if !self.succeeded {
            self.opening.failures.fetch_add(1, SeqCst);
        }
        self.opening.under_way.fetch_sub(1, SeqCst);
        self.opening.ended.notify_waiters();
    }
}

/// Connects for Pingora, if it has to, and has others wait meanwhile.
#[derive(Debug)]
pub struct Opener {
    dialer: Dialer,
    opening: Arc<Opening>,
    /// The connection that it opens. Only one task uses it.
    opens: Mutex<Option<Opens>>,
}

impl Opener {
    /// One for a try on the backend that `opening` is of.
    pub fn new(dialer: Dialer, opening: Arc<Opening>) -> Self {
        Self { dialer, opening, opens: Mutex::default() }
    }

    /// The connection is there to be shared, or there is none.
    pub fn end(&self, succeeded: bool) {
        let opens = self.opens.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut opens) = opens {
            opens.succeeded = succeeded;
        }
    }
}

#[async_trait]
impl Connect for Opener {
    async fn connect(&self, address: &SocketAddr) -> pingora_core::Result<Stream> {
        // Where the backend has to be met otherwise, others go on waiting for the connection after this.
        let begin = || Opens::begin(&self.opening);
        self.opens.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(begin);
        self.dialer.connect(address).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    const LIMIT: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn others_wait_until_it_is_there_or_has_failed_or_takes_too_long() {
        let opening = Arc::new(Opening::default());
        let waits = async || {
            let began = Instant::now();
            opening.wait(LIMIT).await;
            began.elapsed()
        };
        let after = async |opens: Vec<Opens>| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(opens);
        };
        assert_eq!(waits().await, Duration::ZERO, "nobody opens one");

        let mut there = Opens::begin(&opening);
        there.succeeded = true;
        let (waited, ()) = tokio::join!(waits(), after(vec![there]));
        assert_eq!(waited, Duration::from_secs(1), "it is there");

        let (failing, other) = (Opens::begin(&opening), Opens::begin(&opening));
        let (waited, ()) = tokio::join!(waits(), after(vec![failing]));
        assert_eq!(waited, Duration::from_secs(1), "one has failed, another is under way");

        assert_eq!(waits().await, LIMIT, "it takes too long");
        drop(other);
        assert_eq!(waits().await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn others_wait_for_a_few_connections_and_not_for_all() {
        let opening = Arc::new(Opening::default());
        let one_after_another = async {
            loop {
                let mut there = Opens::begin(&opening);
                tokio::time::sleep(Duration::from_millis(10)).await;
                there.succeeded = true;
            }
        };
        let began = Instant::now();
        tokio::select! {
            biased;
            () = one_after_another => {}
            () = opening.wait(LIMIT) => {}
        }
        assert!(began.elapsed() < Duration::from_millis(60), "{:?}", began.elapsed());
    }
}

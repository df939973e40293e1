//! A connection on its way to a backend: the first pick, the queue, each try.

use super::{
    Socket, Stream,
    log_line::Story,
    relay::{Ended, Relay, Side},
};
use crate::{
    model::{Ends, Reason, RetryOn},
    pool::{
        Dialed, Dialer, Lease, NoRetry, Outcome, Picked, Pool, Preamble, Tried, Waited, Wanted,
        hash_address,
    },
};
use std::{
    io,
    time::{Duration, Instant},
};

/// A connection that has come to a backend.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) backend: Dialed,
    /// Counts the connection on its backend.
    pub(super) lease: Lease,
    /// When the try began that came to this.
    pub(super) began: Instant,
    pub(super) relay: Relay,
    /// If it ended before either side said anything, how.
    pub(super) ended: Option<Ended>,
}

/// A try that failed.
struct Failure {
    kind: RetryOn,
    error: io::Error,
}

impl Failure {
    fn reason(&self) -> Reason {
        match self.kind {
            RetryOn::Reset => Reason::UpstreamReset,
            _ if self.error.kind() == io::ErrorKind::TimedOut => Reason::UpstreamTimeout,
            _ => Reason::ConnectFailed,
        }
    }
}

/// The tries of one connection.
pub(super) struct Tries<'a> {
    pool: &'a Pool,
    story: &'a mut Story,
    /// Whose connection it is.
    ends: Ends,
    idle_timeout: Duration,
    /// What the hashing policies go by.
    key: Option<u64>,
    tried: Tried,
}

impl<'a> Tries<'a> {
    pub(super) fn new(
        pool: &'a Pool,
        ends: Ends,
        idle_timeout: Duration,
        story: &'a mut Story,
    ) -> Self {
        let hashes = pool.spec().balance.policy.is_hashing();
        let key = story.client.filter(|_| hashes).map(hash_address);
        Self { pool, story, ends, idle_timeout, key, tried: Tried::default() }
    }

    /// Connects to one backend after another, until one takes the connection or there is no other try.
    pub(super) async fn connect<S: Stream>(mut self, client: &mut S) -> Result<Connected, Reason> {
        let mut lease = self.pick_first(client.socket()).await?;
        let mut relay = Relay::new(self.idle_timeout);
        loop {
            let began = Instant::now();
            let failure = match self.begin(&lease, client, &mut relay).await {
                Ok((backend, ended)) => {
                    return Ok(Connected { backend, lease, began, relay, ended });
                }
                Err(failure) => failure,
            };
            self.pool.report(&lease, Outcome::Failure { took: began.elapsed() }, self.story.tries);
            lease = self.pick_next(&lease, &failure)?;
            tokio::time::sleep(self.pool.pause(self.story.tries)).await;
        }
    }

    /// Picks a backend by the pool's policy; if all have as many connections as they may, after a wait
    /// in the queue. A client that leaves frees its place.
    async fn pick_first(&mut self, client: Socket<'_>) -> Result<Lease, Reason> {
        let core = self.pool.core();
        core.begin_request(self.pool.now());
        match self.pool.pick(&Wanted { key: self.key, tried: &self.tried, place: None }) {
            Picked::Lease(lease) => return Ok(lease),
            Picked::Nothing => return Err(Reason::NoHealthyBackend),
            Picked::Busy => {}
        }
        let place = core.enqueue().ok_or(Reason::Overloaded)?;
        let began = Instant::now();
        let waited = self.pool.wait_in_line(place, self.key, client.closed()).await;
        self.story.queue = Some(began.elapsed());
        match waited {
            Waited::Lease(lease) => Ok(lease),
            Waited::Nothing => Err(Reason::NoHealthyBackend),
            Waited::TooLong => Err(Reason::Overloaded),
            Waited::Gone => Err(Reason::ClientAborted),
        }
    }

    /// One try. It goes on until one side hears something of the other: before that, nothing is lost
    /// by going elsewhere.
    async fn begin<S: Stream>(
        &mut self,
        lease: &Lease,
        client: &mut S,
        relay: &mut Relay,
    ) -> Result<(Dialed, Option<Ended>), Failure> {
        let (mut backend, connect) = self.dial(lease).await?;
        let ended = match &mut backend {
            Dialed::Tcp(backend) => relay.begin(client, backend).await,
            Dialed::Unix(backend) => relay.begin(client, backend).await,
        };
        match ended {
            Some(Ended::Broken(Side::Backend, error)) if relay.is_untouched() => {
                Err(Failure { kind: RetryOn::Reset, error })
            }
            ended => {
                self.pool.report(lease, Outcome::Success { first_byte: connect }, self.story.tries);
                Ok((backend, ended))
            }
        }
    }

    async fn dial(&mut self, lease: &Lease) -> Result<(Dialed, Duration), Failure> {
        self.tried.add(lease);
        self.story.tries += 1;
        self.story.backend = Some(lease.name().clone());
        self.story.connect = None;
        let began = Instant::now();
        let dialed = self.dialer().dial(lease.address()).await;
        let backend = dialed.map_err(|error| Failure { kind: RetryOn::ConnectFailure, error })?;
        let took = began.elapsed();
        self.story.connect = Some(took);
        // Enough to send it more, though it may be long until one side says something.
        lease.answered();
        Ok((backend, took))
    }

    fn dialer(&self) -> Dialer {
        let version = self.pool.spec().proxy_protocol;
        let preamble = version.map(|version| Preamble::of_client(version, self.ends));
        Dialer { timeout: self.connect_timeout(), preamble }
    }

    /// A try has no more time than that for all of it.
    fn connect_timeout(&self) -> Duration {
        let spec = self.pool.spec();
        spec.retry
            .per_try_timeout
            .map_or(spec.timeouts.connect, |own| own.min(spec.timeouts.connect))
    }

    /// Goes on to a backend that was not tried yet, or says why the connection ends here.
    fn pick_next(&self, failed: &Lease, failure: &Failure) -> Result<Lease, Reason> {
        let next = self.pool.pick_again(failure.kind, self.story.tries, self.key, &self.tried);
        let (name, pool, error) = (failed.name(), &self.pool.spec().name, &failure.error);
        match &next {
            Ok(_) => log::debug!("backend {name} of pool {pool} failed: {error}; trying another"),
            Err(why) => self.log_last(failed, failure, *why),
        }
        next.map_err(|_| failure.reason())
    }

    fn log_last(&self, failed: &Lease, failure: &Failure, why: NoRetry) {
        let (tries, reason) = (self.story.tries, failure.reason().as_str());
        let (name, pool) = (failed.name(), &self.pool.spec().name);
        let (who, error) = (self.story.who(), &failure.error);
        log::warn!(
            "{who}: {reason} after {tries} tries, last on backend {name} of pool {pool}: {error}; {why}"
        );
    }
}

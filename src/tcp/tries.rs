//! A connection on its way to a backend: the first pick, the queue, each try.

use super::{
    Socket, Stream,
    log_line::Story,
    relay::{Ended, Relay, Side},
};
use crate::{
    model::{Ends, Reason, RetryOn},
    pool::{
        Dialed, Dialer, Lease, NoRetry, Outcome, Picked, Place, Pool, Preamble, Tried, Waited,
        Wanted, hash_address, is_ours,
    },
    tls,
};
use rustls::pki_types::ServerName;
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_rustls::TlsConnector;

/// A connection that has come to a backend.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) backend: Box<dyn Stream>,
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
    /// Whether it is us who lack something. That says nothing of the backend.
    fn is_ours(&self) -> bool {
        is_ours(&self.error)
    }

    /// What it says of the backend.
    fn outcome(&self, took: Duration) -> Outcome {
        if self.is_ours() { Outcome::Unknown } else { Outcome::Failure { took } }
    }

    fn reason(&self) -> Reason {
        match self.kind {
            _ if self.is_ours() => Reason::InternalError,
            RetryOn::Reset => Reason::UpstreamReset,
            _ if self.error.kind() == io::ErrorKind::TimedOut => Reason::UpstreamTimeout,
            _ => Reason::ConnectFailed,
        }
    }
}

fn in_the_clear(dialed: Dialed) -> Box<dyn Stream> {
    match dialed {
        Dialed::Tcp(stream) => Box::new(stream),
        Dialed::Unix(stream) => Box::new(stream),
    }
}

async fn secured(
    dialed: Dialed,
    connector: &TlsConnector,
    name: ServerName<'static>,
) -> io::Result<Box<dyn Stream>> {
    let shaken: io::Result<Box<dyn Stream>> = match dialed {
        Dialed::Tcp(stream) => connector.connect(name, stream).await.map(|it| Box::new(it) as _),
        Dialed::Unix(stream) => connector.connect(name, stream).await.map(|it| Box::new(it) as _),
    };
    shaken.map_err(|error| {
        let why = error.to_string();
        io::Error::new(error.kind(), format!("TLS handshake: {}", tls::in_words(&why)))
    })
}

/// The tries of one connection.
pub(super) struct Tries<'a> {
    pool: Arc<Pool>,
    story: &'a mut Story,
    /// Whose connection it is.
    ends: Ends,
    /// What the hashing policies go by.
    key: Option<u64>,
    tried: Tried,
}

impl<'a> Tries<'a> {
    pub(super) fn new(pool: Arc<Pool>, ends: Ends, story: &'a mut Story) -> Self {
        let key = key_of(story, &pool);
        Self { pool, story, ends, key, tried: Tried::default() }
    }

    /// Connects to one backend after another, until one takes the connection or there is no other try.
    /// What each of them says goes through `relay`.
    pub(super) async fn connect<S: Stream>(
        mut self,
        client: &mut S,
        mut relay: Relay,
    ) -> Result<Box<Connected>, Reason> {
        let mut lease = self.pick_first(client.socket()).await?;
        loop {
            let began = Instant::now();
            let failure = match self.begin(&lease, client, &mut relay).await {
                Ok((backend, ended)) => {
                    return Ok(Box::new(Connected { backend, lease, began, relay, ended }));
                }
                Err(failure) => failure,
            };
            let outcome = failure.outcome(began.elapsed());
            self.pool.report(&lease, outcome, self.story.tries, self.pool.now());
            lease = self.pick_next(&lease, &failure)?;
            tokio::time::sleep(self.pool.pause(self.story.tries)).await;
        }
    }

    /// Picks a backend by the pool's policy; if all have as many connections as they may, after a wait
    /// in the queue. A client that leaves frees its place.
    async fn pick_first(&mut self, client: Socket<'_>) -> Result<Lease, Reason> {
        let now = self.pool.now();
        self.pool.core().begin_request(now);
        match self.pool.pick(&self.wanted(), now) {
            Picked::Lease(lease) => return Ok(lease),
            Picked::Nothing => return Err(Reason::NoHealthyBackend),
            Picked::Busy => {}
        }
        let place = self.pool.core().enqueue().ok_or(Reason::Overloaded)?;
        let began = Instant::now();
        let waited = self.wait_at(place, began, client).await;
        self.story.queue = Some(began.elapsed());
        waited
    }

    fn wanted(&self) -> Wanted<'_> {
        Wanted { key: self.key, kept: None, tried: &self.tried, place: None }
    }

    /// Waits at this place in the line, also of what a reload makes of the pool.
    async fn wait_at(
        &mut self,
        mut place: Place,
        began: Instant,
        client: Socket<'_>,
    ) -> Result<Lease, Reason> {
        loop {
            match self.pool.wait_in_line(place, began, &self.wanted(), client.closed()).await {
                Waited::Lease(lease) => return Ok(lease),
                Waited::Nothing => return Err(Reason::NoHealthyBackend),
                Waited::TooLong => return Err(Reason::Overloaded),
                Waited::Gone => return Err(Reason::ClientAborted),
                Waited::Moved(kept, successor) => {
                    place = kept;
                    self.key = key_of(self.story, &successor);
                    self.pool = successor;
                }
            }
        }
    }

    /// One try. It goes on until one side hears something of the other: before that, nothing is lost
    /// by going elsewhere.
    async fn begin<S: Stream>(
        &mut self,
        lease: &Lease,
        client: &mut S,
        relay: &mut Relay,
    ) -> Result<(Box<dyn Stream>, Option<Ended>), Failure> {
        let (mut backend, connect) = self.dial(lease).await?;
        match relay.begin(client, &mut backend).await {
            Some(Ended::Broken(Side::Backend, error)) if relay.is_untouched() => {
                Err(Failure { kind: RetryOn::Reset, error })
            }
            ended => {
                let outcome = match ended {
                    Some(Ended::Broken(..)) => Outcome::Unknown,
                    _ => Outcome::Success { first_byte: connect },
                };
                self.pool.report(lease, outcome, self.story.tries, self.pool.now());
                Ok((backend, ended))
            }
        }
    }

    async fn dial(&mut self, lease: &Lease) -> Result<(Box<dyn Stream>, Duration), Failure> {
        self.tried.add(lease);
        self.story.tries += 1;
        self.story.backend = Some(lease.name().clone());
        self.story.connect = None;
        let began = Instant::now();
        let met = self.meet(lease).await;
        let backend = met.map_err(|error| Failure { kind: RetryOn::ConnectFailure, error })?;
        let took = began.elapsed();
        self.story.connect = Some(took);
        // Enough to send it more, though it may be long until one side says something.
        lease.answered();
        Ok((backend, took))
    }

    /// Connects, and makes the TLS handshake where there is to be one.
    async fn meet(&self, lease: &Lease) -> io::Result<Box<dyn Stream>> {
        let timeout = self.pool.spec().connect_timeout();
        let until = tokio::time::Instant::now() + timeout;
        let version = self.pool.spec().proxy_protocol;
        let preamble = version.map(|version| Preamble::of_client(version, self.ends));
        let dialed = Dialer { timeout, preamble }.dial(lease.address()).await?;
        let Some(tls) = self.pool.tls() else { return Ok(in_the_clear(dialed)) };
        let (config, name) = tls.client(&lease.own_name());
        let connector = TlsConnector::from(config);
        let handshake = secured(dialed, &connector, name);
        let shaken = tokio::time::timeout_at(until, handshake).await;
        shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
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

/// What the hashing policies go by: the client's address.
fn key_of(story: &Story, pool: &Pool) -> Option<u64> {
    let hashes = pool.spec().balance.policy.is_hashing();
    story.client.filter(|_| hashes).map(hash_address)
}

//! Draining: who is still here, and when the last one has left.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// How long a handshake or a head that has begun may take once draining has begun.
const BEGUN_GRACE: Duration = Duration::from_secs(1);

/// How long to linger once draining has begun, when somebody waits for us to be gone. After a hand-over,
/// nobody does.
pub(super) const LINGER_DRAINING: Duration = Duration::from_millis(50);

/// How long the connections that are cut off when the time for draining is over may take to end.
const CLOSING: Duration = Duration::from_millis(500);

/// How much of that a tunnel may take, and an answer of ours: then they are given up, so that they are logged.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(250);

/// What the process is doing with its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Accepting and serving.
    Serving,
    /// Accepting no more; requests in flight are answered and their connections closed. An idle
    /// connection gets this long for a request that is already on its way.
    Draining {
        /// How long an idle connection is kept.
        idle_grace: Duration,
        /// Whether a successor accepts what has not been accepted yet.
        successor: bool,
        /// Whether the time for it is over: what goes on is cut off.
        over: bool,
    },
}

impl Phase {
    /// Whether connections are to be closed after their present request.
    pub fn is_draining(self) -> bool {
        matches!(self, Self::Draining { .. })
    }

    /// Whether the time for draining is over.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Draining { over: true, .. })
    }
}

/// The phase of the process and the number of its connections, shared by everything that accepts
/// or serves.
#[derive(Clone, Debug)]
pub struct Drain(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    phase: watch::Sender<Phase>,
    /// The same as a flag, in the form in which Pingora takes it.
    draining: watch::Sender<bool>,
    /// The same, to be looked at without a lock.
    begun: AtomicBool,
    connections: AtomicUsize,
    /// Listeners that may still take connections from the kernel.
    listeners: AtomicUsize,
    left: Notify,
    /// Whether the time for draining is over, likewise.
    over: AtomicBool,
}

impl Default for Drain {
    fn default() -> Self {
        Self(Arc::new(Shared {
            phase: watch::Sender::new(Phase::Serving),
            draining: watch::Sender::new(false),
            begun: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            listeners: AtomicUsize::new(0),
            left: Notify::new(),
            over: AtomicBool::new(false),
        }))
    }
}

impl Drain {
    /// Stops accepting and has every connection close when it is done.
    pub fn begin(&self, idle_grace: Duration, successor: bool) {
        // First, as those who are woken look at it.
        self.0.begun.store(true, SeqCst);
        self.0.draining.send_replace(true);
        self.0.phase.send_replace(Phase::Draining { idle_grace, successor, over: false });
    }

    /// Follows the phase.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.0.phase.subscribe()
    }

    /// What the task of one connection waits for.
    pub(super) fn drained(&self) -> Drained {
        let resolved: Waiting = Box::pin(drained(self.phase()));
        Drained { drain: self.clone(), resolved: Some(resolved), over: None, waits: false }
    }

    /// Follows whether we are draining.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.0.draining.subscribe()
    }

    /// Whether we are draining.
    pub fn is_draining(&self) -> bool {
        *self.0.draining.borrow()
    }

    /// Whether we are draining and a successor accepts.
    pub fn has_successor(&self) -> bool {
        matches!(*self.0.phase.borrow(), Phase::Draining { successor: true, .. })
    }

    /// Cuts off what still goes on, and waits for a moment until everybody has taken leave.
    pub async fn end(&self) {
        // First, as those who are woken look at it.
        self.0.over.store(true, SeqCst);
        self.0.phase.send_modify(|phase| {
            if let Phase::Draining { over, .. } = phase {
                *over = true;
            }
        });
        // Whoever talks to somebody that takes nothing more is not waited for any longer.
        let _ = tokio::time::timeout(CLOSING, self.wait_until_empty()).await;
    }

    /// Whether the time for draining is over.
    pub(super) fn is_over(&self) -> bool {
        self.0.over.load(SeqCst)
    }

    /// Resolves when the time for draining is over.
    pub(super) fn until_over(&self) -> UntilOver {
        UntilOver(Box::pin(over(self.phase())))
    }

    /// An answer of ours, unless the process ends before it is there: it may be a filter's.
    pub(super) async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        let late = async {
            over(self.phase()).await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            biased;
            answer = answer => Some(answer),
            () = late => None,
        }
    }

    /// Counts a connection until the guard is dropped.
    pub fn enter(&self) -> Present {
        self.0.connections.fetch_add(1, SeqCst);
        Present(self.0.clone())
    }

    /// Counts a listener until the guard is dropped: its backlog is connections to come.
    pub fn listen(&self) -> Listening {
        self.0.listeners.fetch_add(1, SeqCst);
        Listening(self.0.clone())
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.0.connections.load(SeqCst)
    }

    /// Resolves when no connection is open and no listener can bring one.
    pub async fn wait_until_empty(&self) {
        loop {
            let left = self.0.left.notified();
            tokio::pin!(left);
            // Registered before looking, so that a connection that leaves in between is noticed.
            left.as_mut().enable();
            // Listeners first: a connection that the last one took is counted before it ends.
            if self.0.listeners.load(SeqCst) == 0 && self.connections() == 0 {
                return;
            }
            left.await;
        }
    }
}

type Waiting = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// Resolves when draining has begun and its grace for idle connections is over, for a task that waits
/// for this again and again: it gets in line once, where each wait of its own would do so under a
/// lock.
pub(super) struct Drained {
    drain: Drain,
    /// `None` once it has resolved.
    resolved: Option<Waiting>,
    /// What a request in flight waits for, once draining has begun.
    over: Option<UntilOver>,
    /// Whether it is in line. Only one task may wait, as that is the one that is woken.
    waits: bool,
}

impl Drained {
    /// Ready when the time for draining is over. While a request is served, the task waits for this: before
    /// draining has begun, in the same line.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.waits {
            // What it says is for connections without a request.
            let _ = Pin::new(&mut *self).poll(cx);
        }
        if !self.drain.0.begun.load(SeqCst) {
            return Poll::Pending;
        }
        if self.drain.is_over() {
            return Poll::Ready(());
        }
        let Self { drain, over, .. } = self;
        Pin::new(over.get_or_insert_with(|| drain.until_over())).poll(cx)
    }
}

impl Future for Drained {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if std::mem::replace(&mut this.waits, true) && !this.drain.0.begun.load(SeqCst) {
            return Poll::Pending;
        }
        if let Some(resolved) = &mut this.resolved {
            ready!(resolved.as_mut().poll(cx));
            this.resolved = None;
        }
        Poll::Ready(())
    }
}

/// Resolves when the time for draining is over. It must not be awaited again then.
pub(super) struct UntilOver(Waiting);

impl Future for UntilOver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for UntilOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UntilOver").finish_non_exhaustive()
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub struct Present(Arc<Shared>);

impl Drop for Present {
    fn drop(&mut self) {
        if self.0.connections.fetch_sub(1, SeqCst) == 1 {
            self.0.left.notify_waiters();
        }
    }
}

/// A listener that is counted.
#[derive(Debug)]
pub struct Listening(Arc<Shared>);

impl Drop for Listening {
    fn drop(&mut self) {
        if self.0.listeners.fetch_sub(1, SeqCst) == 1 {
            self.0.left.notify_waiters();
        }
    }
}

/// Resolves when draining has begun and its grace for idle connections is over, or all of its time is.
pub(super) async fn drained(phase: watch::Receiver<Phase>) {
    draining_for(phase, |phase| match phase {
        Phase::Draining { idle_grace, .. } => Some(idle_grace),
        Phase::Serving => None,
    })
    .await;
}

/// Resolves when a handshake or a head that is not whole would hold up the end of the process. After
/// a hand-over nobody waits for that, and their own timeouts are enough until the time is over.
pub(super) async fn overdue(phase: watch::Receiver<Phase>) {
    draining_for(phase, |phase| match phase {
        Phase::Draining { successor: false, .. } => Some(BEGUN_GRACE),
        _ => None,
    })
    .await;
}

/// Resolves when what a client still sends after the last word was thrown away for as long as `linger`
/// says, or for less where that would hold up the end of the process.
pub(super) async fn lingered(phase: watch::Receiver<Phase>, linger: Duration) {
    let hurried = draining_for(phase, |phase| match phase {
        Phase::Draining { successor: false, .. } => Some(Duration::ZERO),
        Phase::Draining { successor: true, .. } | Phase::Serving => None,
    });
    let sooner = async {
        hurried.await;
        tokio::time::sleep(LINGER_DRAINING).await;
    };
    tokio::select! {
        () = tokio::time::sleep(linger) => {}
        () = sooner => {}
    }
}

/// Resolves when draining has gone on for as long as `grace` says, or for all of its time; no sooner than
/// that if `grace` is `None`.
async fn draining_for(
    mut phase: watch::Receiver<Phase>,
    grace: impl FnOnce(Phase) -> Option<Duration>,
) {
    // The sender outlives every connection; were it gone, nobody would drain any more.
    let begun = phase.wait_for(|phase| phase.is_draining()).await.map(|phase| *phase);
    let over = over(phase);
    match begun.ok().and_then(grace) {
        Some(grace) => drop(tokio::time::timeout(grace, over).await),
        None => over.await,
    }
}

/// Resolves when the time for draining is over.
async fn over(mut phase: watch::Receiver<Phase>) {
    if phase.wait_for(|phase| phase.is_over()).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn empty_when_the_last_connection_leaves() {
        let drain = Drain::default();
        drain.wait_until_empty().await;
        let (first, second) = (drain.enter(), drain.enter());
        let empty = tokio::spawn({
            let drain = drain.clone();
            async move { drain.wait_until_empty().await }
        });
        drop(first);
        assert_eq!(drain.connections(), 1);
        assert!(!empty.is_finished());
        drop(second);
        empty.await.unwrap();
    }

    #[tokio::test]
    async fn not_empty_while_a_listener_may_bring_connections() {
        let drain = Drain::default();
        let listening = drain.listen();
        let mut empty = std::pin::pin!(drain.wait_until_empty());
        assert!(is_pending(empty.as_mut()).await);
        let connection = drain.enter();
        drop(listening);
        assert!(is_pending(empty.as_mut()).await);
        assert_eq!(drain.connections(), 1);
        drop(connection);
        empty.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_in_line_is_kept_from_one_wait_to_the_next() {
        let (drain, grace) = (Drain::default(), Duration::from_millis(100));
        let mut drained = drain.drained();
        for _ in 0..3 {
            assert!(is_pending(Pin::new(&mut drained)).await);
        }
        let began = tokio::time::Instant::now();
        tokio::join!(drained, async { drain.begin(grace, false) });
        assert_eq!(began.elapsed(), grace);
        // One that gets in line later finds that it has begun.
        drain.drained().await;
        assert_eq!(began.elapsed(), 2 * grace);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_those_who_are_here_and_not_for_ever() {
        let drain = Drain::default();
        drain.begin(Duration::ZERO, false);
        drain.end().await;
        assert!(drain.is_over(), "with nobody to wait for");

        let drain = Drain::default();
        let connection = drain.enter();
        let mut over = drain.until_over();
        drain.begin(Duration::ZERO, false);
        assert!(is_pending(Pin::new(&mut over)).await);
        let began = tokio::time::Instant::now();
        let mut end = std::pin::pin!(drain.end());
        assert!(is_pending(end.as_mut()).await);
        over.await;
        assert!(is_pending(end.as_mut()).await);
        drop(connection);
        end.await;
        assert!(began.elapsed() < CLOSING);

        let _here = drain.enter();
        drain.end().await;
        assert_eq!(began.elapsed(), CLOSING);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_hears_of_the_end_in_the_midst_of_a_request() {
        for waited_before in [false, true] {
            let drain = Drain::default();
            let mut drained = drain.drained();
            let task = tokio::spawn(async move {
                if waited_before {
                    assert!(is_pending(Pin::new(&mut drained)).await);
                }
                std::future::poll_fn(|cx| drained.poll_over(cx)).await;
            });
            tokio::task::yield_now().await;
            drain.begin(Duration::from_secs(60), false);
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(!task.is_finished());
            drain.end().await;
            task.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_grace_is_longer_than_the_time_there_is() {
        let (drain, long) = (Drain::default(), Duration::from_secs(60));
        let began = tokio::time::Instant::now();
        let waits = async {
            tokio::join!(drained(drain.phase()), overdue(drain.phase()));
            assert!(drain.is_over());
            lingered(drain.phase(), long).await;
        };
        tokio::join!(waits, async {
            drain.begin(long, true);
            tokio::time::sleep(Duration::from_secs(1)).await;
            drain.end().await;
        });
        assert_eq!(began.elapsed(), Duration::from_secs(1) + LINGER_DRAINING);
    }

    async fn is_pending(future: std::pin::Pin<&mut impl Future>) -> bool {
        let mut future = Some(future);
        std::future::poll_fn(|cx| {
            let future = future.take().expect("polled once");
            std::task::Poll::Ready(future.poll(cx).is_pending())
        })
        .await
    }
}

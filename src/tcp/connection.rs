//! One connection, from its arrival to its line in the access log.

use super::{
    Pipes, Socket, Stream,
    hello::{self, Beginning},
    log_line::Story,
    relay::{Ended, Relay, Side},
    tries::{Connected, Tries},
};
use crate::{
    model::{Ends, Reason},
    pool::Pool,
    runtime::{Forwarding, Snapshot},
    tls::TlsFacts,
};
use std::{sync::Arc, time::Instant};

/// A connection that a tcp listener has accepted.
#[derive(Debug)]
pub struct Arrival {
    /// The configuration that decides on it.
    pub snapshot: Arc<Snapshot>,
    /// The listener's index in the snapshot.
    pub listener: usize,
    /// Whose connection it is.
    pub ends: Ends,
    /// When it was accepted.
    pub accepted: Instant,
    /// What the client's TLS handshake came to, if it has made one with us.
    pub tls: Option<Arc<TlsFacts>>,
    /// What large streams are passed on through.
    pub pipes: Pipes,
}

impl Arrival {
    fn forwarding(&self) -> &Forwarding {
        self.snapshot.forwarding(self.listener).expect("a tcp listener has somewhere to forward to")
    }
}

/// Logs a connection that was one too many for its listener, and is closed.
pub fn refuse(arrival: &Arrival) {
    Story::of(arrival).log(Reason::Overloaded);
}

/// Serves a connection to its end. When `overdue` resolves, the process is about to end, and a client
/// that has not said yet whom it wants is not waited for any more. When `over` does, the process ends,
/// and what goes on is cut off.
pub async fn serve<S: Stream>(
    mut client: S,
    arrival: Box<Arrival>,
    overdue: impl Future<Output = ()>,
    mut over: impl Future<Output = ()> + Unpin,
) {
    let mut story = Box::new(Story::of(&arrival));
    // What it takes to get to a backend is not kept for as long as the connection lives.
    let finding = Box::pin(find(&mut client, arrival, overdue, &mut story));
    let found = tokio::select! {
        biased;
        // At the end, nothing is overdue any more.
        () = &mut over => Err(Reason::DrainTimeout),
        found = finding => found,
    };
    let reason = match found {
        Ok(mut connected) => {
            let ended = tokio::select! {
                biased;
                ended = pass_on(&mut client, &mut connected) => ended,
                () = over => Ended::CutOff,
            };
            conclude(&ended, &client, connected, &mut story)
        }
        Err(reason) => reason,
    };
    drop(client);
    story.log(reason);
}

/// Passes on what each side sends until both have ended.
async fn pass_on<S: Stream>(client: &mut S, connected: &mut Connected) -> Ended {
    match connected.ended.take() {
        Some(ended) => ended,
        None => connected.relay.run(client, &mut connected.backend).await,
    }
}

/// Finds the connection's pool, and a backend in it that takes it.
async fn find<S: Stream>(
    client: &mut S,
    arrival: Box<Arrival>,
    overdue: impl Future<Output = ()>,
    story: &mut Story,
) -> Result<Box<Connected>, Reason> {
    let forwarding = arrival.forwarding();
    let pool = tokio::select! {
        biased;
        chosen = choose(client.socket(), &arrival, story) => chosen?,
        () = overdue => return Err(Reason::ClientTimeout),
    };
    story.set_pool(&arrival, pool);
    let relay = Relay::new(arrival.pipes.clone(), forwarding.idle_timeout);
    Tries::new(pool.clone(), arrival.ends, story).connect(client, relay).await
}

/// The pool for the connection, by the name that the client asks for where there is a choice.
async fn choose<'a>(
    client: Socket<'_>,
    arrival: &'a Arrival,
    story: &mut Story,
) -> Result<&'a Arc<Pool>, Reason> {
    let forwarding = arrival.forwarding();
    if !forwarding.depends_on_name() {
        return forwarding.choose(None).ok_or(Reason::NoRoute);
    }
    let header = arrival.snapshot.listeners[arrival.listener].timeouts.header;
    match hello::read(client, arrival.accepted + header).await? {
        Beginning::Hello(name) => {
            story.name = name;
            forwarding.choose(story.name.as_deref()).ok_or(Reason::NoRoute)
        }
        Beginning::NotTls => forwarding.choose(None).ok_or(Reason::BadRequest),
    }
}

/// Closes the connection to the backend, and notes what was passed on.
fn conclude<S: Stream>(
    ended: &Ended,
    client: &S,
    connected: Box<Connected>,
    story: &mut Story,
) -> Reason {
    // Where one side broke off, the other must see that: an orderly end would look like the end of what
    // was to be said.
    match ended {
        Ended::Broken(Side::Client, _) => connected.backend.socket().reset_on_close(),
        Ended::Broken(Side::Backend, _) => client.socket().reset_on_close(),
        Ended::Both | Ended::Idle | Ended::CutOff => {}
    }
    let Connected { backend, lease, began, relay, .. } = *connected;
    let first_byte = relay.first_byte().map(tokio::time::Instant::into_std);
    story.first_byte = first_byte.map(|at| at.saturating_duration_since(began));
    if let Some(took) = story.first_byte {
        lease.observe_first_byte(took);
    }
    // The place on the backend is held until its connection is closed.
    drop(backend);
    drop(lease);
    story.bytes_in = relay.bytes_in();
    story.bytes_out = relay.bytes_out();
    reason(ended, story)
}

fn reason(ended: &Ended, story: &Story) -> Reason {
    match ended {
        Ended::Both => Reason::Ok,
        Ended::Idle => Reason::IdleTimeout,
        Ended::CutOff => Reason::DrainTimeout,
        Ended::Broken(side, error) => {
            log::debug!("{}: the {} broke off: {error}", story.who(), side.as_str());
            match side {
                Side::Client => Reason::ClientAborted,
                Side::Backend if story.bytes_out > 0 => Reason::UpstreamTruncated,
                Side::Backend => Reason::UpstreamReset,
            }
        }
    }
}

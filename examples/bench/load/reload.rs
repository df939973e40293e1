//! A reload under traffic: how long until it is in force, and what the traffic notices.

use super::{Answered, client::Client, open};
use crate::Outcome;
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// Requests a second beside the reload.
const RATE: f64 = 1_000.0;
/// How long traffic goes on before the reload and after it is in force.
const AROUND: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Calls `reload` under traffic. The time until a new connection gets the new configuration, and how
/// the traffic did.
pub(crate) fn measure(
    address: SocketAddr,
    reload: impl FnOnce() -> Outcome<()>,
) -> Outcome<(Duration, Answered)> {
    // Connections are taken before a proxy serves: how long it takes to start is not what is asked.
    Client::new(address, "/small").get()?;
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let traffic = scope.spawn(|| open::until(address, "/small", RATE, LONGEST, &end));
        thread::sleep(AROUND);
        let began = Instant::now();
        let in_force = reload().and_then(|()| wait_for_second(address, began));
        thread::sleep(AROUND);
        end.store(true, Relaxed);
        let traffic = traffic.join().map_err(|_| "the traffic panicked")??;
        Ok((in_force?, traffic))
    })
}

fn wait_for_second(address: SocketAddr, began: Instant) -> Outcome<Duration> {
    let mut client = Client::new(address, "/small");
    while began.elapsed() < LONGEST {
        client.leave();
        if client.get()?.to_ascii_lowercase().contains("x-generation: 2\r\n") {
            return Ok(began.elapsed());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err("the new configuration did not come into force".into())
}

//! A timer that exists only while somebody waits: most reads and writes never do.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// `None` while nobody waits. Whoever makes progress sets it to that.
pub(super) type Timer = Option<Pin<Box<Sleep>>>;

/// Waits for a timer that is set on first use.
pub(super) fn poll_timer(timer: &mut Timer, patience: Duration, cx: &mut Context<'_>) -> Poll<()> {
    let at = || Box::pin(tokio::time::sleep_until(Instant::now() + patience));
    timer.get_or_insert_with(at).as_mut().poll(cx)
}

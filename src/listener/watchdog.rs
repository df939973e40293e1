//! The times of a request that Pingora does not keep: the task that has Pingora serve it polls this
//! beside Pingora's future.

use crate::proxy::Link;
use std::{future::poll_fn, pin::Pin, task::Poll};
use tokio::time::{Instant, Sleep};

/// Resolves when the exchange is to be given up: its deadline has passed, or its try's has and Pingora
/// cannot be told so. Cuts a try whose time is over. The proxy sets and moves these times while it is
/// polled in the same task, just before this is.
pub(super) async fn expired(link: &Link) {
    loop {
        passed(link).await;
        if link.deadline().is_some_and(|deadline| deadline <= std::time::Instant::now()) {
            return;
        }
        link.cut_try();
        if link.is_cut() && !is_taken_in(link).await {
            return;
        }
    }
}

/// Whether Pingora, polled once more, has read from the client and taken in that its try is cut. It
/// does not read while it waits for a backend to take a piece of the body.
async fn is_taken_in(link: &Link) -> bool {
    let mut polled = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut polled, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    !link.is_cut()
}

/// Resolves when the exchange's deadline or its try's has passed.
async fn passed(link: &Link) {
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        link.pause();
        let next = link.deadline().into_iter().chain(link.try_deadline()).min();
        let Some(deadline) = next.map(Instant::from_std) else { return Poll::Pending };
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx)
    })
    .await;
}

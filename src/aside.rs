//! Long work, done where it holds up no request.

use rustix::process::{getpriority_process, setpriority_process};
use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
};
use tokio::{runtime::Handle, sync::oneshot};

/// How much the threads that serve come before such work, on the scale of nice(1). Where all processors
/// are busy it gets about a third of what one of them gets: it is to come to an end there, too.
const NICE: i32 = 5;

/// Does `work` on a thread of its own that is in nobody's way: where there is no processor left, those that
/// serve come first. If there is no thread to be had it is done here, as it has to be done.
///
/// # Errors
/// That it panicked.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (done, result) = oneshot::channel();
    let work = Arc::new(Mutex::new(Some(move || {
        // Whoever asked may be gone.
        let _ = done.send(work());
    })));
    let take = |work: &Mutex<Option<_>>| work.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (theirs, runtime) = (work.clone(), Handle::current());
    let run = move || {
        // On Linux a thread has a priority of its own. Without it, the work is done all the same.
        let _ = getpriority_process(None).and_then(|own| setpriority_process(None, own + NICE));
        let _runtime = runtime.enter();
        if let Some(work) = take(&theirs) {
            work();
        }
    };
    if thread::Builder::new().name("aside".to_owned()).spawn(run).is_err()
        && let Some(work) = take(&work)
    {
        work();
    }
    drop(work);
    result.await.map_err(|_| "it panicked".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_has_a_lower_priority_than_those_who_serve() {
        let own = getpriority_process(None).unwrap();
        let theirs = aside(|| getpriority_process(None).unwrap()).await.unwrap();
        assert_eq!(theirs, (own + NICE).min(19));
        assert_eq!(getpriority_process(None).unwrap(), own);
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let outcome = aside(|| panic!("on purpose")).await;
        assert_eq!(outcome, Err::<(), _>("it panicked".to_owned()));
    }
}

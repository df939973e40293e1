//! Where passwords are verified: a few at a time, away from the threads that serve requests.
//!
//! bcrypt is slow on purpose, tens of milliseconds and more, which no thread that serves requests may
//! spend. So it has threads of its own, and few of them, since more would only take processors from
//! the requests. Who comes while all are busy waits in a line, which has an end: a flood of wrong
//! passwords must not take up memory. Whoever was verified before is let in without any of this.

use super::{
    credentials::Credentials,
    users::{Proof, Users},
};
use crate::filter::Result;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::{sync::Arc, thread};
use tokio::{sync::Semaphore, task::spawn_blocking};

/// How many requests may wait for a verification.
const LINE: usize = 64;

/// What became of a name and a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They are a user's.
    Known,
    /// They are not.
    Unknown,
    /// Too many wait to be verified.
    Busy,
}

/// Verifies.
pub(super) struct Desk {
    /// Makes a proof of a name and a password. The key is random and never leaves this process, so a
    /// proof is worth nothing elsewhere.
    key: Hmac<Sha256>,
    /// Those that are verified, and those that wait for it.
    present: Semaphore,
    /// Those that are verified.
    served: Arc<Semaphore>,
}

impl Desk {
    pub(super) fn new() -> Self {
        let half = thread::available_parallelism().map_or(1, |all| all.get().div_ceil(2));
        Self::with(half)
    }

    /// A desk that verifies so many at a time.
    fn with(at_a_time: usize) -> Self {
        let key = Hmac::new_from_slice(&rand::random::<[u8; 32]>());
        Self {
            key: key.expect("HMAC takes keys of any length"),
            present: Semaphore::new(at_a_time + LINE),
            served: Arc::new(Semaphore::new(at_a_time)),
        }
    }

    /// Whether the credentials are those of one of `users`.
    pub(super) async fn check(
        &self,
        users: Arc<Users>,
        credentials: Credentials,
    ) -> Result<Verdict> {
        let proof = self.proof(&credentials);
        if users.remembers(&credentials.name, &proof) {
            return Ok(Verdict::Known);
        }
        let Ok(_place) = self.present.try_acquire() else { return Ok(Verdict::Busy) };
        let permit = Arc::clone(&self.served).acquire_owned().await?;
        if users.remembers(&credentials.name, &proof) {
            // Another request of the same user came first.
            return Ok(Verdict::Known);
        }
        // It goes on if the client goes away, so what is done is done under the permit.
        let known = spawn_blocking(move || {
            let _permit = permit;
            let Credentials { name, password } = credentials;
            let known = users.verify(&name, &password);
            if known {
                users.remember(&name, proof);
            }
            known
        });
        Ok(if known.await? { Verdict::Known } else { Verdict::Unknown })
    }

    /// What these credentials leave behind once they are verified.
    pub(super) fn proof(&self, Credentials { name, password }: &Credentials) -> Proof {
        let mut mac = self.key.clone();
        mac.update(&(name.len() as u64).to_be_bytes());
        mac.update(name.as_bytes());
        mac.update(password.as_bytes());
        mac.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::users::tests::line, *};
    use std::{
        future::{Future, poll_fn},
        pin::{Pin, pin},
        task::Poll,
    };

    fn users() -> Arc<Users> {
        Arc::new(Users::read((line("ada", "secret") + &line("zoe", "z")).as_bytes()).unwrap())
    }

    fn credentials(name: &str, password: &str) -> Credentials {
        Credentials { name: name.to_owned(), password: password.to_owned() }
    }

    /// Polls once.
    async fn poll<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
        poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
    }

    /// What a check comes to without waiting; `None` if it has to.
    async fn at_once(
        desk: &Desk,
        users: &Arc<Users>,
        name: &str,
        password: &str,
    ) -> Option<Verdict> {
        let check = pin!(desk.check(Arc::clone(users), credentials(name, password)));
        match poll(check).await {
            Poll::Ready(verdict) => Some(verdict.unwrap()),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn what_was_verified_once_is_let_in_at_once() {
        let (desk, users) = (Desk::with(1), users());
        let check = |password| desk.check(Arc::clone(&users), credentials("ada", password));
        assert_eq!(check("secret").await.unwrap(), Verdict::Known);
        assert_eq!(check("wrong").await.unwrap(), Verdict::Unknown);

        // With nobody to verify, only what is remembered is let in.
        let _busy = desk.served.clone().acquire_owned().await.unwrap();
        assert_eq!(at_once(&desk, &users, "ada", "secret").await, Some(Verdict::Known));
        for (name, password) in
            [("ada", "wrong"), ("ada", ""), ("zoe", "z"), ("zoe", "secret"), ("adas", "ecret")]
        {
            assert_eq!(at_once(&desk, &users, name, password).await, None, "{name} {password}");
        }
    }

    #[tokio::test]
    async fn other_users_of_that_name_have_proved_nothing() {
        let (desk, before) = (Desk::with(1), users());
        let ada = || credentials("ada", "secret");
        assert_eq!(desk.check(Arc::clone(&before), ada()).await.unwrap(), Verdict::Known);
        let after = Arc::new(Users::read(line("ada", "other").as_bytes()).unwrap());
        assert_eq!(desk.check(after, ada()).await.unwrap(), Verdict::Unknown);
    }

    #[tokio::test]
    async fn the_line_has_an_end() {
        let (desk, users) = (Desk::with(1), users());
        let busy = desk.served.clone().acquire_owned().await.unwrap();
        let check = || desk.check(Arc::clone(&users), credentials("ada", "secret"));
        let mut waiting: Vec<_> = (0..=LINE).map(|_| Box::pin(check())).collect();
        for one in &mut waiting {
            assert!(matches!(poll(one.as_mut()).await, Poll::Pending));
        }
        assert_eq!(check().await.unwrap(), Verdict::Busy);
        // A client that goes away leaves its place.
        waiting.pop();
        assert!(matches!(poll(Box::pin(check()).as_mut()).await, Poll::Pending));
        drop(busy);
        for one in waiting {
            assert_eq!(one.await.unwrap(), Verdict::Known);
        }
    }
}

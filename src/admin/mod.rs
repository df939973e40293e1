//! The admin API: what a running instance tells of itself, and what it can be told to do.
//!
//! It has a thread and a runtime of its own, so that it answers however busy the threads are that
//! serve, and so that nothing it does delays them. It reads the snapshot in force, and asks the
//! process behind [`Instance`] for what is not in it.
//!
//! A request passes, in this order: whether it calls us by a name of ours (`guard`), its token, the
//! path and the method (`resource`, `request`), and, if it changes something, whether another web site sent it.

mod answer;
mod body;
mod dashboard;
mod decide;
mod events;
mod explain;
mod guard;
mod log_level;
mod metrics;
mod pools;
mod reload;
mod request;
mod resource;
mod server;
mod status;
mod wall_clock;

pub use server::start;

use crate::{
    model::{Amendment, Backend},
    runtime::Live,
};
use async_trait::async_trait;
use jiff::Timestamp;
use log::LevelFilter;
use serde::Serialize;
use serde_json::Value;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// What the API speaks for.
pub struct Admin {
    /// The snapshot in force.
    pub live: Arc<Live>,
    /// The process.
    pub instance: Arc<dyn Instance>,
    /// When the process began.
    pub started: Instant,
}

/// The process, as far as the API asks it or tells it something.
#[async_trait]
pub trait Instance: Send + Sync {
    /// Whether it serves on its listeners: not yet, or no more, is no.
    fn is_serving(&self) -> bool;

    /// Whether it is about to end.
    fn is_draining(&self) -> bool;

    /// The configuration in force.
    fn in_force(&self) -> Arc<InForce>;

    /// Has the configuration read again and put in force, as a HUP does, and says what has changed.
    ///
    /// # Errors
    /// Why nothing has.
    async fn reload(&self) -> Result<Vec<String>, NotReloaded>;

    /// How long work may go on that is to end.
    fn drain_timeout(&self) -> Duration;

    /// Reads a backend as the configuration has it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    fn read_backend(&self, text: &str) -> Result<Backend, Vec<Problem>>;

    /// Reads what is decided of a backend.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    fn read_amendment(&self, text: &str) -> Result<Amendment, Vec<Problem>>;

    /// Reads which messages are to be logged.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    fn read_log_level(&self, text: &str) -> Result<LevelFilter, Vec<Problem>>;

    /// From here on messages of `level` and above are logged.
    fn set_log_level(&self, level: LevelFilter);
}

/// Why a reload changed nothing.
#[derive(Clone, Debug)]
pub enum NotReloaded {
    /// The file has errors.
    Invalid(Vec<Problem>),
    /// Keys say something else that cannot change while the process lives.
    Fixed(Vec<Problem>),
    /// It is not possible at all, or not now.
    Unable(String),
}

/// Something wrong with a text, and where.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// The file, or what the text is called.
    pub file: String,
    /// From 1; `None` when it is about the whole.
    pub line: Option<u32>,
    /// From 1.
    pub column: Option<u32>,
    /// The key path, such as `pools.app.backends[1].weight`; empty at the top.
    pub path: String,
    /// What was found, and what was expected.
    pub message: String,
}

/// What is told of the configuration in force.
pub struct InForce {
    /// A number of 48 bits that differs where the configuration does, secrets aside.
    pub hash: u64,
    /// Since when it is in force.
    pub loaded_at: Timestamp,
    /// The whole of it.
    pub text: Box<dyn Text>,
}

/// A configuration as text. It is made when somebody asks, as few do and it is large.
pub trait Text: Send + Sync {
    /// The whole of it, with its defaults and without its secrets.
    fn effective(&self) -> Value;

    /// What the file says, without its secrets, for a comparison with another.
    fn file(&self) -> Value;
}

impl Admin {
    /// Whether traffic may come: every pool's first check pass is over, and the process serves.
    fn is_ready(&self) -> bool {
        let checked = self.live.load().pools.iter().all(|pool| pool.is_checked());
        checked && self.instance.is_serving()
    }
}

impl InForce {
    /// The hash as text.
    fn hash_text(&self) -> String {
        format!("{:012x}", self.hash)
    }
}

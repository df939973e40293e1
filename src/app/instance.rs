//! The process as the admin API sees it.

use super::{reload::problems, signals::Control};
use crate::{
    admin::{InForce, Instance, NotReloaded, Problem, Text},
    config::{self, Checked},
    filter::Registry,
    model::{Amendment, Backend},
};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use jiff::Timestamp;
use log::LevelFilter;
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// A process that serves a configuration.
pub(super) struct Running {
    control: Arc<Control>,
    in_force: ArcSwap<InForce>,
    /// The folder that relative paths start from.
    base: PathBuf,
}

/// What is told of a configuration that comes into force now.
pub(super) fn in_force(checked: &Arc<Checked>, filters: &Registry) -> InForce {
    InForce {
        hash: checked.hash(filters),
        loaded_at: Timestamp::now(),
        text: Box::new(Described { checked: checked.clone(), filters: filters.clone() }),
    }
}

/// A configuration, and what its filters are read with.
struct Described {
    checked: Arc<Checked>,
    filters: Registry,
}

impl Text for Described {
    fn effective(&self) -> Value {
        self.checked.effective_json(&self.filters)
    }

    fn file(&self) -> Value {
        self.checked.to_json()
    }
}

impl Running {
    pub(super) fn new(control: Arc<Control>, checked: &Arc<Checked>, filters: &Registry) -> Self {
        let folder = checked.source.as_deref().and_then(Path::parent);
        Self {
            control,
            in_force: ArcSwap::from_pointee(in_force(checked, filters)),
            base: folder.unwrap_or(Path::new("/")).to_path_buf(),
        }
    }

    pub(super) fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Another configuration is in force from now on. Returns what was told of the one before.
    pub(super) fn put_in_force(&self, told: InForce) -> Arc<InForce> {
        self.in_force.swap(Arc::new(InForce { loaded_at: Timestamp::now(), ..told }))
    }
}

#[async_trait]
impl Instance for Running {
    fn is_serving(&self) -> bool {
        self.control.is_serving()
    }

    fn is_draining(&self) -> bool {
        self.control.is_draining()
    }

    fn in_force(&self) -> Arc<InForce> {
        self.in_force.load_full()
    }

    async fn reload(&self) -> Result<Vec<String>, NotReloaded> {
        self.control.ask_for_reload().await
    }

    fn drain_timeout(&self) -> Duration {
        self.control.drain_timeout()
    }

    fn read_backend(&self, text: &str) -> Result<Backend, Vec<Problem>> {
        config::parse_backend(text, &self.base).map_err(|errors| problems(&errors))
    }

    fn read_amendment(&self, text: &str) -> Result<Amendment, Vec<Problem>> {
        config::parse_amendment(text).map_err(|errors| problems(&errors))
    }

    fn read_log_level(&self, text: &str) -> Result<LevelFilter, Vec<Problem>> {
        config::parse_log_level(text).map_err(|errors| problems(&errors))
    }

    fn set_log_level(&self, level: LevelFilter) {
        self.control.set_log_level(level);
    }
}

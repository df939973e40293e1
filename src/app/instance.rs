//! The process as the admin API sees it.

use super::{reload::problems, signals::Control};
use crate::{
    admin::{InForce, Instance, NotReloaded, Problem},
    config::{self, Checked},
    filter::Registry,
    model::{Amendment, Backend},
};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use jiff::Timestamp;
use log::LevelFilter;
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

fn in_force(checked: &Checked, filters: &Registry) -> InForce {
    InForce {
        hash: checked.hash(filters),
        loaded_at: Timestamp::now(),
        effective: checked.effective_json(filters),
        file: checked.to_json(),
    }
}

impl Running {
    pub(super) fn new(control: Arc<Control>, checked: &Checked, filters: &Registry) -> Self {
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

    /// Another configuration is in force from now on.
    pub(super) fn put_in_force(&self, checked: &Checked, filters: &Registry) {
        self.in_force.store(Arc::new(in_force(checked, filters)));
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

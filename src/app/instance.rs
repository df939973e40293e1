//! The process as the admin API sees it.

use super::signals::Control;
use crate::{
    admin::{InForce, Instance, NotReloaded},
    config::Checked,
    filter::Registry,
};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use jiff::Timestamp;
use std::sync::Arc;

/// A process that serves a configuration.
pub(super) struct Running {
    control: Arc<Control>,
    in_force: ArcSwap<InForce>,
}

fn in_force(checked: &Checked, filters: &Registry) -> InForce {
    InForce {
        hash: checked.hash(filters),
        loaded_at: Timestamp::now(),
        effective: checked.effective_json(filters),
    }
}

impl Running {
    pub(super) fn new(control: Arc<Control>, checked: &Checked, filters: &Registry) -> Self {
        Self { control, in_force: ArcSwap::from_pointee(in_force(checked, filters)) }
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
}

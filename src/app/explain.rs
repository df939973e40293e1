//! Explaining a request without serving.

use super::App;
use crate::{
    config::Checked,
    explain::{Description, Explanation, NotExplained, State, explain},
    pool::Interner,
    runtime::Snapshot,
};
use std::{io, sync::Arc};
use tokio::task::JoinSet;

/// Why a request was not explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The system has no room for a runtime.
    #[error("cannot resolve the names of backends: {0}")]
    Runtime(#[from] io::Error),
    /// The request cannot be explained.
    #[error(transparent)]
    Request(#[from] NotExplained),
}

impl App {
    /// Says what becomes of a request after a start with this configuration. Host names are resolved;
    /// no backend is asked anything, and each counts as it would after a health check that succeeds.
    ///
    /// # Errors
    /// When the description is none, or no listener takes such a request.
    pub fn explain(
        &self,
        checked: Checked,
        description: &Description,
    ) -> Result<Explanation, ExplainError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let explanation = runtime.block_on(async {
            let interner = Arc::new(Interner::default());
            let (config, chains) = (&checked.config, checked.filters);
            let snapshot = Snapshot::compile(config, chains, &interner, None, Arc::default());
            let discovering: JoinSet<()> = snapshot.pools.iter().cloned().map(discover).collect();
            discovering.join_all().await;
            explain(&Arc::new(snapshot), description, State::Fresh).await
        });
        // A name that is still being resolved is not waited for.
        runtime.shutdown_background();
        Ok(explanation?)
    }
}

async fn discover(pool: Arc<crate::pool::Pool>) {
    pool.discover().await;
    pool.assume_healthy();
}

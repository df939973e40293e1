//! Reloading: the file is read and compiled beside the traffic, and put in force in one step.
//!
//! A reload changes everything or nothing. What cannot change while the process lives is refused
//! with the key that it is about; a hand-over to a new process can change that.

use super::{
    StartError, difference::fixed_keys, instance::Running, open_access_log, signals::Control,
    watch::FileWatch,
};
use crate::{
    admin::{NotReloaded, Problem},
    config::{self, Checked, ConfigErrors, Diagnostic},
    filter::{Mishap, Registry},
    observe::Reload,
    pool::Interner,
    runtime::{Live, Supervisor},
};
use std::{convert::Infallible, path::PathBuf, sync::Arc};

/// Reads the configuration again when it is told to.
pub(super) struct Reloader {
    /// What is in force.
    pub(super) checked: Checked,
    pub(super) filters: Registry,
    pub(super) live: Arc<Live>,
    pub(super) interner: Arc<Interner>,
    pub(super) supervisor: Supervisor,
    pub(super) control: Arc<Control>,
    /// What the admin API tells of the process.
    pub(super) running: Arc<Running>,
    /// Follows the files of what is in force.
    pub(super) files: FileWatch,
}

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it was started without a configuration file")]
    NoFile,
    #[error("it is not serving, or not any more")]
    NotServing,
    #[error("{0}")]
    Invalid(ConfigErrors),
    #[error(
        "{} cannot change while it runs; hand over to a new instance, started with -u, instead",
        .0.join(", ")
    )]
    Fixed(Vec<String>),
    #[error("{0}")]
    AccessLog(StartError),
    #[error("reading it failed: {0}")]
    Failed(String),
    #[error("{0}")]
    Filter(Mishap),
}

impl Refused {
    /// The same for those who asked.
    fn told(&self) -> NotReloaded {
        match self {
            Self::Invalid(errors) => NotReloaded::Invalid(problems(errors)),
            Self::AccessLog(error) => NotReloaded::Invalid(vec![unopened(error)]),
            Self::Fixed(keys) => NotReloaded::Fixed(keys.iter().map(|key| fixed(key)).collect()),
            other => NotReloaded::Unable(other.to_string()),
        }
    }
}

/// The errors of a text for the admin API.
pub(super) fn problems(errors: &ConfigErrors) -> Vec<Problem> {
    let problem = |diagnostic: &Diagnostic| Problem {
        file: diagnostic.file.clone(),
        line: diagnostic.position.map(|position| position.line),
        column: diagnostic.position.map(|position| position.column),
        path: diagnostic.path.clone(),
        message: diagnostic.message.clone(),
    };
    errors.diagnostics().iter().map(problem).collect()
}

fn fixed(key: &str) -> Problem {
    Problem {
        file: String::new(),
        line: None,
        column: None,
        path: key.to_owned(),
        message: "cannot change while the process runs".to_owned(),
    }
}

fn unopened(error: &StartError) -> Problem {
    Problem {
        file: String::new(),
        line: None,
        column: None,
        path: "access_log.path".to_owned(),
        message: error.to_string(),
    }
}

impl Reloader {
    /// Reloads whenever the control asks for it or a file has changed, one at a time.
    pub(super) async fn run(mut self) -> Infallible {
        loop {
            let askers = tokio::select! {
                askers = self.control.reload_wanted() => askers,
                () = self.files.changed(&self.checked, &self.filters) => {
                    log::info!("files of the configuration have changed");
                    Vec::new()
                }
            };
            self.control.notifier().reloading();
            let outcome = self.reload().await;
            self.control.notifier().reloaded();
            let result = if outcome.is_ok() { Reload::Success } else { Reload::Failure };
            self.live.load().metrics.count_reload(result);
            if let Err(refused) = &outcome {
                self.files.refused(matches!(refused, Refused::Invalid(_)));
            }
            for asker in askers {
                // Whoever asked may be gone.
                let _ = asker.send(outcome.as_ref().map(Clone::clone).map_err(Refused::told));
            }
            match outcome {
                Ok(changes) if changes.is_empty() => log::info!("reloaded: nothing has changed"),
                Ok(changes) => {
                    log::info!("reloaded with {} changes", changes.len());
                    for change in changes {
                        log::info!("reloaded: {change}");
                    }
                }
                Err(refused) => {
                    for line in refused.to_string().lines() {
                        log::error!("not reloaded: {line}");
                    }
                }
            }
        }
    }

    async fn reload(&mut self) -> Result<Vec<String>, Refused> {
        let source = self.checked.source.clone().ok_or(Refused::NoFile)?;
        if !self.control.is_serving() {
            return Err(Refused::NotServing);
        }
        let mut checked = self.read(source).await?;
        let fixed = fixed_keys(&self.checked, &checked);
        if !fixed.is_empty() {
            return Err(Refused::Fixed(fixed));
        }
        let config = &checked.config;
        let before = self.live.load();
        let kept = self.checked.config.access_log == config.access_log;
        let access_log = match before.access_log.clone().filter(|_| kept) {
            Some(log) => Some(log),
            None => open_access_log(config).map_err(Refused::AccessLog)?,
        };
        let chains = std::mem::take(&mut checked.filters);
        let succeeding = before.succeed(config, chains, &self.interner, access_log.clone());
        let snapshot = succeeding.map_err(Refused::Filter)?;
        // Backends that are new are not usable before they were checked.
        self.supervisor.watch(&snapshot);
        self.supervisor.wait_until_checked().await;
        for pool in &snapshot.pools {
            pool.put_in_force();
        }
        self.supervisor.retain(&snapshot);
        self.live.store(snapshot);
        self.control.set_access_log(access_log);
        drop(before);
        self.interner.forget_unused();
        self.live.load().metrics.forget_unused();
        for warning in &checked.warnings {
            log::warn!("{warning}");
        }
        let changes = checked.outline.changes_from(&self.checked.outline);
        self.running.put_in_force(&checked, &self.filters);
        self.checked = checked;
        Ok(changes)
    }

    /// Reads the file off the threads that serve.
    async fn read(&self, source: PathBuf) -> Result<Checked, Refused> {
        let filters = self.filters.clone();
        let reading = tokio::task::spawn_blocking(move || config::load(&source, &filters));
        let read = reading.await.map_err(|error| Refused::Failed(error.to_string()))?;
        read.map_err(Refused::Invalid)
    }
}

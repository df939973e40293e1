//! Reloading: the file is read and compiled beside the traffic, and put in force in one step.
//!
//! A reload changes everything or nothing. What cannot change while the process lives is refused
//! with the key that it is about; a hand-over to a new process can change that.

use super::{
    StartError,
    difference::fixed_keys,
    instance::{self, Running},
    open_access_log,
    signals::Control,
    watch::FileWatch,
};
use crate::{
    admin::{InForce, NotReloaded, Problem},
    aside::aside,
    config::{self, Checked, ConfigErrors, Diagnostic},
    filter::{Mishap, Registry},
    observe::{AccessLog, Reload},
    pool::Interner,
    runtime::{Live, Retired, Snapshot, Supervisor},
};
use std::{convert::Infallible, path::PathBuf, sync::Arc, time::Duration};

/// How often it is looked whether the last who uses an earlier configuration is gone.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads the configuration again when it is told to.
pub(super) struct Reloader {
    /// What is in force.
    pub(super) checked: Arc<Checked>,
    pub(super) filters: Registry,
    pub(super) live: Arc<Live>,
    pub(super) interner: Arc<Interner>,
    pub(super) supervisor: Supervisor,
    pub(super) control: Arc<Control>,
    /// What the admin API tells of the process.
    pub(super) running: Arc<Running>,
    /// Follows the files of what is in force.
    pub(super) files: FileWatch,
    /// What was in force, as long as somebody uses it.
    pub(super) retired: Arc<Retired>,
}

/// What the next configuration is made from.
struct Sources {
    file: PathBuf,
    filters: Registry,
    /// What is in force.
    checked: Arc<Checked>,
    before: Arc<Snapshot>,
    interner: Arc<Interner>,
}

/// A configuration that has only to be put in force.
struct Successor {
    checked: Arc<Checked>,
    snapshot: Arc<Snapshot>,
    access_log: Option<Arc<AccessLog>>,
    /// What is told of it.
    told: InForce,
    changes: Vec<String>,
}

/// What there is to do when a configuration is in force, and nobody waits for.
struct Aftermath {
    checked: Arc<Checked>,
    /// Dropped with it.
    _before: (Arc<Checked>, Arc<InForce>),
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

impl Sources {
    /// Everything that takes longer the larger the configurations are.
    fn make(self) -> Result<Successor, Refused> {
        let mut checked = config::load(&self.file, &self.filters).map_err(Refused::Invalid)?;
        let fixed = fixed_keys(&self.checked, &checked);
        if !fixed.is_empty() {
            return Err(Refused::Fixed(fixed));
        }
        let access_log = self.access_log(&checked)?;
        let changes = checked.outline.changes_from(&self.checked.outline);
        let chains = std::mem::take(&mut checked.filters);
        let checked = Arc::new(checked);
        let told = instance::in_force(&checked, &self.filters);
        let log = access_log.clone();
        let succeeding = self.before.succeed(&checked.config, chains, &self.interner, log);
        let snapshot = Arc::new(succeeding.map_err(Refused::Filter)?);
        Ok(Successor { checked, snapshot, access_log, told, changes })
    }

    /// The access log that there is, or another if it is to be another.
    fn access_log(&self, checked: &Checked) -> Result<Option<Arc<AccessLog>>, Refused> {
        let kept = self.checked.config.access_log == checked.config.access_log;
        match self.before.access_log.clone().filter(|_| kept) {
            Some(log) => Ok(Some(log)),
            None => open_access_log(&checked.config).map_err(Refused::AccessLog),
        }
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
    pub(super) async fn run(self) -> Infallible {
        let freeing = free(self.retired.clone(), self.interner.clone());
        let (never, _) = tokio::join!(self.reload_when_wanted(), freeing);
        never
    }

    async fn reload_when_wanted(mut self) -> Infallible {
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
            let told = outcome.as_ref().map(|(changes, _)| changes.clone());
            let told = told.map_err(Refused::told);
            for asker in askers {
                // Whoever asked may be gone.
                let _ = asker.send(told.clone());
            }
            self.end(outcome).await;
        }
    }

    async fn reload(&mut self) -> Result<(Vec<String>, Aftermath), Refused> {
        let file = self.checked.source.clone().ok_or(Refused::NoFile)?;
        if !self.control.is_serving() {
            return Err(Refused::NotServing);
        }
        let sources = Sources {
            file,
            filters: self.filters.clone(),
            checked: self.checked.clone(),
            before: self.live.load(),
            interner: self.interner.clone(),
        };
        let made = aside(move || sources.make()).await.map_err(Refused::Failed)?;
        let Successor { checked, snapshot, access_log, told, changes } = made?;
        // Backends that are new are not usable before they were checked.
        self.supervisor.watch(&snapshot);
        self.supervisor.wait_until_checked().await;
        for pool in &snapshot.pools {
            pool.put_in_force().await;
        }
        // Their files may have changed again since this began, and what is in force may know already.
        let certificates = snapshot.watch();
        if !certificates.is_empty() {
            // If that is not possible, it is at the next look.
            let _ = tokio::task::spawn_blocking(move || certificates.catch_up()).await;
        }
        self.supervisor.retain(&snapshot);
        self.retired.add(self.live.load(), &snapshot);
        self.live.store(snapshot);
        self.control.set_access_log(access_log);
        let told = self.running.put_in_force(told);
        let before = std::mem::replace(&mut self.checked, checked.clone());
        Ok((changes, Aftermath { checked, _before: (before, told) }))
    }

    /// Says what came of a reload, and frees what was in force before.
    async fn end(&self, outcome: Result<(Vec<String>, Aftermath), Refused>) {
        let (retired, interner) = (self.retired.clone(), self.interner.clone());
        let metrics = self.live.load().metrics.clone();
        let ended = aside(move || {
            match outcome {
                Ok((changes, aftermath)) => say(&changes, &aftermath.checked),
                Err(refused) => {
                    for line in refused.to_string().lines() {
                        log::error!("not reloaded: {line}");
                    }
                }
            }
            sweep(&retired, &interner);
            metrics.forget_unused();
        });
        if let Err(error) = ended.await {
            log::error!("after a reload: {error}");
        }
    }
}

/// Says what a reload has changed.
fn say(changes: &[String], checked: &Checked) {
    for warning in &checked.warnings {
        log::warn!("{warning}");
    }
    if changes.is_empty() {
        return log::info!("reloaded: nothing has changed");
    }
    log::info!("reloaded with {} changes", changes.len());
    for change in changes {
        log::info!("reloaded: {change}");
    }
}

/// Frees earlier configurations when the last who used them is gone.
async fn free(retired: Arc<Retired>, interner: Arc<Interner>) -> Infallible {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if retired.has_free() {
            let (retired, interner) = (retired.clone(), interner.clone());
            // If there is no thread for it now, there is at another look.
            let _ = aside(move || sweep(&retired, &interner)).await;
        }
    }
}

fn sweep(retired: &Retired, interner: &Interner) {
    retired.sweep();
    interner.forget_unused();
}

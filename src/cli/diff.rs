//! `diff`: what a reload would change. The comments on the arguments are their help texts.
#![allow(clippy::doc_markdown, reason = "help texts are not Markdown")]

use super::{App, client::AdminArguments, print};
use crate::Difference;
use clap::{Args, error::ErrorKind};
use http::Method;
use std::{path::PathBuf, process::ExitCode};

/// The exit code of a difference that somebody asked to be told by it: neither a failure nor wrong
/// usage.
const DIFFERENT: u8 = 3;

/// What `diff` is told.
#[derive(Debug, Args)]
#[command(
    override_usage = "pingora-lb diff [OPTIONS] -c FILE\n       pingora-lb diff [OPTIONS] [-c] OLD NEW"
)]
pub(super) struct DiffArguments {
    /// The file that would be read: alone, it is compared with the running instance, and with a second
    /// file it is the old one
    #[arg(short, long, value_name = "FILE")]
    conf: Option<PathBuf>,

    /// Two files, the old one first
    #[arg(num_args = 0..=2, value_names = ["OLD", "NEW"])]
    files: Vec<PathBuf>,

    /// End with 3 if there are changes
    #[arg(long)]
    exit_code: bool,

    #[command(flatten)]
    admin: AdminArguments,
}

impl DiffArguments {
    pub(super) fn run(&self, app: &App) -> Result<ExitCode, String> {
        let difference = match (&self.conf, self.files.as_slice()) {
            (Some(file), []) => {
                let after = app.load(file)?;
                let client = self.admin.client();
                let before = client.ask(Method::GET, "/api/v1/config/file", None)?;
                app.difference_from_running(&before, &after)
            }
            (Some(old), [new]) | (None, [old, new]) => {
                app.difference(&app.load(old)?, &app.load(new)?)
            }
            _ => {
                let what = "one of -c FILE, -c OLD NEW and OLD NEW is required";
                super::usage_error("diff", ErrorKind::MissingRequiredArgument, what)
            }
        };
        print(&text(&difference))?;
        let changed = self.exit_code && difference != Difference::default();
        Ok(if changed { ExitCode::from(DIFFERENT) } else { ExitCode::SUCCESS })
    }
}

fn text(difference: &Difference) -> String {
    let Difference { changes, fixed } = difference;
    if changes.is_empty() && fixed.is_empty() {
        return "nothing changes\n".to_owned();
    }
    let mut text: String = changes.iter().flat_map(|change| [change, "\n"]).collect();
    if !fixed.is_empty() {
        text.extend(["needs a hand-over, a reload is refused: ", &fixed.join(", "), "\n"]);
    }
    text
}

//! The command line: arguments, and one file per subcommand.

mod arguments;
pub mod backend;
mod client;
mod demo;
mod diff;
mod explain;
mod operate;
mod top;

use crate::{App, Mode, config, config::Checked, model::BackendState};
use arguments::{Arguments, Command};
use clap::{CommandFactory, Parser, error::ErrorKind};
use operate::BackendChoice;
use std::{
    fmt::Display,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

/// Ends the process, as wrong usage does, with what is wrong and the usage of this subcommand.
fn usage_error(subcommand: &str, kind: ErrorKind, what: impl Display) -> ! {
    let mut command = Arguments::command();
    let own = command.find_subcommand_mut(subcommand).map(std::mem::take);
    own.unwrap_or(command).error(kind, what).exit()
}

impl App {
    /// Reads the process's arguments and does what they say: serves a configuration, checks one, or
    /// runs a subcommand. Returns the process's exit code: 0 for success, 1 for failure. Wrong usage
    /// ends the process with 2 and says what is wrong.
    pub fn run(self) -> ExitCode {
        let arguments = Arguments::parse();
        let done = match &arguments.command {
            Some(Command::Backend(backend)) => backend.run(),
            Some(Command::Demo(demo)) => demo.run(&self),
            Some(Command::Diff(diff)) => {
                return diff.run(&self).unwrap_or_else(|problem| fail(&problem));
            }
            Some(Command::Explain(explain)) => explain.run(&self),
            Some(Command::Schema) => self.print_schema(),
            Some(Command::Drain(choice)) => change(choice, BackendState::Draining),
            Some(Command::Enable(choice)) => change(choice, BackendState::Active),
            Some(Command::Disable(choice)) => change(choice, BackendState::Disabled),
            Some(Command::Top(top)) => top.run(),
            None => self.run_server(&arguments),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => fail(&problem),
        }
    }

    fn run_server(&self, arguments: &Arguments) -> Result<(), String> {
        let checked = match &arguments.conf {
            Some(path) if arguments.test || arguments.test_print => {
                return self.test(path, arguments.test_print);
            }
            Some(path) => self.load(path)?,
            None => from_flags(arguments)?,
        };
        let mode = Mode { daemon: arguments.daemon, upgrade: arguments.upgrade };
        self.serve(checked, mode).map_err(|error| format!("pingora-lb: {error}"))
    }

    fn load(&self, path: &Path) -> Result<Checked, String> {
        config::load(path, self.filters()).map_err(|errors| errors.to_string())
    }

    /// `schema`: prints the JSON Schema of the configuration file, with the filters that this program
    /// has.
    fn print_schema(&self) -> Result<(), String> {
        let schema = config::schema(self.filters());
        print(&format!("{schema:#}\n"))
    }

    /// `-t` and `-T`: reads and compiles the file, says what is wrong with it, and may show what is in
    /// force with it.
    fn test(&self, path: &Path, show: bool) -> Result<(), String> {
        let checked = self.load(path)?;
        for warning in &checked.warnings {
            eprintln!("warning: {warning}");
        }
        let effective = show.then(|| checked.effective(self.filters()));
        self.check(checked);
        let valid = format!("{}: the configuration is valid\n", path.display());
        match effective {
            None => print(&valid),
            Some(yaml) => print(&format!("# {valid}{yaml}")),
        }
    }
}

/// `drain`, `enable` and `disable`.
fn change(choice: &BackendChoice, state: BackendState) -> Result<(), String> {
    print(&choice.set(state)?)
}

fn fail(problem: &str) -> ExitCode {
    eprintln!("{problem}");
    ExitCode::FAILURE
}

/// Writes to standard output.
fn print(text: &str) -> Result<(), String> {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads only the beginning may close the pipe.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// The file-less form: a balancer from flags alone.
fn from_flags(arguments: &Arguments) -> Result<Checked, String> {
    let Some(quick) = arguments.quick() else {
        let what = "one of --conf FILE or --backends ADDRESS,... is required";
        Arguments::command().error(ErrorKind::MissingRequiredArgument, what).exit()
    };
    let config = config::quick(&quick)?;
    Ok(config.into())
}

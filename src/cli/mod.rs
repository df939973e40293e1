//! The command line: arguments, and one file per subcommand.

mod arguments;
pub mod backend;
mod demo;

use crate::{App, Mode, config, config::Checked};
use arguments::{Arguments, Command};
use clap::{CommandFactory, Parser, error::ErrorKind};
use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

impl App {
    /// Reads the process's arguments and does what they say: serves a configuration, checks one, or
    /// runs a subcommand. Returns the process's exit code: 0 for success, 1 for failure. Wrong usage
    /// ends the process with 2 and says what is wrong.
    pub fn run(self) -> ExitCode {
        let arguments = Arguments::parse();
        let done = match &arguments.command {
            Some(Command::Backend(backend)) => backend.run(),
            Some(Command::Demo(demo)) => demo.run(&self),
            Some(Command::Schema) => self.print_schema(),
            None => self.run_server(&arguments),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                eprintln!("{problem}");
                ExitCode::FAILURE
            }
        }
    }

    fn run_server(&self, arguments: &Arguments) -> Result<(), String> {
        let checked = match &arguments.conf {
            Some(path) if arguments.test => return self.test(path),
            Some(path) => {
                config::load(path, self.filters()).map_err(|errors| errors.to_string())?
            }
            None => from_flags(arguments)?,
        };
        let mode = Mode { daemon: arguments.daemon, upgrade: arguments.upgrade };
        self.serve(checked, mode).map_err(|error| format!("pingora-lb: {error}"))
    }

    /// `schema`: prints the JSON Schema of the configuration file, with the filters that this program
    /// has.
    fn print_schema(&self) -> Result<(), String> {
        let schema = config::schema(self.filters());
        // Whoever reads only the beginning may close the pipe.
        match writeln!(io::stdout(), "{schema:#}") {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    /// `-t`: reads and compiles the file, and says what is wrong with it.
    fn test(&self, path: &Path) -> Result<(), String> {
        let checked = config::load(path, self.filters()).map_err(|errors| errors.to_string())?;
        let warnings = checked.warnings.clone();
        self.check(checked);
        for warning in &warnings {
            eprintln!("warning: {warning}");
        }
        println!("{}: the configuration is valid", path.display());
        Ok(())
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

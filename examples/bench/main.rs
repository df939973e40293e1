//! pingora-lb beside nginx and `HAProxy`: the same work, the same features, this machine.
//!
//! `make bench` runs it; docs/performance.md says how to read what it prints. Each proxy has one
//! processor for itself, the load and the origin another. The main figure is the CPU time that the
//! process took for a request, which depends less on what else the machine does than requests
//! a second. Each proxy has its turn in each round, in another order each time, and the tables show
//! the medians. A proxy whose answers are not all good fails the run.
//!
//! `bench train` and `bench guard` are for `make release-pgo` and `make bench-guard`.

#[path = "../measuring/mod.rs"]
mod measuring;

mod guard;
mod load;
mod machine;
mod origins;
mod plot;
mod proxies;
mod report;
mod rows;
mod turns;

use clap::{Parser, Subcommand};
use machine::Machine;
use measuring::processes::{allow_many_files, balancer};
use proxies::{Contender, Kind};
use rows::Row;
use std::{error, fs, path::PathBuf, process::ExitCode};
use turns::Turn;

type Error = Box<dyn error::Error + Send + Sync>;
type Outcome<T> = Result<T, Error>;

/// Where the results go.
const RESULTS: &str = "target/bench";

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    mode: Option<Mode>,
    /// The rows to run, with commas between them; all by default
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// How long each proxy has the load in a round
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// How often each proxy has its turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Another build of pingora-lb that takes part
    #[arg(long, value_name = "PROGRAM")]
    also: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Gives one build all kinds of work, so that its profile covers them
    Train { program: PathBuf },
    /// Counts the instructions that a request takes, beside the committed count
    Guard {
        /// Writes the count down as the one to hold to
        #[arg(long)]
        renew: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = allow_many_files().map_err(Error::from).and_then(|()| match &arguments.mode {
        None => compare(&arguments),
        Some(Mode::Train { program }) => train(program),
        Some(Mode::Guard { renew }) => guard::run(*renew),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: &Arguments) -> Outcome<()> {
    let rows = rows::named(&arguments.rows)?;
    let mut contenders = vec![Contender::ours(balancer())];
    contenders.extend(arguments.also.clone().map(Contender::ours));
    contenders.extend([Contender::peer(Kind::Nginx), Contender::peer(Kind::Haproxy)]);
    let machine = Machine::prepare(&contenders[0])?;
    let turns = turns::run(&machine, &rows, &contenders, arguments.seconds, arguments.rounds)?;
    let names: Vec<String> = contenders.iter().map(|one| one.name.clone()).collect();
    save(&rows, &names, &turns)
}

fn save(rows: &[&Row], names: &[String], turns: &[Turn]) -> Outcome<()> {
    let table = report::table(rows, names, turns);
    fs::create_dir_all(RESULTS)?;
    fs::write(format!("{RESULTS}/table.md"), &table)?;
    fs::write(format!("{RESULTS}/turns.json"), serde_json::to_string_pretty(turns)?)?;
    fs::write(format!("{RESULTS}/turns.csv"), report::csv(turns))?;
    plot::ratios(&format!("{RESULTS}/ratios.svg"), rows, names, turns)?;
    println!(
        "{table}\nEvery turn is in {RESULTS}/turns.csv and turns.json, the plot in ratios.svg."
    );
    Ok(())
}

fn train(program: &std::path::Path) -> Outcome<()> {
    let contenders = [Contender::ours(program.to_path_buf())];
    let machine = Machine::prepare(&contenders[0])?;
    turns::run(&machine, &rows::training(), &contenders, 3, 1)?;
    Ok(())
}

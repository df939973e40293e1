//! Whole texts through [`parse`](super::parse).

mod errors;
mod files;
mod fuzz;
mod tls;
mod values;
mod warnings;

use super::{Checked, ConfigErrors, Fault};
use crate::{filter::Registry, model::Config};
use std::path::Path;

/// Listeners and pools for a test that is about something else, on lines 1 and 2.
const LISTENERS: &str = "listeners: { web: { address: 0.0.0.0:8080 } }\n";
const POOLS: &str = "pools: { app: { backends: [127.0.0.1:9001] } }\n";

fn env(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("9001".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Checked, ConfigErrors> {
    parse_in(Path::new("/etc/lb"), text)
}

/// Parses a file in the folder of the examples that are shipped, which has the files that they name.
fn parse_shipped(text: &str) -> Result<Checked, ConfigErrors> {
    parse_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("conf"), text)
}

fn parse_in(base: &Path, text: &str) -> Result<Checked, ConfigErrors> {
    super::parse(text, "lb.yaml", base, &env, &Registry::default())
}

fn config(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{text}\n{errors}")).config
}

/// The errors of `text`, one a line, without the file's name.
fn errors(text: &str) -> String {
    let errors = match parse(text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(errors) => errors.to_string(),
    };
    let lines = errors.lines().map(|line| line.strip_prefix("lb.yaml:").unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

fn warnings(text: &str) -> Vec<String> {
    let checked = parse(text).unwrap_or_else(|errors| panic!("{text}\n{errors}"));
    let lines = checked.warnings.iter().map(ToString::to_string);
    lines.map(|line| line.trim_start_matches("lb.yaml:").to_owned()).collect()
}

/// `Fault` is what flags report too, so it must work as any error does.
#[test]
fn faults_are_errors_that_threads_can_pass() {
    fn assert_error<E: std::error::Error + Send + Sync + Clone + 'static>() {}
    assert_error::<Fault>();
    assert_error::<ConfigErrors>();
}

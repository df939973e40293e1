//! A panic in the part of the process that everything else hangs on.

use crate::support::{Config, Origin, Program, SOON};
use pingora_lb::{
    App, Mode, config,
    filter::{Filter, SettingsError, Setup},
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use std::{borrow::Cow, path::Path, process::Command};

/// Where the process of its own finds its configuration.
const FILE: &str = "PINGORA_LB_PANICS_WITH";

/// Settings whose schema cannot be made. The service asks for it when it tells what is in force.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cracked {}

impl JsonSchema for Cracked {
    fn schema_name() -> Cow<'static, str> {
        "cracked".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        panic!("on purpose")
    }
}

struct Brittle;

impl Filter for Brittle {
    const NAME: &'static str = "brittle";
    type Settings = Cracked;

    fn new(_: Cracked, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Ok(Self)
    }
}

#[test]
#[ignore = "the test below runs it in a process of its own, which it ends"]
fn a_balancer_with_a_filter_that_panics() {
    let Ok(file) = std::env::var(FILE) else { return };
    let app = App::new().filter::<Brittle>();
    let checked = config::load(Path::new(&file), app.filters()).expect("it is valid");
    let ended = app.serve(checked, Mode::default());
    eprintln!("serving ended: {ended:?}");
}

#[test]
fn a_panic_of_the_service_ends_the_process_with_an_error() {
    let origin = Origin::named("a");
    let files = Config::pool(&[origin.entry()], "health_check: off").write();
    let mut command = Command::new(std::env::current_exe().unwrap());
    let test = "service_panic::a_balancer_with_a_filter_that_panics";
    command.args([test, "--exact", "--ignored", "--nocapture"]).env(FILE, files.path());
    let mut program = Program::spawn(&mut command);
    let ended = program.wait_for_exit(SOON);
    let told = program.stderr.text();
    assert!(ended.is_some(), "it lives on, and serves nobody:\n{told}");
    assert!(told.contains("ERROR the service ended: "), "{told}");
    assert!(told.contains("serving ended: Err(Failed(\"the service ended: "), "{told}");
}

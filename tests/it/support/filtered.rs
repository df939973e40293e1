//! A route with filters.

use super::{Config, Origin, Program};
use std::ffi::OsStr;

/// A pool `app` of these origins with further keys one a line, behind a route `main` with these filters.
pub fn filtered(origins: &[&Origin], keys: &str, filters: &[&str]) -> Config {
    let entries: Vec<String> = origins.iter().map(|origin| origin.entry()).collect();
    let filters = filters.join("\n      - ");
    let route = format!("routes:\n  - name: main\n    pool: app\n    filters:\n      - {filters}");
    Config::pool(&entries, keys).and(&route)
}

/// What `-t` says of a route with this filter, one error a line and without the file's name. The
/// filter's name is on line 4, at column 11.
#[track_caller]
pub fn filter_error(filter: &str) -> String {
    filter_error_beside(filter, &[])
}

/// The same with files beside the configuration.
#[track_caller]
pub fn filter_error_beside(filter: &str, beside: &[(&str, Vec<u8>)]) -> String {
    let text = format!(
        "routes:\n  - pool: app\n    filters:\n      - {{ {filter} }}\n\
         pools:\n  app: {{ backends: [127.0.0.1:1] }}\n"
    );
    let config = beside
        .iter()
        .fold(Config::new(text), |config, (name, content)| config.file(name, content.clone()));
    let files = config.write();
    let args = [OsStr::new("-t"), OsStr::new("-c"), files.path().as_os_str()];
    let (code, _, stderr) = Program::run(args);
    assert_eq!(code, 1, "{filter} is accepted\n{stderr}");
    let folder = format!("{}/", files.directory().display());
    let lines = stderr.lines().filter_map(|line| line.split_once("lb.yaml:"));
    lines.map(|(_, said)| said.replace(&folder, "")).collect::<Vec<_>>().join("\n")
}

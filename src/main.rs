//! The `pingora-lb` binary: the library's [`App`] with nothing added.

use pingora_lb::App;
use std::process::ExitCode;

/// Chosen by measurement: see docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    App::new().run()
}

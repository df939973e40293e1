//! The `pingora-lb` binary: the library's [`App`] with nothing added.

mod allocator;

use allocator::Allocator;
use pingora_lb::App;
use std::process::ExitCode;

/// Chosen by measurement: see docs/performance.md.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    App::new().run()
}

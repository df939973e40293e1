//! What must hold of the code that reads what strangers send, whatever it is given.
//!
//! Each [`Target`] takes any bytes, reads them, and panics where a promise is broken. A fuzzing engine
//! looks for such bytes (`make fuzz`); the tests try those that it found worth keeping and changes of
//! them. The checks that need what is private to a module stand there, in a function `fuzz`.
//!
//! This is compiled for tests and with `--cfg fuzzing`, and is no part of a program.

mod filters;
#[cfg(test)]
mod tests;

/// One thing to try.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What it is called on the command line, and where its corpus lies.
    pub name: &'static str,
    /// Reads `bytes`, and panics if what must hold does not.
    pub run: fn(&[u8]),
}

/// All there are.
pub const TARGETS: [Target; 8] = [
    Target { name: "config", run: crate::config::fuzz },
    Target { name: "route", run: crate::route::fuzz },
    Target { name: "head", run: crate::listener::fuzz_head },
    Target { name: "chunks", run: crate::listener::fuzz_chunks },
    Target { name: "proxy_header", run: crate::listener::fuzz_proxy_header },
    Target { name: "hello", run: crate::tcp::fuzz_hello },
    Target { name: "cookie", run: crate::proxy::fuzz_cookie },
    Target { name: "filters", run: filters::fuzz },
];

/// Tries `bytes` on the target of this name.
///
/// # Panics
/// If there is no such target, or what must hold does not.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("the target is one of the list").run)(bytes);
}

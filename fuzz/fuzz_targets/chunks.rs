//! See `pingora_lb::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pingora_lb::fuzzing::run("chunks", bytes));

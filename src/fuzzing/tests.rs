//! The short form of `make fuzz`: what was worth keeping, and changes of it.

use super::TARGETS;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

/// Changed inputs for a target; those of which one takes milliseconds get fewer.
fn changes(name: &str) -> usize {
    if matches!(name, "config" | "route") { 200 } else { 5_000 }
}

/// It is fixed: what fails once fails again.
const SEED: u64 = 20_261_120;

/// The inputs that are kept for a target.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// An input with some of its bytes replaced, cut out, doubled, or continued by another.
fn changed(input: &[u8], other: &[u8], rng: &mut SmallRng) -> Vec<u8> {
    const TELLING: &[u8] = b"\r\n\0\t :;,./?#%\"[]{}+-0129aAzZ\x7f\x80\xff";
    let mut bytes = input.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..8)).min(bytes.len());
        match rng.random_range(0..5) {
            0 if at < bytes.len() => bytes[at] = rng.random(),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.insert(at, TELLING[rng.random_range(0..TELLING.len())]),
            3 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            _ => {
                let from = rng.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes
}

#[test]
fn what_must_hold_holds_for_the_corpora_and_changes_of_them() {
    for target in TARGETS {
        let corpus = corpus(target.name);
        assert!(!corpus.is_empty(), "{} has no corpus", target.name);
        let mut rng = SmallRng::seed_from_u64(SEED);
        let mutants = (0..changes(target.name)).map(|_| {
            let [input, other] = [0; 2].map(|_| &corpus[rng.random_range(0..corpus.len())]);
            changed(input, other, &mut rng)
        });
        for input in corpus.iter().cloned().chain(mutants.collect::<Vec<_>>()) {
            let tried = catch_unwind(AssertUnwindSafe(|| (target.run)(&input)));
            assert!(tried.is_ok(), "{}: {:?}", target.name, input.escape_ascii().to_string());
        }
    }
}

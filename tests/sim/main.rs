//! What the core of a pool promises, checked in the simulator over many seeds.
//!
//! A test that fails says which seed it was: `SIM_SEED=n cargo test --test sim <test>` repeats it.

#[path = "../../sim/mod.rs"]
#[expect(dead_code, unreachable_pub, reason = "shared with the example that makes tables")]
mod sim;

mod drawn;
mod features;
mod invariants;
mod policies;
mod seeds;

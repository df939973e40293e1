//! What the core of a pool promises, checked in the simulator over many seeds.
//!
//! `SIM_SEED=n cargo test --test sim` repeats one of them.

#[path = "../../sim/mod.rs"]
#[expect(dead_code, unreachable_pub, reason = "shared with the example that makes tables")]
mod sim;

mod drawn;
mod features;
mod invariants;
mod policies;
mod seeds;

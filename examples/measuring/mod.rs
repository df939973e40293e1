//! What the programs that measure share.

#![allow(dead_code, unreachable_pub, reason = "each program uses a part of it")]

pub mod load;
pub mod noop_filters;
pub mod processes;

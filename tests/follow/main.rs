//! A read-only mount beside a writer (E5): what it shows, when, and what its open files keep.
//!
//! `machines` runs drives without a kernel over a simulated clock and disk and a store in memory, where an hour is
//! nothing and any object can be taken away; `mounts` runs the binary on real mounts.

#[path = "../common/mod.rs"]
mod common;
mod machines;
mod mounts;

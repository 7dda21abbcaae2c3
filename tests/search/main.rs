//! The room `.search` on real mounts, with the tools that people have: each sentence of what is promised of it.
//!
//! `fixture` makes trees; the other files are named by what they look at.

mod cold;
#[path = "../common/mod.rs"]
mod common;
mod fixture;
mod lines;
mod live;
mod names;
mod people;
mod tools;

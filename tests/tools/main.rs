//! Real tools on a real mount. Each test runs the same commands on the drive and on a plain local directory and
//! compares what came of it: names, types, modes, owners, times, contents, links, extended attributes, and what the
//! commands printed.
//!
//! All tests share one mount, each in a directory of its own.

#[path = "../common/mod.rs"]
mod common;
mod pair;
mod source;
mod tree;

mod archive;
mod attributes;
mod copy;
mod databases;
mod directories;
mod editors;
mod git;
mod inspect;
mod names;
mod open_files;
mod privileges;
mod python;
mod ranges;
mod remount;
mod semantics;
mod special;

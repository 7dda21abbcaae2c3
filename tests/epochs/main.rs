//! Who may write, and what becomes of what one wrote who may not any more: drives without a kernel, over a real directory
//! that goes away and comes back, and over a store whose requests arrive late.
//!
//! Tests are named after the rules of the history: E1 to E4, C4, C6. Real mounts of the same are in tests/bad_input.

#[path = "../common/in_process.rs"]
mod in_process;
mod late;
mod offline;
mod place;
mod takeover;

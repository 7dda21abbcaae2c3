//! Checkpoints over a store in memory, against a model: a plain map of records.

mod damage;
mod levels;
mod property;
mod removal;
mod vault;

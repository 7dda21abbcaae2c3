//! What pipelines are made of: stages with demand, one budget of memory in flight, the processor threads.
//!
//! | file | what it holds |
//! |---|---|
//! | `stage` | a stage: asks its producers for work, queues it, runs it, tries it again, counts it |
//! | `memory` | the budget of bytes in flight, a share for each use |
//! | `urgency` | who goes first |
//! | `settings` | how much each stage takes, with measured defaults |
//! | `metrics` | what a stage tells of itself |
//! | `cpu` | the threads on which bytes are sealed and opened |
//!
//! Does not own what is done in a stage: [`crate::upload`] and [`crate::download`] say that, and draw how theirs hang
//! together.
//!
//! Invariants
//! - Whatever waits between two stages is bounded by count and by bytes. Its permits ride inside the job and come
//!   back when that is dropped, however it ends.
//! - Nothing here draws lots, has threads or wakes in an order of its own: in a runtime of one thread the same calls
//!   bring the same order.

mod cpu;
mod memory;
mod metrics;
mod moved;
mod settings;
mod stage;
#[cfg(test)]
mod tests;
mod urgency;

pub use cpu::{Cpu, INLINE_BYTES};
pub use memory::{Memory, Permit, Use};
pub use metrics::StageStatus;
pub use moved::{Moved, Moves};
pub use settings::{Demand, Settings};
pub use stage::{Asked, Job, Lost, Stage, Told};
pub use urgency::{Class, Urgency};

//! How much each stage takes. The defaults were measured on two processors, over a directory and over a store that
//! takes 20 ms for each request.

use serde::{Deserialize, Serialize};

use super::Cpu;
use crate::base::sizes::MIB;

/// A stage's workers and its demand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Demand {
    /// Jobs that run at once; 0 in a stage that works the processors: one for each.
    pub workers: usize,
    /// It asks again when it has so few jobs or fewer, running and queued, ...
    pub min: usize,
    /// ... for as many as bring it to this.
    pub max: usize,
    /// Bytes of all jobs that it holds; one that alone has more is taken alone.
    pub bytes: usize,
    /// Workers kept for what someone waits for.
    pub kept: usize,
}

impl Demand {
    /// For a stage that works the processors.
    pub fn on(self, cpu: &Cpu) -> Demand {
        if self.workers > 0 { self } else { Demand { workers: cpu.count(), ..self } }
    }

    /// What can be done: at least one worker that takes anything, and a demand that keeps all of them busy.
    pub fn sound(self) -> Demand {
        let workers = self.workers.max(1);
        let max = self.max.max(workers);
        Demand { workers, max, min: self.min.min(max - 1), kept: self.kept.min(workers - 1), bytes: self.bytes.max(1) }
    }
}

/// All stages of a drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// upload/encryption: one job is one extent, 4 MiB at most.
    pub seal: Demand,
    /// upload/journal: one job is one file's capture. Waits for room in the journal, so there are more than need be.
    pub append: Demand,
    /// upload/remote_storage: one job is one segment, 8 MiB at most.
    pub put: Demand,
    /// download/remote_storage: one job is one ranged GET.
    pub get: Demand,
    /// download/encryption: one job is a run of one extent's frames.
    pub open: Demand,
    /// Bytes in flight in all of them.
    pub inflight_bytes: usize,
    /// The most that is read ahead for one reader; 0: nothing.
    pub readahead_bytes: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            seal: Demand { workers: 0, min: 2, max: 8, bytes: 32 * MIB, kept: 0 },
            append: Demand { workers: 8, min: 4, max: 16, bytes: 64 * MIB, kept: 2 },
            put: Demand { workers: 5, min: 3, max: 8, bytes: 64 * MIB, kept: 1 },
            get: Demand { workers: 24, min: 24, max: 48, bytes: 64 * MIB, kept: 8 },
            open: Demand { workers: 0, min: 2, max: 8, bytes: 32 * MIB, kept: 0 },
            inflight_bytes: 128 * MIB,
            readahead_bytes: 32 * MIB,
        }
    }
}

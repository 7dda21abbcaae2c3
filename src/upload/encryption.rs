//! Encryption: seals captured bytes on the processor threads, one capture at a time.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::{Capture, Part, Sealed, UploadError};
use crate::base::Random;
use crate::crypto::secret::SecretVec;
use crate::format::extent;
use crate::format::keys::Keys;
use crate::pipeline::Cpu;

pub struct Encryption {
    keys: Arc<Keys>,
    random: Random,
    compress: bool,
    cpu: Cpu,
    /// Captures being sealed: one worker.
    worker: Semaphore,
}

impl Encryption {
    pub fn new(keys: Arc<Keys>, random: Random, compress: bool, cpu: Cpu) -> Encryption {
        Encryption { keys, random, compress, cpu, worker: Semaphore::new(1) }
    }

    pub async fn seal(&self, capture: Capture) -> Result<Vec<Sealed>, UploadError> {
        let _worker = self.worker.acquire().await.map_err(|_| UploadError::Sealing)?;
        let (keys, random, compress) = (self.keys.clone(), self.random.clone(), self.compress);
        let bytes = capture.bytes();
        let work = move || capture.parts.iter().map(|part| seal_part(&keys, &random, compress, part)).collect();
        self.cpu.run(bytes, work).await.ok_or(UploadError::Sealing)
    }

    /// Seals on this thread: for what is small.
    pub fn seal_here(&self, capture: &Capture) -> Vec<Sealed> {
        capture.parts.iter().map(|part| seal_part(&self.keys, &self.random, self.compress, part)).collect()
    }
}

fn seal_part(keys: &Keys, random: &Random, compress: bool, part: &Part) -> Sealed {
    // Each extent has a key id of its own, so that what is given away later is one extent's key.
    let key_id = random.bytes();
    let (record, bytes) = match &part[..] {
        [run] => extent::seal(keys, random, key_id, run, compress),
        runs => {
            let mut joined = SecretVec::with_capacity(runs.iter().map(|run| run.len()).sum());
            runs.iter().for_each(|run| joined.extend_from_slice(run));
            extent::seal(keys, random, key_id, &joined, compress)
        }
    };
    Sealed { record, bytes }
}

//! Encryption: seals captured bytes on the processor threads, as many extents at once as there are workers. A big
//! capture is many jobs, so what someone waits for passes it after one extent at most.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Capture, Part, Sealed, UploadError};
use crate::base::Random;
use crate::crypto::kdf;
use crate::crypto::secret::SecretVec;
use crate::format::extent;
use crate::format::keys::Keys;
use crate::pipeline::{Asked, Cpu, Demand, Job, Stage, StageStatus, Urgency};

pub struct Encryption {
    sealer: Arc<Sealer>,
    cpu: Cpu,
    stage: Stage<Seal>,
}

struct Sealer {
    keys: Arc<Keys>,
    random: Random,
    compress: bool,
}

/// One extent.
pub struct Seal {
    sealer: Arc<Sealer>,
    cpu: Cpu,
    part: Part,
}

impl Job for Seal {
    type Done = Sealed;
    type Error = UploadError;

    fn run(self: Arc<Self>) -> BoxFuture<'static, Result<Sealed, UploadError>> {
        async move {
            let (cpu, bytes) = (self.cpu.clone(), bytes(&self.part));
            Ok(cpu.run_or_panic(bytes, move || self.sealer.seal(&self.part)).await)
        }
        .boxed()
    }
}

impl Encryption {
    pub fn new(keys: Arc<Keys>, random: Random, compress: bool, cpu: Cpu, demand: Demand) -> Encryption {
        let stage = Stage::new("upload/seal", demand.on(&cpu));
        Encryption { sealer: Arc::new(Sealer { keys, random, compress }), cpu, stage }
    }

    pub fn status(&self) -> StageStatus {
        self.stage.status()
    }

    /// Some capture's urgency was raised.
    pub fn look_again(&self) {
        self.stage.look_again();
    }

    /// Returns when this stage asks for a capture, whose first extent has about so many bytes.
    pub async fn offer(&self, urgency: &Urgency, bytes: usize) -> Asked<Seal> {
        self.stage.offer(urgency, bytes).await
    }

    /// Seals a capture for which this stage has asked.
    pub async fn seal(
        &self,
        capture: Capture,
        asked: Asked<Seal>,
        urgency: &Urgency,
    ) -> Result<Vec<Sealed>, UploadError> {
        let mut asked = Some(asked);
        let mut told = Vec::with_capacity(capture.parts.len());
        for part in capture.parts {
            let asked = match asked.take() {
                Some(asked) => asked,
                None => self.stage.offer(urgency, bytes(&part)).await,
            };
            told.push(asked.give(Seal { sealer: self.sealer.clone(), cpu: self.cpu.clone(), part }));
        }
        let mut sealed = Vec::with_capacity(told.len());
        for told in told {
            sealed.push(told.await?);
        }
        Ok(sealed)
    }

    /// Seals on this thread: for what is small.
    pub fn seal_here(&self, capture: &Capture) -> Vec<Sealed> {
        capture.parts.iter().map(|part| self.sealer.seal(part)).collect()
    }
}

fn bytes(part: &Part) -> usize {
    part.iter().map(|run| run.len()).sum()
}

impl Sealer {
    fn seal(&self, part: &Part) -> Sealed {
        // Each extent has a key id of its own, so that what is given away later is one extent's key.
        let key_id = self.random.bytes();
        let (record, bytes) = match &part[..] {
            [run] => extent::seal(&self.keys, &self.random, key_id, run, self.compress),
            runs => {
                let mut joined = SecretVec::with_capacity(bytes(part));
                runs.iter().for_each(|run| joined.extend_from_slice(run));
                extent::seal(&self.keys, &self.random, key_id, &joined, self.compress)
            }
        };
        let hash = kdf::hash(&bytes);
        Sealed { record, bytes, hash }
    }
}

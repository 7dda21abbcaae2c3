//! Journal: waits for room, then appends sealed extents with their change. There are more workers than one, for each
//! may wait for room; some are kept for what someone waits for.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::{Sealed, Source, UploadError};
use crate::base::Position;
use crate::journal::Journal;
use crate::pipeline::{Demand, Job, Stage, StageStatus, Urgency};

pub struct JournalStage {
    journal: Arc<Journal>,
    stage: Stage<Append>,
}

/// One file's capture.
pub struct Append {
    journal: Arc<Journal>,
    source: Arc<dyn Source>,
    bytes: u64,
    /// Taken by the try that appends: a change is never appended twice.
    sealed: Mutex<Option<Vec<Sealed>>>,
}

impl Job for Append {
    type Done = Position;
    type Error = UploadError;

    fn run(self: Arc<Self>) -> BoxFuture<'static, Result<Position, UploadError>> {
        async move {
            let _room = self.journal.reserve(self.bytes).await?;
            let sealed = self.sealed.lock().take().ok_or(UploadError::Sealing)?;
            self.source.append(sealed)
        }
        .boxed()
    }
}

impl JournalStage {
    pub fn new(journal: Arc<Journal>, demand: Demand) -> JournalStage {
        JournalStage { journal, stage: Stage::new("upload/append", demand) }
    }

    pub fn status(&self) -> StageStatus {
        self.stage.status()
    }

    /// Some capture's urgency was raised.
    pub fn look_again(&self) {
        self.stage.look_again();
    }

    /// Can this many bytes be appended without waiting?
    pub fn has_room(&self, bytes: usize) -> bool {
        self.journal.has_room(bytes as u64)
    }

    pub async fn append(
        &self,
        source: Arc<dyn Source>,
        sealed: Vec<Sealed>,
        urgency: &Urgency,
    ) -> Result<Position, UploadError> {
        let bytes: usize = sealed.iter().map(|s| s.bytes.len()).sum();
        let (journal, sealed) = (self.journal.clone(), Mutex::new(Some(sealed)));
        let job = Append { journal, source, bytes: bytes as u64, sealed };
        self.stage.process(urgency, bytes, job).await
    }
}

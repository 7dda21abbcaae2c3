//! Starter: takes a file's dirty bytes into the pipeline when somebody asks, or time or memory does.
//!
//! Small captures run where they are asked for, without a hop to another task; larger ones run as a task of their
//! own, so that nobody's going away stops them.

use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::oneshot;

use super::encryption::Encryption;
use super::journal::JournalStage;
use super::{Capture, Source, UploadError};
use crate::base::Position;
use crate::pipeline::INLINE_BYTES;

#[derive(Clone)]
pub struct Starter {
    encryption: Arc<Encryption>,
    journal: Arc<JournalStage>,
}

/// A capture on its way.
pub enum Started {
    /// Nothing was dirty.
    Nothing,
    /// It is in the journal (not yet durable).
    Done(Position),
    /// It will be.
    Running(oneshot::Receiver<Result<Position, UploadError>>),
}

impl Starter {
    pub fn new(encryption: Encryption, journal: JournalStage) -> Starter {
        Starter { encryption: Arc::new(encryption), journal: Arc::new(journal) }
    }

    /// Captures what `source` has and sends it down the pipeline.
    pub fn start(&self, source: Arc<dyn Source>) -> Result<Started, UploadError> {
        let Some(capture) = source.capture() else { return Ok(Started::Nothing) };
        if capture.bytes() <= INLINE_BYTES && self.journal.has_room(capture.bytes()) {
            let sealed = self.encryption.seal_here(&capture);
            let result = source.append(sealed);
            if let Err(error) = &result {
                source.give_back(error);
            }
            return result.map(Started::Done);
        }
        let (sender, receiver) = oneshot::channel();
        let this = self.clone();
        tokio::spawn(async move {
            // A panic must not leave frozen bytes behind that nobody can ever send.
            let run = std::panic::AssertUnwindSafe(this.run(&*source, capture)).catch_unwind();
            let result = run.await.unwrap_or(Err(UploadError::Sealing));
            if let Err(error) = &result {
                source.give_back(error);
            }
            // Whoever asked may have gone: the bytes are in the journal all the same.
            drop(sender.send(result));
        });
        Ok(Started::Running(receiver))
    }

    async fn run(&self, source: &dyn Source, capture: Capture) -> Result<Position, UploadError> {
        let sealed = self.encryption.seal(capture).await?;
        self.journal.append(source, sealed).await
    }
}

//! Journal: waits for room, then appends sealed extents with their change.

use std::sync::Arc;

use super::{Sealed, Source, UploadError};
use crate::base::Position;
use crate::journal::Journal;

pub struct JournalStage {
    journal: Arc<Journal>,
}

impl JournalStage {
    pub fn new(journal: Arc<Journal>) -> JournalStage {
        JournalStage { journal }
    }

    /// Can this many bytes be appended without waiting?
    pub fn has_room(&self, bytes: usize) -> bool {
        self.journal.has_room(bytes as u64)
    }

    pub async fn append(&self, source: &dyn Source, sealed: Vec<Sealed>) -> Result<Position, UploadError> {
        let bytes: usize = sealed.iter().map(|s| s.bytes.len()).sum();
        let _room = self.journal.reserve(bytes as u64).await?;
        source.append(sealed)
    }
}

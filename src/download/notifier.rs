//! Notifier: what a fetch brought goes to where it is kept, then its one answer reaches all who asked.

use std::sync::{OnceLock, Weak};

use super::{DownloadError, Frames, Sink};
use crate::base::{ExtentId, Ino, watch};
use crate::pipeline::Moves;

/// `None` until the fetch has ended.
pub type Answer = Option<Result<Frames, DownloadError>>;

#[derive(Default)]
pub struct Notifier {
    sink: OnceLock<Weak<dyn Sink>>,
    /// Who watches what comes from the store.
    pub moves: Moves,
}

impl Notifier {
    /// Where opened frames go. Set once.
    pub fn fill_into(&self, sink: Weak<dyn Sink>) {
        let _ = self.sink.set(sink);
    }

    pub fn fill(&self, reader: Ino, id: ExtentId, first: u32, frames: &Frames) {
        if let Some(sink) = self.sink.get().and_then(Weak::upgrade) {
            sink.fill(reader, id, first, frames);
        }
    }
}

pub async fn answer(mut answer: watch::Receiver<Answer>) -> Result<Frames, DownloadError> {
    match answer.wait_for(Option::is_some).await {
        Ok(result) => result.clone().unwrap_or(Err(DownloadError::Opening)),
        // The fetch's task died without an answer.
        Err(_) => Err(DownloadError::Opening),
    }
}

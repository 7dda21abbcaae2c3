//! Notifier: the one answer of a fetch reaches all who asked.

use super::{DownloadError, Frames};
use crate::base::watch;

/// `None` until the fetch has ended.
pub type Answer = Option<Result<Frames, DownloadError>>;

pub async fn answer(mut answer: watch::Receiver<Answer>) -> Result<Frames, DownloadError> {
    match answer.wait_for(Option::is_some).await {
        Ok(result) => result.clone().unwrap_or(Err(DownloadError::Opening)),
        // The fetch's task died without an answer.
        Err(_) => Err(DownloadError::Opening),
    }
}

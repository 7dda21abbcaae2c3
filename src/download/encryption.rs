//! Encryption: opens sealed frames on the processor threads.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{DownloadError, Frames};
use crate::format::extent;
use crate::format::keys::Keys;
use crate::format::record::Extent;
use crate::pipeline::Cpu;

pub struct Encryption {
    keys: Arc<Keys>,
    cpu: Cpu,
}

impl Encryption {
    pub fn new(keys: Arc<Keys>, cpu: Cpu) -> Encryption {
        Encryption { keys, cpu }
    }

    pub async fn open(
        &self,
        extent: Extent,
        frames: Range<u32>,
        sealed: Bytes,
        name: String,
    ) -> Result<Frames, DownloadError> {
        let (keys, bytes) = (self.keys.clone(), sealed.len());
        self.cpu.run(bytes, move || open(&keys, &extent, frames, &sealed, &name)).await.ok_or(DownloadError::Opening)?
    }

    /// Opens on this thread: for what is small.
    pub fn open_here(
        &self,
        extent: &Extent,
        frames: Range<u32>,
        sealed: &[u8],
        name: &str,
    ) -> Result<Frames, DownloadError> {
        open(&self.keys, extent, frames, sealed, name)
    }
}

fn open(keys: &Keys, extent: &Extent, frames: Range<u32>, sealed: &[u8], name: &str) -> Result<Frames, DownloadError> {
    let frames = extent::open(keys, extent, frames, sealed)
        .map_err(|why| DownloadError::Format { name: name.to_owned(), why })?;
    Ok(Arc::new(frames.into_iter().map(Arc::new).collect()))
}

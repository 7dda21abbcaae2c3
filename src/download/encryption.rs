//! Encryption: opens sealed frames on the processor threads, as many runs of frames at once as there are workers.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{DownloadError, Frames};
use crate::format::extent;
use crate::format::keys::Keys;
use crate::format::record::Extent;
use crate::pipeline::{Cpu, Demand, Job, Stage, StageStatus, Urgency};

pub struct Encryption {
    keys: Arc<Keys>,
    cpu: Cpu,
    stage: Stage<Open>,
}

/// A run of one extent's frames.
pub struct Open {
    keys: Arc<Keys>,
    cpu: Cpu,
    extent: Extent,
    frames: Range<u32>,
    sealed: Bytes,
    name: String,
}

impl Job for Open {
    type Done = Frames;
    type Error = DownloadError;

    fn run(self: Arc<Self>) -> BoxFuture<'static, Result<Frames, DownloadError>> {
        async move {
            let (cpu, bytes) = (self.cpu.clone(), self.sealed.len());
            let work = move || open(&self.keys, &self.extent, self.frames.clone(), &self.sealed, &self.name);
            cpu.run_or_panic(bytes, work).await
        }
        .boxed()
    }
}

impl Encryption {
    pub fn new(keys: Arc<Keys>, cpu: Cpu, demand: Demand) -> Encryption {
        let stage = Stage::new("download/open", demand.on(&cpu));
        Encryption { keys, cpu, stage }
    }

    pub fn status(&self) -> StageStatus {
        self.stage.status()
    }

    /// Some fetch's urgency was raised.
    pub fn look_again(&self) {
        self.stage.look_again();
    }

    pub async fn open(
        &self,
        extent: Extent,
        frames: Range<u32>,
        sealed: Bytes,
        name: String,
        urgency: &Urgency,
    ) -> Result<Frames, DownloadError> {
        let bytes = sealed.len();
        let job = Open { keys: self.keys.clone(), cpu: self.cpu.clone(), extent, frames, sealed, name };
        self.stage.process(urgency, bytes, job).await
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

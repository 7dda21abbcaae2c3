//! One level of a checkpoint, read in key order: its runs are decoded one record at a time. They come one by one, or
//! where somebody waits a few ahead.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesOrdered;

use super::{Entry, Fetch, part, tampered};
use crate::format::FormatError;
use crate::format::checkpoint::RunRef;
use crate::format::checkpoint::run::Run;
use crate::format::commit::{CommitPart, segment_name};
use crate::format::keys::Keys;

type Coming<'a, E> = FuturesOrdered<BoxFuture<'a, Result<(RunRef, Bytes), E>>>;

/// Deletes included: what a local copy of the level needs. After an error or a cancelled [`Level::next`] it is of no
/// more use.
pub struct Level<'a, F: Fetch> {
    fetch: &'a F,
    keys: &'a Keys,
    waiting: VecDeque<RunRef>,
    coming: Coming<'a, F::Error>,
    /// Runs that come together.
    ahead: usize,
    run: Option<(RunRef, Run)>,
}

impl<'a, F: Fetch> Level<'a, F> {
    /// Reads a level of a manifest.
    pub fn new(fetch: &'a F, keys: &'a Keys, runs: &[RunRef]) -> Level<'a, F> {
        let waiting = runs.iter().copied().collect();
        Level { fetch, keys, waiting, coming: FuturesOrdered::new(), ahead: 1, run: None }
    }

    /// So many runs come together: quicker, and each takes its size in memory.
    pub fn ahead(self, runs: usize) -> Level<'a, F> {
        Level { ahead: runs.max(1), ..self }
    }

    pub async fn next(&mut self) -> Result<Option<Entry>, F::Error> {
        loop {
            if let Some((run, reader)) = &mut self.run
                && let Some(entry) = read(run, reader)?
            {
                return Ok(Some(entry));
            }
            // The one that is through is wiped before the next is opened.
            self.run = None;
            while self.coming.len() < self.ahead
                && let Some(run) = self.waiting.pop_front()
            {
                self.coming.push_back(fetched(self.fetch, run).boxed());
            }
            let Some(next) = self.coming.next().await else { return Ok(None) };
            let (run, object) = next?;
            self.run = Some((run, open(self.keys, &run, &object)?));
            // Opening 4 MiB takes its time: let others go first.
            tokio::task::yield_now().await;
        }
    }
}

/// Fetches and opens one run.
pub async fn opened<F: Fetch>(fetch: &F, keys: &Keys, run: &RunRef) -> Result<Run, F::Error> {
    let (run, object) = fetched(fetch, *run).await?;
    Ok(open(keys, &run, &object)?)
}

async fn fetched<F: Fetch>(fetch: &F, run: RunRef) -> Result<(RunRef, Bytes), F::Error> {
    let object = part(fetch, &CommitPart { id: run.id, len: run.len, hash: run.hash }).await?;
    Ok((run, object))
}

fn open(keys: &Keys, run: &RunRef, object: &[u8]) -> Result<Run, super::VaultError> {
    Run::open(keys, run.id, object).map_err(|error| bad(run, error))
}

/// The next record of a run, which must lie where its manifest says: else levels would hide each other wrongly.
pub fn read(run: &RunRef, reader: &mut Run) -> Result<Option<Entry>, super::VaultError> {
    let entry = reader.read().map_err(|error| bad(run, error))?;
    match &entry {
        Some((key, _)) if *key < run.first || *key > run.last => {
            Err(tampered(format!("{} holds a record that does not belong there", segment_name(run.id))))
        }
        _ => Ok(entry),
    }
}

fn bad(run: &RunRef, error: FormatError) -> super::VaultError {
    tampered(format!("{}: {error}", segment_name(run.id)))
}

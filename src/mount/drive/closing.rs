//! The end of a drive: everything into the vault, or what the vault lacks into the journal; then one last commit that says
//! that nobody writes (E2).
//!
//! Invariant: what is not in the vault when a drive has ended lies in the journal, or the caller is told what does not.

use std::time::Duration;

use super::{Closed, Drive, Progress, Writer};
use crate::vault::VaultError;

/// How long a drive whose drain was given up may take to bring what is dirty to the journal.
pub const KEEPING: Duration = Duration::from_secs(40);
/// So many lost files are named.
const NAMED: usize = 20;
/// How often a drain tells how far it is.
const TELL: Duration = Duration::from_millis(250);

impl Drive {
    /// Returns when everything written before the call is in the vault. `progress` is called now and then.
    pub async fn sync(&self, mut progress: impl FnMut(Progress) + Send) -> Result<(), VaultError> {
        let Some(writer) = &self.writer else { return Ok(()) };
        let failed = |why: String| VaultError::Stopped(why);
        let position = self.fs.sync_all().await.map_err(|e| failed(e.to_string()))?;
        writer.journal.wait_durable(position).await?;
        let done = writer.notifier.wait(position);
        tokio::pin!(done);
        loop {
            tokio::select! {
                biased;
                result = &mut done => return result.map_err(failed),
                () = tokio::time::sleep(TELL) => progress(self.pending()),
            }
        }
    }

    /// Drains, marks the epoch idle, ends all background work. The kernel must be gone by then. If nobody wants to wait
    /// for this any more, drop it and call [`Drive::give_up`].
    pub async fn close(&self, mut progress: impl FnMut(Progress) + Send) -> Result<Closed, VaultError> {
        if let Some(kept) = &self.disk_cache {
            kept.finish();
        }
        let Some(writer) = &self.writer else { return Ok(self.stop_following().await) };
        let drained = self.drain(writer, &mut progress).await;
        progress(self.pending());
        writer.stop_rounds.cancel();
        if drained.is_err() {
            // A round may be waiting for a store that does not answer: nobody waits for it any more.
            writer.stop.cancel();
        }
        let rounds_task = writer.rounds_task.lock().take();
        if let Some(task) = rounds_task
            && let Err(error) = task.await
        {
            log::error!("rounds: {error}");
        }
        let finished = match (&drained, writer.rounds.get()) {
            (Ok(()), Some(rounds)) => rounds.finish().await,
            // Nothing was changed without the store, and the vault was never told of this mount.
            (Ok(()), None) => Ok(()),
            (Err(error), _) => Err(error.to_string()),
        };
        writer.stop.cancel();
        writer.tasks.close();
        writer.tasks.wait().await;
        if finished.is_ok() && writer.journal.wait_durable(writer.journal.end()).await.is_ok() {
            // Vault and index have all of it now: the journal lets go of it before it ends.
            writer.indexer.finish().await;
        }
        let kept = self.end_journal(writer).await;
        // Nothing is appended any more, and what is durable is known.
        writer.indexer.finish().await;
        match finished {
            Ok(()) => {
                self.send_hint(writer).await;
                Ok(Closed::Drained)
            }
            Err(why) => {
                log::warn!("not everything is in the vault: {why}");
                kept?;
                Ok(Closed::Pending(self.pending().pending_bytes))
            }
        }
    }

    /// Everything into the vault. Without a store that is not waited for: it is asked once, and what is dirty goes to the
    /// journal (E4).
    async fn drain(&self, writer: &Writer, progress: &mut (impl FnMut(Progress) + Send)) -> Result<(), VaultError> {
        let offline = writer.offline.as_ref().filter(|_| writer.rounds.get().is_none());
        let Some(offline) = offline else { return self.sync(progress).await };
        if writer.notifier.ended().is_none() {
            offline.try_once().await;
            if writer.rounds.get().is_some() {
                return self.sync(progress).await;
            }
        }
        let kept = tokio::time::timeout(KEEPING, self.fs.sync_all()).await;
        match kept {
            Ok(Ok(_)) if self.history.oldest_pending().is_none() => Ok(()),
            Ok(Ok(_)) => Err(VaultError::Stopped(offline.reason())),
            Ok(Err(error)) => Err(VaultError::Stopped(error.to_string())),
            Err(_) => Err(VaultError::Stopped("this machine's disk takes nothing".to_owned())),
        }
    }

    async fn stop_following(&self) -> Closed {
        if let Some(reader) = &self.reader {
            reader.stop.cancel();
            let task = reader.task.lock().take();
            if let Some(task) = task
                && let Err(error) = task.await
            {
                log::error!("following: {error}");
            }
            reader.follower.finish().await;
        }
        Closed::Drained
    }

    /// Ends without waiting for the vault: what is dirty goes to the journal, and that to the disk, as far as they take
    /// it in a bounded time. The error says what they did not take.
    pub async fn give_up(&self) -> Result<Closed, VaultError> {
        let Some(writer) = &self.writer else { return Ok(Closed::Drained) };
        writer.stop_rounds.cancel();
        writer.stop.cancel();
        match tokio::time::timeout(KEEPING, self.fs.sync_all()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => log::error!("not all dirty bytes are in the journal: {error}"),
            Err(_) => log::error!("not all dirty bytes are in the journal after {} s", KEEPING.as_secs()),
        }
        self.end_journal(writer).await?;
        Ok(Closed::Pending(self.pending().pending_bytes))
    }

    /// Ends the journal after a last group commit. What is dirty then, or not durable, is lost with this process.
    async fn end_journal(&self, writer: &Writer) -> Result<(), VaultError> {
        let closed = writer.journal.close().await;
        // An unlinked file ends with its process anyhow.
        let mut files: Vec<String> = self.cache.dirty_files().iter().filter_map(|ino| self.fs.path_of(*ino)).collect();
        let dirty = self.cache.counts().dirty_bytes;
        let why = match (closed, files.is_empty()) {
            (Ok(()), true) => return Ok(()),
            (Ok(()), false) => format!("there was no room in the journal for {dirty} bytes"),
            (Err(error), true) => format!("the changes of the last seconds could not be written ({error})"),
            (Err(error), false) => format!("{dirty} bytes and the last changes could not be written ({error})"),
        };
        let more = files.len().saturating_sub(NAMED);
        files.truncate(NAMED);
        let of = if files.is_empty() { String::new() } else { format!(" of {}", files.join(", ")) };
        let more = if more > 0 { format!(" and {more} other files") } else { String::new() };
        Err(VaultError::NotKept(format!("{why}{of}{more}")))
    }

    /// The hint spares the next machine a listing; nothing depends on it.
    async fn send_hint(&self, writer: &Writer) {
        let Some(rounds) = writer.rounds.get() else { return };
        let chain = *rounds.chain.lock();
        let reign = &rounds.reign;
        let hint = crate::format::hint::Hint {
            header: reign.header.0,
            sequence: chain.newest.sequence,
            checkpoint: rounds.keeper.counting(),
        };
        let object = hint.seal(&rounds.keys, &rounds.random);
        if let Err(error) = self.store.put_hint(object.into()).await {
            log::debug!("the hint was not written: {error}");
        }
    }
}

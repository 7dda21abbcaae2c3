//! Reading objects: whole, or a range.
//!
//! Invariant: neither what a store says of an object's length nor what it then sends goes beyond what was asked for.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::{Error as ObjectError, GetOptions, GetRange, GetResult, ObjectStore, ObjectStoreExt};
use tokio::time::Instant;

use super::error::Answer;
use super::progress::TRANSFER;
use super::{Backend, Kind, Store, StoreError, local_error, path};
use crate::base::sizes::CLASS_MAX;

/// What a get brought.
pub(super) enum Got {
    Nothing,
    Bytes(Bytes),
    /// Of so many bytes at least; they were left where they are.
    TooLarge(u64),
}

impl Store {
    /// The object whole; `None` where there is none.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.get_with(name, None, CLASS_MAX as u64).await
    }

    /// Bytes of an object, fewer where it ends inside the range; `None` where there is no such object, or it ends before
    /// the range begins. An empty range is answered without asking.
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(Some(Bytes::new()));
        }
        if let Some(whole) = self.kept_whole(name) {
            return Ok(cut(&whole, &range));
        }
        self.get_with(name, Some(range), wanted).await
    }

    /// These bytes of an object, all of them, if the store is a directory of this machine and has them in memory. Waits for
    /// nothing, and is no request: nothing is counted, and where reading is limited there is nothing at hand.
    pub fn at_hand(&self, name: &str, range: Range<u64>) -> Option<Bytes> {
        match &self.inner.backend {
            Backend::Directory(directory) if !self.inner.download.is_limited() => directory.at_hand(name, range),
            _ => None,
        }
    }

    /// Is it a directory on a disk of this machine, as far as is known? A request costs next to nothing there, and tells
    /// nobody anything.
    pub fn is_near(&self) -> bool {
        matches!(&self.inner.backend, Backend::Directory(directory) if directory.is_near())
    }

    /// At most `most` bytes are ever held: the provider may put an object of any size under any name.
    async fn get_with(&self, name: &str, range: Option<Range<u64>>, most: u64) -> Result<Option<Bytes>, StoreError> {
        let got = self.request(Kind::Get, name, most, || self.get_once(name, range.clone(), most)).await?;
        let bytes = match got {
            Got::Nothing => return Ok(None),
            Got::Bytes(bytes) => bytes,
            Got::TooLarge(bytes) => return Err(StoreError::TooLarge { name: name.to_owned(), bytes, most }),
        };
        self.inner.meter.moved(Kind::Get, bytes.len() as u64);
        // A network's bytes were waited for as they came.
        if let Backend::Directory(_) = &self.inner.backend {
            self.inner.download.take(bytes.len() as u64).await;
        }
        Ok(Some(bytes))
    }

    async fn get_once(&self, name: &str, range: Option<Range<u64>>, most: u64) -> Result<Got, ObjectError> {
        if let Backend::Directory(directory) = &self.inner.backend {
            return directory.get(name, range, most).await.map_err(local_error);
        }
        let Some(store) = self.readable().await? else { return Ok(Got::Nothing) };
        let path = path(name)?;
        let options = GetOptions { range: range.clone().map(GetRange::Bounded), ..Default::default() };
        let error = match store.get_opts(&path, options).await {
            Ok(found) => return self.collect(found, most).await,
            Err(error @ ObjectError::NotFound { .. }) if self.has_no_bucket(&error) => return Err(error),
            Err(ObjectError::NotFound { .. }) => return Ok(Got::Nothing),
            Err(error) => error,
        };
        let Some(range) = range else { return Err(error) };
        match &self.inner.backend {
            Backend::Remote(_) if gives_no_ranges(&error) => return self.get_whole(&*store, name, &range).await,
            Backend::Remote(_) if Answer::of(&error).is_none_or(|answer| answer.status != 416) => return Err(error),
            _ => {}
        }
        // A range that begins past the end is an error of the backend's own kind: the size tells them apart.
        let (meter, began) = (&self.inner.meter, Instant::now());
        meter.asked(Kind::Head);
        let head = store.head(&path).await;
        meter.answered(Kind::Head, began.elapsed(), head.is_err());
        match head {
            Ok(meta) if meta.size <= range.start => Ok(Got::Nothing),
            _ => Err(error),
        }
    }

    /// From a server that sends objects whole or not at all. The last one is kept: its other parts are asked for next.
    async fn get_whole(&self, store: &dyn ObjectStore, name: &str, range: &Range<u64>) -> Result<Got, ObjectError> {
        let found = store.get_opts(&path(name)?, GetOptions::default()).await?;
        let whole = match self.collect(found, CLASS_MAX as u64).await? {
            Got::Bytes(whole) => whole,
            other => return Ok(other),
        };
        if let Backend::Remote(remote) = &self.inner.backend {
            *remote.whole.lock() = Some((name.to_owned(), whole.clone()));
        }
        Ok(cut(&whole, range).map_or(Got::Nothing, Got::Bytes))
    }

    fn kept_whole(&self, name: &str) -> Option<Bytes> {
        let Backend::Remote(remote) = &self.inner.backend else { return None };
        remote.whole.lock().as_ref().filter(|(kept, _)| kept == name).map(|(_, bytes)| bytes.clone())
    }

    async fn collect(&self, found: GetResult, most: u64) -> Result<Got, ObjectError> {
        let told = found.range.end.saturating_sub(found.range.start);
        if told > most {
            return Ok(Got::TooLarge(told));
        }
        let progress = TRANSFER.with(std::sync::Arc::clone);
        let mut stream = found.into_stream();
        let mut first = Bytes::new();
        let mut joined = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            let len = (first.len() + joined.len() + chunk.len()) as u64;
            if len > most {
                return Ok(Got::TooLarge(len));
            }
            if self.inner.download.is_limited() {
                progress.held(self.inner.download.take(chunk.len() as u64)).await;
            }
            progress.received(chunk.len() as u64);
            if joined.is_empty() && first.is_empty() {
                first = chunk;
                continue;
            }
            if joined.is_empty() {
                joined.reserve(told as usize);
                joined.extend_from_slice(&std::mem::take(&mut first));
            }
            joined.extend_from_slice(&chunk);
        }
        // One chunk needs no copy.
        let bytes = if joined.is_empty() { first } else { joined.freeze() };
        if (bytes.len() as u64) < told {
            let source = format!("{} bytes came of {told}", bytes.len()).into();
            return Err(ObjectError::Generic { store: "body", source });
        }
        Ok(Got::Bytes(bytes))
    }
}

fn gives_no_ranges(error: &ObjectError) -> bool {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    matches!(error, ObjectError::NotSupported { .. }) || cause.to_string().contains("non-partial response")
}

fn cut(whole: &Bytes, range: &Range<u64>) -> Option<Bytes> {
    let (start, end) = (range.start as usize, (range.end as usize).min(whole.len()));
    (start < end).then(|| whole.slice(start..end))
}

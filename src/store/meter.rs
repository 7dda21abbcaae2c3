//! What the store was asked, by kind: how often, with what outcome, how many bytes, how long it took.
//!
//! Plain numbers since the store was opened. Owns no pace and no meaning.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Kinds of requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Get,
    Put,
    List,
    Delete,
    Head,
}

/// Upper ends of the histogram's buckets, milliseconds; what takes longer is counted in one more.
pub const BUCKETS_MS: [u64; 11] = [1, 2, 5, 10, 20, 50, 100, 250, 1_000, 5_000, 30_000];

/// Of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KindCounts {
    pub requests: u64,
    pub errors: u64,
    /// Sealed bytes that were sent or came.
    pub bytes: u64,
    /// Of all requests together.
    pub milliseconds: u64,
    /// How many took up to the milliseconds in [`BUCKETS_MS`]; the last: longer.
    pub histogram: [u64; BUCKETS_MS.len() + 1],
}

/// Requests and errors since the store was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreCounts {
    pub requests: u64,
    pub errors: u64,
    pub get: KindCounts,
    pub put: KindCounts,
    pub list: KindCounts,
    pub delete: KindCounts,
    pub head: KindCounts,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
    micros: AtomicU64,
    histogram: [AtomicU64; BUCKETS_MS.len() + 1],
}

impl Counters {
    fn read(&self) -> KindCounts {
        let mut histogram = [0; BUCKETS_MS.len() + 1];
        histogram.iter_mut().zip(&self.histogram).for_each(|(to, from)| *to = from.load(Relaxed));
        KindCounts {
            requests: self.requests.load(Relaxed),
            errors: self.errors.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            milliseconds: self.micros.load(Relaxed) / 1000,
            histogram,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Meter {
    kinds: [Counters; 5],
}

impl Meter {
    /// A request begins.
    pub(super) fn asked(&self, kind: Kind) {
        self.kinds[kind as usize].requests.fetch_add(1, Relaxed);
    }

    /// It ended.
    pub(super) fn answered(&self, kind: Kind, took: Duration, is_error: bool) {
        let counters = &self.kinds[kind as usize];
        counters.errors.fetch_add(u64::from(is_error), Relaxed);
        counters.micros.fetch_add(took.as_micros() as u64, Relaxed);
        let bucket = BUCKETS_MS.iter().position(|end| took <= Duration::from_millis(*end));
        counters.histogram[bucket.unwrap_or(BUCKETS_MS.len())].fetch_add(1, Relaxed);
    }

    pub(super) fn moved(&self, kind: Kind, bytes: u64) {
        self.kinds[kind as usize].bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn counts(&self) -> StoreCounts {
        let [get, put, list, delete, head] = [0, 1, 2, 3, 4].map(|kind: usize| self.kinds[kind].read());
        let all = [get, put, list, delete, head];
        StoreCounts {
            requests: all.iter().map(|kind| kind.requests).sum(),
            errors: all.iter().map(|kind| kind.errors).sum(),
            get,
            put,
            list,
            delete,
            head,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted_apart_and_each_request_is_in_one_bucket() {
        let meter = Meter::default();
        for (kind, millis, is_error) in [(Kind::Get, 1, false), (Kind::Get, 40, true), (Kind::Put, 60_000, true)] {
            meter.asked(kind);
            meter.answered(kind, Duration::from_millis(millis), is_error);
        }
        meter.moved(Kind::Put, 7);
        let counts = meter.counts();
        assert_eq!((counts.requests, counts.errors), (3, 2));
        assert_eq!((counts.get.requests, counts.get.errors, counts.get.milliseconds), (2, 1, 41));
        assert_eq!((counts.get.histogram[0], counts.get.histogram[5]), (1, 1));
        assert_eq!((counts.put.histogram[BUCKETS_MS.len()], counts.put.bytes), (1, 7));
        assert_eq!(counts.list.requests + counts.delete.requests, 0);
    }
}

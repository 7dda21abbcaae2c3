//! What a drive tells of itself, as text for Prometheus. The same numbers as `dripfs status --json`, under stable names.
//!
//! Owns the names. Does not own the numbers ([`MountStatus`]), nor how they are asked for. No name of a file, no URL and no
//! error text is among them: over HTTP every user of this machine may read them.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::serve::MountStatus;
use crate::pipeline::StageStatus;
use crate::store::{BUCKETS_MS, KindCounts};

/// All words that `state` may be.
pub const STATES: [&str; 8] =
    ["ready", "offline", "outage", "journal-full", "disk-full", "disk-failing", "fenced", "read-only"];

/// The text.
pub fn of(status: &MountStatus) -> String {
    let mountpoint = status.mountpoint.to_string_lossy().into_owned();
    let labels = [("mountpoint".into(), mountpoint.into())].into_iter();
    let mut registry = Registry::with_prefix_and_labels("dripfs", labels);
    registry.register_collector(Box::new(Snapshot(status.clone())));
    let mut out = String::new();
    // Writing into memory does not fail.
    let _ = text::encode(&mut out, &registry);
    out
}

#[derive(Debug)]
struct Snapshot(MountStatus);

/// Where a metric goes.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        let metric = ConstGauge::new(value);
        metric.encode(self.0.encode_descriptor(name, help, None, metric.metric_type())?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        let metric = ConstCounter::new(value);
        metric.encode(self.0.encode_descriptor(name, help, None, metric.metric_type())?)
    }

    /// One metric, several times with other labels.
    fn family<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        values: impl IntoIterator<Item = ([(&'static str, String); N], Value)>,
    ) -> Result<(), Error> {
        let mut encoder = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in values {
            value.encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

enum Value {
    Gauge(f64),
    Counter(u64),
    Seconds(f64),
    Times(KindCounts),
}

impl Value {
    fn encode(self, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
        match self {
            Value::Gauge(value) => encoder.encode_gauge(&value),
            Value::Counter(value) => encoder.encode_counter::<NoLabelSet, u64, u64>(&value, None),
            Value::Seconds(value) => encoder.encode_counter::<NoLabelSet, f64, f64>(&value, None),
            Value::Times(counts) => {
                let ends = BUCKETS_MS.iter().map(|end| *end as f64 / 1000.0).chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = ends.zip(counts.histogram).collect();
                let answered = counts.histogram.iter().sum();
                encoder.encode_histogram::<NoLabelSet>(counts.milliseconds as f64 / 1000.0, answered, &buckets, None)
            }
        }
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Out(encoder);
        self.drive(&mut out)?;
        self.cache(&mut out)?;
        self.store(&mut out)?;
        self.stages(&mut out)?;
        self.vault(&mut out)
    }
}

impl Snapshot {
    fn drive(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let status = &self.0.status;
        let state = |word: &'static str| {
            ([("state", word.to_owned())], Value::Gauge(f64::from(u8::from(status.state == word))))
        };
        out.family("state", "1 for the state that the drive is in", MetricType::Gauge, STATES.map(state))?;
        out.gauge("unmounting", "1 while the drive is drained at its end", f64::from(u8::from(self.0.unmounting)))?;
        out.gauge("pending_files", "Files with bytes that the vault lacks", status.pending_files as f64)?;
        out.gauge("pending_bytes", "Bytes that the vault lacks", status.pending_bytes as f64)?;
        out.gauge("oldest_pending_seconds", "Age of the oldest of them", status.oldest_pending_seconds)?;
        out.gauge("journal_bytes", "Size of the journal on the local disk", status.journal_bytes as f64)?;
        out.gauge("sequence", "Number of the newest log object", status.sequence as f64)?;
        out.gauge("epoch", "Number of the epoch", f64::from(status.epoch))?;
        out.gauge("last_commit_age_seconds", "Age of the newest commit", status.last_commit_age_seconds)?;
        let followed = status.followed_seconds_ago.unwrap_or(0.0);
        out.gauge("followed_age_seconds", "How long ago a read-only mount last looked", followed)?;
        out.gauge("damaged_files", "Files of which bytes could not be had", status.damaged_files.len() as f64)?;
        out.gauge("set_aside", "Histories that were set aside", status.set_aside.len() as f64)
    }

    fn cache(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let cache = &self.0.status.cache;
        out.gauge("cache_bytes", "Decrypted bytes in memory", cache.bytes as f64)?;
        out.gauge("cache_dirty_bytes", "Written bytes in memory", cache.dirty_bytes as f64)?;
        out.gauge("cache_entries", "Files in memory", cache.entries as f64)?;
        out.counter("cache_hits", "Frames that memory had", cache.hits)?;
        out.counter("cache_misses", "Frames that it had not", cache.misses)?;
        out.gauge("disk_cache_bytes", "Sealed bytes on the local disk", cache.disk_bytes as f64)?;
        out.counter("disk_cache_hits", "Blocks that the disk cache had", cache.disk_hits)?;
        out.counter("disk_cache_misses", "Blocks that it had not", cache.disk_misses)
    }

    fn store(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let remote = &self.0.status.remote;
        let kinds = [
            ("get", remote.get),
            ("put", remote.put),
            ("list", remote.list),
            ("delete", remote.delete),
            ("head", remote.head),
        ];
        let outcomes = kinds.into_iter().flat_map(|(kind, counts)| {
            let answered: u64 = counts.histogram.iter().sum();
            [("ok", answered.saturating_sub(counts.errors)), ("error", counts.errors)].map(|(outcome, count)| {
                ([("kind", kind.to_owned()), ("outcome", outcome.to_owned())], Value::Counter(count))
            })
        });
        out.family("store_requests", "Requests that ended", MetricType::Counter, outcomes)?;
        let of = |make: fn(KindCounts) -> Value| {
            kinds.map(move |(kind, counts)| ([("kind", kind.to_owned())], make(counts)))
        };
        let bytes = of(|counts| Value::Counter(counts.bytes));
        out.family("store_bytes", "Sealed bytes that were sent or came", MetricType::Counter, bytes)?;
        out.family("store_request_seconds", "How long requests took", MetricType::Histogram, of(Value::Times))
    }

    fn stages(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let flow = &self.0.status.pipelines;
        out.gauge("inflight_bytes", "Memory between cache, disk and store", flow.inflight_bytes as f64)?;
        out.gauge("inflight_limit_bytes", "The most that it may be", flow.inflight_limit as f64)?;
        let mut gauge = |name: &str, help: &str, value: fn(&StageStatus) -> u64| {
            let values = flow.stages.iter().map(|stage| (label(stage), Value::Gauge(value(stage) as f64)));
            out.family(name, help, MetricType::Gauge, values)
        };
        gauge("stage_waiting", "Producers that were not asked yet", |stage| stage.waiting)?;
        gauge("stage_queued", "Jobs that wait for a worker", |stage| stage.queued)?;
        gauge("stage_in_flight", "Jobs that run", |stage| stage.in_flight)?;
        gauge("stage_workers", "Jobs that may run at once", |stage| stage.workers)?;
        gauge("stage_bytes", "Bytes of what is queued and runs", |stage| stage.bytes)?;
        let mut counter = |name: &str, help: &str, value: fn(&StageStatus) -> Value| {
            let values = flow.stages.iter().map(|stage| (label(stage), value(stage)));
            out.family(name, help, MetricType::Counter, values)
        };
        counter("stage_done", "Jobs that were done", |stage| Value::Counter(stage.done))?;
        counter("stage_done_bytes", "Their bytes", |stage| Value::Counter(stage.done_bytes))?;
        counter("stage_restarts", "Workers that panicked", |stage| Value::Counter(stage.restarts))?;
        counter("stage_failures", "Jobs that were given up", |stage| Value::Counter(stage.failures))?;
        counter("stage_waited_seconds", "Time that jobs waited", |stage| Value::Seconds(stage.waited_seconds))?;
        counter("stage_worked_seconds", "Time that jobs ran", |stage| Value::Seconds(stage.worked_seconds))
    }

    fn vault(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let status = &self.0.status;
        if let Some(vault) = &status.vault {
            out.gauge("vault_live_bytes", "Sealed bytes of files in the vault", vault.live_bytes as f64)?;
            out.gauge("vault_total_bytes", "Bytes of the segments in which they lie", vault.total_bytes as f64)?;
        }
        let removed = &status.removed;
        out.counter("removed_segments", "Segments that this mount removed", removed.segments)?;
        out.counter("removed_commits", "Commits that this mount removed", removed.commits)?;
        out.counter("refused_deletions", "Deletions that the store refused", removed.refused)
    }
}

fn label(stage: &StageStatus) -> [(&'static str, String); 1] {
    [("stage", stage.name.clone())]
}

//! What tests and benchmarks that open drives in their own process have in common.

use std::path::Path;

use dripfs::crypto::secret::Passphrase;
use dripfs::mount::drive::{DriveOptions, Durability};

pub fn passphrase() -> Passphrase {
    Passphrase::new(b"correct horse".to_vec())
}

/// A small drive that writes, with this state directory.
pub fn options(state: &Path) -> DriveOptions {
    DriveOptions {
        state: state.to_owned(),
        read_only: false,
        durability: Durability::Local,
        takeover: false,
        accept_rollback: false,
        compress: true,
        cache_bytes: 8 << 20,
        caching: Default::default(),
        dirty_bytes: 16 << 20,
        journal_bytes: 1 << 30,
        checkpoint: Default::default(),
        follow_seconds: 5,
        pipelines: Default::default(),
        gc: Default::default(),
        rounds: Default::default(),
    }
}

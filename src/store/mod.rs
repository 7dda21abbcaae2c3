//! The remote: one object store under one prefix. The only user of object_store.
//!
//! Names are relative to the vault's prefix. Nothing is ever overwritten but the hint `latest`.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use thiserror::Error;

#[derive(Debug, Error, Clone)]
pub enum StoreError {
    /// The URL cannot be used; says why and what would do.
    #[error("{0}")]
    BadUrl(String),
    /// The store does not answer, or not in time, or with an error that may pass.
    #[error("{name}: the store does not answer: {why}")]
    Unavailable { name: String, why: String },
    /// The store refuses (credentials, permissions, read-only).
    #[error("{name}: the store refuses: {why}")]
    Refused { name: String, why: String },
    /// Create-if-absent does not hold here.
    #[error("{0}")]
    NoConditionalCreate(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Created {
    /// This request made it.
    New,
    /// Something stands there (perhaps made by an earlier try of ours: read it back and compare).
    Exists,
}

/// Requests and errors since the store was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreCounts {
    pub requests: u64,
    pub errors: u64,
}

pub struct Store {
    _inner: Arc<dyn ObjectStore>,
}

impl Store {
    /// Over a store that a test brings. `prefix` may be empty.
    pub fn over(_inner: Arc<dyn ObjectStore>, _url: &str) -> Store {
        todo!()
    }

    /// The canonical URL, without credentials.
    pub fn url(&self) -> &str {
        todo!()
    }

    /// Puts an object only if nothing has that name.
    pub async fn create(&self, _name: &str, _bytes: Bytes) -> Result<Created, StoreError> {
        todo!()
    }

    /// The object whole; `None` where there is none.
    pub async fn get(&self, _name: &str) -> Result<Option<Bytes>, StoreError> {
        todo!()
    }

    /// Bytes of an object; `None` where there is no such object, or it is shorter than the range.
    pub async fn get_range(&self, _name: &str, _range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        todo!()
    }

    /// Writes the untrusted hint `latest`: the only name ever overwritten.
    pub async fn put_hint(&self, _bytes: Bytes) -> Result<(), StoreError> {
        todo!()
    }

    /// Names below a prefix ("" for all), relative to the vault, sorted, at most `most`.
    pub async fn list(&self, _prefix: &str, _most: usize) -> Result<Vec<String>, StoreError> {
        todo!()
    }

    /// Creates a random name twice: [`StoreError::NoConditionalCreate`] unless the second is refused. Removes it.
    pub async fn probe(&self) -> Result<(), StoreError> {
        todo!()
    }

    pub fn counts(&self) -> StoreCounts {
        todo!()
    }

    /// Since when the store has not answered, and why; `None` while it does.
    pub fn outage(&self) -> Option<(Duration, String)> {
        todo!()
    }
}

/// Opens `file:///path`, `memory:///` or a bare path (which means file://). Creates nothing.
pub fn open(_url: &str) -> Result<Store, StoreError> {
    todo!()
}

/// The canonical form of a URL: what a state directory is kept for.
pub fn canonical_url(_url: &str) -> Result<String, StoreError> {
    todo!()
}

//! Why a mount did not begin or did not end well. The command line gives each its exit code.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::mountpoint::MountpointError;
use super::runtime_dir::RuntimeError;
use crate::fuse;
use crate::store::StoreError;
use crate::vault::VaultError;

#[derive(Debug, Error)]
pub enum MountError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Mountpoint(#[from] MountpointError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The kernel, or fusermount3, did not take the mount, or did not let it go.
    #[error(transparent)]
    Fuse(#[from] fuse::MountError),
    #[error("the recovery key cannot be written to {}: {why}; no vault was made", path.display())]
    RecoveryFile { path: PathBuf, why: io::Error },
    /// The last request that makes a vault was sent, and nobody knows what became of it.
    #[error("{why}; it is not known whether the vault was made. {advice}")]
    Unclear { why: VaultError, advice: String },
    #[error("{what}: {why}")]
    Io { what: String, why: io::Error },
    /// The background process failed, with this exit code.
    #[error("{message}")]
    Reported { code: u8, message: String },
}

impl From<StoreError> for MountError {
    fn from(error: StoreError) -> MountError {
        MountError::Vault(error.into())
    }
}

impl MountError {
    pub fn io(what: impl Into<String>, why: io::Error) -> MountError {
        MountError::Io { what: what.into(), why }
    }
}

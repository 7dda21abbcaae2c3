//! Why a vault cannot be opened, made or written: each has its exit code (servers' ABI) and says what to do next.

use thiserror::Error;

use crate::format::FormatError;
use crate::format::commit::Hash;
use crate::index::IndexError;
use crate::journal::JournalError;
use crate::store::StoreError;

#[derive(Debug, Error)]
pub enum VaultError {
    /// Exit 10.
    #[error("no vault at {url}: make one with `dripfs init {url}`, or look at the spelling")]
    NotFound { url: String },
    /// Exit 1.
    #[error("there is already a vault at {url}: mount it with `dripfs mount {url} DIR`")]
    Exists { url: String },
    /// Exit 1.
    #[error("{url} holds files that are not a vault's (such as {example:?}): choose an empty place")]
    ForeignFiles { url: String, example: String },
    /// Exit 11.
    #[error(
        "the vault {url} is open elsewhere: on {host}, last commit {time}; unmount it there, or if that machine is gone: \
         --takeover"
    )]
    InUse { url: String, host: String, time: String },
    /// Exit 11.
    #[error(
        "the state directory {path} is in use by another process; is the vault already mounted here? `dripfs status` lists \
         what is"
    )]
    StateInUse { path: String },
    /// Exit 12.
    #[error("wrong passphrase for {url}: try again; the recovery key opens it too, in the passphrase's place")]
    WrongPassphrase { url: String },
    /// Exit 12: most likely the keys were changed on another machine.
    #[error(
        "wrong passphrase for {url}: its keys were changed since this machine saw it (header {known} then, {newest} now): \
         give the new passphrase, or the recovery key; if nobody changed them, somebody has tampered with the vault"
    )]
    ChangedPassphrase { url: String, known: u64, newest: u64 },
    /// Exit 13.
    #[error("{0}")]
    Tampered(String),
    /// Exit 13: the header that opened is not the one that the log names; somebody who has the passphrase tries that one.
    #[error("the header that opened (number {opened}) is not the one that the vault names (number {})", named.0)]
    OtherHeader { opened: u64, named: (u64, Hash) },
    /// Exit 1: no new header can be made as it was asked for.
    #[error("the keys are as they were: {0}")]
    KeyChange(String),
    /// Exit 13: the vault's newest state is not one that goes on from what this machine has seen.
    #[error(
        "{0}. If you put that state there yourself (a backup, say), `dripfs mount --accept-rollback` goes on from it: \
         what this machine has and the vault lacks is set aside, for `dripfs rescue`"
    )]
    RolledBack(String),
    /// Exit 1: the store does not answer, and the drive cannot be mounted without it (E4).
    #[error("{store}; and the drive cannot be mounted without it: {why}")]
    Unreachable { store: StoreError, why: String },
    /// Exit 1: the state directory cannot be used.
    #[error("state directory {path}: {why}")]
    State { path: String, why: String },
    /// Exit 1: rounds ended; says why.
    #[error("not everything is in the vault: {0}")]
    Stopped(String),
    /// Exit 14: the mount ended, and the journal could not take everything; says what is lost.
    #[error("unmounted, but not everything is kept: {0}; the journal keeps the rest: mount again to send it")]
    NotKept(String),
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Store(StoreError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl VaultError {
    /// Another machine was met at work on the vault; which one, its object does not tell.
    pub fn in_use_now(url: &str, does: &str) -> VaultError {
        let host = format!("another machine, which {does} right now");
        VaultError::InUse { url: url.to_owned(), host, time: "now".to_owned() }
    }
}

impl From<StoreError> for VaultError {
    fn from(error: StoreError) -> VaultError {
        match error {
            // Under a vault's name lies what no vault has.
            StoreError::TooLarge { .. } => VaultError::Tampered(error.to_string()),
            error => VaultError::Store(error),
        }
    }
}

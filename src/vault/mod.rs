//! The vault: init, open, epoch, round, commit, pin.

pub mod error;
pub mod init;

pub use error::VaultError;

//! The vault: how one begins, is opened, and goes forward.
//!
//! [`init`] makes one, [`unlock`] opens its header, [`walk`] reads its log to the end, [`epoch`] begins a writer's
//! reign, [`round`] moves it forward commit by commit, [`checkpoint`] folds what the log came to, [`gc`] deletes what
//! nobody needs any more, [`pin`] remembers its newest state on this machine.
//! Does not own: what changes mean (history), where sealed bytes wait (journal), how objects travel (store, upload).

pub mod checkpoint;
pub mod epoch;
pub mod error;
pub mod gc;
pub mod init;
pub mod pin;
pub mod round;
pub mod unlock;
pub mod walk;

pub use error::VaultError;

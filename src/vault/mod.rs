//! The vault: how one begins, is opened, and goes forward.
//!
//! [`init`] makes one, [`unlock`] opens its header, [`walk`] reads its log to the end, [`epoch`] begins a writer's
//! reign, [`aside`] keeps what the vault cannot take any more, [`round`] moves it forward commit by commit, [`ahead`]
//! sends what rounds defer, [`spill`] takes what unlinked open files hold out of the journal, [`follow`] tells readers
//! how it goes on, [`checkpoint`] folds what the log came to, [`gc`] deletes what nobody needs any more, [`pin`]
//! remembers its newest state on this machine.
//! Does not own: what changes mean (history), where sealed bytes wait (journal), how objects travel (store, upload).

pub mod ahead;
pub mod aside;
pub mod checkpoint;
pub mod epoch;
pub mod error;
pub mod follow;
pub mod gc;
pub mod init;
pub mod pin;
pub mod round;
pub mod spill;
pub mod unlock;
pub mod walk;

pub use error::VaultError;

//! Exit codes: an ABI that scripts and services rely on. They are never renumbered.

use super::human_bytes;
use crate::format::FormatError;
use crate::journal::JournalError;
use crate::mount::MountError;
use crate::vault::VaultError;

pub const OK: u8 = 0;
pub const ERROR: u8 = 1;
pub const USAGE: u8 = 2;
pub const NO_VAULT: u8 = 10;
pub const IN_USE: u8 = 11;
pub const WRONG_PASSPHRASE: u8 = 12;
pub const TAMPERED: u8 = 13;
pub const NOT_DRAINED: u8 = 14;
pub const NOT_WHOLE: u8 = 15;
pub const PARTIAL: u8 = 16;
/// Of `dripfs search`, as grep has them.
pub const NOTHING_FOUND: u8 = 1;
pub const SEARCH_ERROR: u8 = 2;

/// What a command failed with: printed as `dripfs: <message>`.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub message: String,
}

impl Failure {
    pub fn new(code: u8, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
    }

    pub fn error(message: impl Into<String>) -> Failure {
        Failure::new(ERROR, message)
    }

    /// The same, about this vault: whoever reads it in a log has not typed it.
    pub fn at(self, url: &str) -> Failure {
        match self.message.contains(url) {
            true => self,
            false => Failure { message: format!("{url}: {}", self.message), ..self },
        }
    }

    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(USAGE, format!("{}; see `dripfs --help`", message.into()))
    }
}

/// A drive that ended before all of it was sent. No bytes: names, attributes, or the mark that nobody writes any more.
pub fn not_drained(bytes: u64) -> Failure {
    let left = match bytes {
        0 => "the last changes".to_owned(),
        _ => human_bytes(bytes),
    };
    Failure::new(
        NOT_DRAINED,
        format!(
            "unmounted, but {left} did not reach the vault: the journal keeps them; mount again to send them (or, if another \
             machine has taken the vault over, to have them set aside for `dripfs rescue`)"
        ),
    )
}

impl<E: Into<MountError>> From<E> for Failure {
    fn from(error: E) -> Failure {
        let error = error.into();
        Failure { code: code_of(&error), message: error.to_string() }
    }
}

/// The exit code of an error.
pub fn code_of(error: &MountError) -> u8 {
    match error {
        MountError::Vault(error) => code_of_vault(error),
        MountError::Reported { code, .. } => *code,
        MountError::Runtime(crate::mount::runtime_dir::RuntimeError::InUse { .. }) => IN_USE,
        MountError::Runtime(_)
        | MountError::Mountpoint(_)
        | MountError::Fuse(_)
        | MountError::RecoveryFile { .. }
        | MountError::Unclear { .. }
        | MountError::Io { .. } => ERROR,
    }
}

fn code_of_vault(error: &VaultError) -> u8 {
    match error {
        VaultError::NotFound { .. } => NO_VAULT,
        VaultError::InUse { .. } | VaultError::StateInUse { .. } => IN_USE,
        VaultError::WrongPassphrase { .. } | VaultError::ChangedPassphrase { .. } => WRONG_PASSPHRASE,
        VaultError::Tampered(_)
        | VaultError::OtherHeader { .. }
        | VaultError::RolledBack(_)
        | VaultError::Format(FormatError::Unauthentic(_)) => TAMPERED,
        VaultError::NotKept(_) => NOT_DRAINED,
        // Malformed bytes that somebody sealed, a newer format, a damaged local journal: no proof of a hand at work.
        VaultError::Format(FormatError::Malformed { .. } | FormatError::Newer { .. })
        | VaultError::Journal(JournalError::Damaged(_) | JournalError::Io { .. } | JournalError::Closed)
        | VaultError::Exists { .. }
        | VaultError::ForeignFiles { .. }
        | VaultError::State { .. }
        | VaultError::KeyChange(_)
        | VaultError::Stopped(_)
        | VaultError::Unreachable { .. }
        | VaultError::Index(_)
        | VaultError::Store(_) => ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn the_numbers_are_as_published() {
        assert_eq!([OK, ERROR, USAGE, NOT_WHOLE, PARTIAL], [0, 1, 2, 15, 16]);
        assert_eq!([NOTHING_FOUND, SEARCH_ERROR], [1, 2]);
        let text = String::new;
        let cases: Vec<(VaultError, u8)> = vec![
            (VaultError::NotFound { url: text() }, 10),
            (VaultError::InUse { url: text(), host: text(), time: text() }, 11),
            (VaultError::StateInUse { path: text() }, 11),
            (VaultError::WrongPassphrase { url: text() }, 12),
            (VaultError::ChangedPassphrase { url: text(), known: 1, newest: 2 }, 12),
            (VaultError::Tampered(text()), 13),
            (VaultError::RolledBack(text()), 13),
            (VaultError::Unreachable { store: StoreError::BadUrl(text()), why: text() }, 1),
            (VaultError::Format(FormatError::Unauthentic("header")), 13),
            (VaultError::Format(FormatError::Newer { what: "header", version: 9 }), 1),
            (VaultError::Exists { url: text() }, 1),
            (VaultError::ForeignFiles { url: text(), example: text() }, 1),
            (VaultError::State { path: text(), why: text() }, 1),
            (VaultError::Store(StoreError::BadUrl(text())), 1),
            (VaultError::Journal(JournalError::Damaged(text())), 1),
            (VaultError::NotKept(text()), 14),
        ];
        for (error, code) in cases {
            let shown = format!("{error:?}");
            assert_eq!(Failure::from(error).code, code, "{shown}");
        }
        assert_eq!(Failure::from(MountError::Reported { code: 14, message: text() }).code, NOT_DRAINED);
        assert_eq!(Failure::usage("x").code, 2);
    }
}

//! The vault's format: bytes in, values out, no I/O. man/dripfs-format.5 is normative; this room follows it.

pub mod cbor;
pub mod change;
pub mod checkpoint;
pub mod commit;
pub mod extent;
pub mod header;
pub mod hint;
pub mod key;
pub mod keys;
pub mod object;
pub mod padding;
pub mod record;

use thiserror::Error;

/// Why bytes are not what they claim to be. Says nothing of their plaintext.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum FormatError {
    /// The AEAD tag does not fit: changed, moved, or made under another key.
    #[error("{0} does not authenticate: it was changed, or is not of this vault")]
    Unauthentic(&'static str),
    /// Authentic or not, the bytes do not parse.
    #[error("{what} is malformed: {why}")]
    Malformed { what: &'static str, why: &'static str },
    /// Made by a newer program.
    #[error("{what} has version {version}, which is newer than this program; use a newer dripfs")]
    Newer { what: &'static str, version: u64 },
}

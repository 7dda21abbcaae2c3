//! The only room that touches ciphers, hashes and key derivation.
//!
//! Owns: the AEAD ([`aead`]), key derivation and keyed hashes ([`kdf`]), and the types that hold secrets ([`secret`]).
//! Does not own: what is sealed, under which name, or in which layout (that is `format`).

pub mod aead;
pub mod kdf;
pub mod secret;

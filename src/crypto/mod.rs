//! The only room that touches ciphers, hashes and key derivation.

pub mod aead;
pub mod kdf;
pub mod secret;

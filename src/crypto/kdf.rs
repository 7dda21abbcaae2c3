//! Argon2id for passphrases; BLAKE3 for sub-keys, keyed hashes and the chain.

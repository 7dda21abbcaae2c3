//! XChaCha20-Poly1305: whole messages, and the frames of an extent under one HChaCha20 subkey.

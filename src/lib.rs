//! dripfs: an encrypted drive over object storage.
//!
//! Rooms, from the ground up. Calls go down, results come back up as values; no room imports a room above it.
//!
//! | room | what it holds |
//! |---|---|
//! | [`base`] | ids, positions, sizes, clock, random bytes, the local disk |
//! | [`crypto`] | AEAD, key derivation, secrets (the only user of ciphers) |
//! | [`mod@format`] | records, header, commits, extents, segments, padding: bytes, no I/O |
//! | [`store`] | the remote (the only user of object_store) |
//! | [`journal`] | sealed local history: blocks, writer, replay |
//! | [`pipeline`] | what pipelines are made of: stages with demand, memory in flight, the processor threads |
//! | [`index`] | all records on the local disk, below history's overlay (the only user of sled) |
//! | [`history`] | positions, transactions, the overlay above the index: what answers every metadata read |
//! | [`vault`] | init, open, epoch, round, commit, checkpoint, pin |
//! | [`download`] | Starter, RemoteStorage, Encryption, Notifier: bytes come in |
//! | [`upload`] | Starter, Encryption, Journal, RemoteStorage, Notifier: bytes go out |
//! | [`cache`] | entries of plaintext, dirty and frozen and clean |
//! | [`fs`] | POSIX: names, files, attributes, xattrs (no FUSE, no network) |
//! | [`search`] | the room `.search` in each directory: patterns, scans, answers (no FUSE) |
//! | [`fuse`] | kernel adapter (the only user of fuser; no decisions) |
//! | [`mount`] | wiring, life cycle, control socket, status |
//! | [`cli`] | arguments, commands, progress, exit codes (the only user of clap) |

pub mod base;
pub mod cache;
pub mod cli;
pub mod crypto;
pub mod download;
pub mod format;
pub mod fs;
pub mod fuse;
pub mod history;
pub mod index;
pub mod journal;
pub mod mount;
pub mod pipeline;
pub mod search;
pub mod store;
pub mod upload;
pub mod vault;

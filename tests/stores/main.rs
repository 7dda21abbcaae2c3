//! Stores over a network: what the store room makes of a server's answers, mounts of s3://, and outages on real mounts.
//!
//! | file | what it holds |
//! |---|---|
//! | `server` | an S3 server in this process, with latency and faults; the example `s3server` serves it alone |
//! | `requests` | the store room against it, request by request |
//! | `mounts` | real mounts of s3:// and https:// |
//! | `outages` | each fault on a real mount: what read, write, fsync, ls and status did |
//! | `others` | servers that others made, as far as the script that runs all tests installed them |

#[path = "../common/mod.rs"]
mod common;
mod mounts;
mod others;
mod outages;
mod requests;
mod server;

//! Wiring and life cycle: what is joined to what, how a mount begins and ends, the control socket, status.

pub mod background;
pub mod control;
pub mod drive;
pub mod error;
pub mod follower;
pub mod http;
pub mod indexer;
mod kernel;
pub mod metrics;
pub mod mountpoint;
pub mod new_vault;
mod notify;
mod path_json;
mod private_dir;
pub mod reception;
pub mod rescue;
pub mod runtime_dir;
pub mod serve;
mod service;
pub mod state_dir;

pub use error::MountError;

/// Where environment variables come from: the process, or a test.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<std::ffi::OsString>;

/// The environment of this process; a variable that is set to nothing counts as not set.
pub fn environment(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

//! The program: shuts the door behind the secrets that it will hold, then hands the command line to [`dripfs::cli`].

use std::process::ExitCode;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

fn main() -> ExitCode {
    keep_memory_private();
    ExitCode::from(dripfs::cli::run(std::env::args_os()))
}

/// Keys and plaintext are in this process: no core file, and no debugger of the same user.
fn keep_memory_private() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let results = [set_dumpable_behavior(DumpableBehavior::NotDumpable), setrlimit(Resource::Core, none)];
    if let Some(e) = results.into_iter().find_map(Result::err) {
        eprintln!("dripfs: warning: memory cannot be kept out of core files: {e}");
    }
}

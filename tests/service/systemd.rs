//! The unit under a real systemd, where one can be PID 1 of a container; `life` has the same with a stand-in.

use std::path::Path;
use std::process::Command;

use super::common::{binary, is_root, run, skip};
use super::manager::vault;

#[test]
fn under_systemd_it_starts_drains_comes_again_after_a_kill_and_a_power_cut_and_says_what_stays() {
    if !is_root() {
        return skip("there is no container without root; a stand-in has to do");
    }
    let Some(vault) = vault() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/service/systemd.sh");
    let output = run(Command::new("bash").arg(script).arg(binary()).arg(vault.root()));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    match output.status.code() {
        Some(77) => skip("no systemd can be PID 1 of a container here; a stand-in has to do"),
        _ => assert!(output.status.success() && said.contains("DONE"), "{said}"),
    }
    // A part of it.
    for line in said.lines().filter_map(|line| line.strip_prefix("SKIPPED: ")) {
        skip(line);
    }
}

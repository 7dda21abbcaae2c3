//! fstab and mount(8). The machine's own tables are never touched: all of it runs in a mount namespace of its own.

use std::path::Path;
use std::process::Command;

use super::common::{binary, is_root, run, skip};
use super::manager::vault;

#[test]
fn fstab_works_through_the_real_mount_in_both_forms() {
    if !is_root() {
        return skip("a mount namespace is root's to make");
    }
    let Some(vault) = vault() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/service/fstab.sh");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "bash"]).arg(script).arg(binary()).arg(vault.root());
    let output = run(&mut command);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    match output.status.code() {
        Some(77) => skip("no overlay over /usr/sbin can be mounted here, so mount(8) would not find the helper"),
        _ => assert!(output.status.success() && said.contains("DONE"), "{said}"),
    }
}

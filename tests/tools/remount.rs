//! What was put on the drive is there after an unmount, on another machine too.

use crate::common::{Vault, is_gone, is_mounted, succeed, wait_until};
use crate::pair::{Times, shell, source};
use crate::tree::{Tree, differences};

fn fill(vault: &Vault) -> Tree {
    let script = format!(
        "mkdir tree && cp -a {}/. tree/ && rm -r tree/many/00 && mv tree/many/01 tree/many/00",
        source().display()
    );
    succeed(&mut shell(&vault.mountpoint(), &script));
    Tree::read(&vault.mountpoint().join("tree"))
}

fn same(before: &Tree, vault: &Vault) {
    let after = Tree::read(&vault.mountpoint().join("tree"));
    assert!(after.len() > 300);
    let differences = differences(before, &after, Times::Preserved);
    assert!(differences.is_empty(), "after (drive) and before (beside it) differ:\n{}", differences.join("\n"));
}

#[test]
fn the_tree_is_the_same_after_a_remount_here_and_elsewhere() {
    let Some(mut vault) = Vault::mounted() else { return };
    let before = fill(&vault);
    vault.umount();
    vault.mount();
    same(&before, &vault);
    vault.umount();
    vault.move_to_machine("another");
    vault.mount();
    same(&before, &vault);
}

#[test]
fn what_was_synced_survives_a_killed_daemon() {
    let Some(mut vault) = Vault::mounted() else { return };
    let before = fill(&vault);
    succeed(&mut shell(&vault.mountpoint(), "find tree -type f -exec sync {} + && sync tree"));
    vault.kill();
    vault.mount();
    same(&before, &vault);
}

#[test]
fn a_busy_drive_is_unmounted_and_its_last_writes_are_kept() {
    let Some(mut vault) = Vault::mounted() else { return };
    let mut writer =
        shell(&vault.mountpoint(), "exec 3> held; echo early >&3; sleep 1.5; echo late >&3").spawn().expect("sh");
    wait_until("the file is there", || vault.mountpoint().join("held").exists());
    let daemons = vault.daemons();
    vault.umount();
    assert!(!is_mounted(&vault.mountpoint()), "umount left the mount in the tree");
    assert!(writer.wait().expect("our child").success(), "the writer was cut off");
    wait_until("the daemon is gone", || daemons.iter().all(|&pid| is_gone(pid)));
    vault.mount();
    let held = std::fs::read_to_string(vault.mountpoint().join("held")).expect("the file");
    assert_eq!(held, "early\nlate\n");
}

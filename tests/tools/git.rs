//! git.

use crate::pair::{Pair, Times, need};

#[test]
fn git_works_and_its_objects_are_the_same() {
    let Some(pair) = Pair::new() else { return };
    need(&["git"]);
    pair.sh("git init -q -b main repo");
    for n in 0..5 {
        pair.sh(&format!(
            "cd repo; for f in $(seq 40); do echo \"round {n} file $f\" >> f$f; done; mkdir -p d{n}; cp f1 d{n}/;
             git add -A; git commit -qm 'round {n}'; git rev-parse HEAD"
        ));
    }
    pair.sh("cd repo; git status --porcelain; git mv f1 renamed; git commit -qm mv; git log --oneline --stat | cat");
    pair.sh("cd repo; git checkout -q -b side HEAD~2; echo x > side; git add side; git commit -qm side; git merge -q main -m merge; git rev-parse HEAD^{tree}");
    pair.sh("git clone -q --no-local repo clone; git -C clone fsck --strict 2>&1 | cat; git -C clone rev-parse HEAD");
    pair.sh("git clone -q repo hardlinked; git -C hardlinked status --porcelain");
    pair.sh("cd repo; git gc -q --prune=now; git fsck --full --strict 2>&1 | cat; git count-objects -v | grep -v size");
    pair.sh("cd repo; git stash list; echo dirty >> f2; git stash -q; git status --porcelain; git stash pop -q; git diff --stat");
    pair.sh("cd repo; git repack -adq; git reset -q --hard; git worktree add -q ../tree HEAD~1; git -C ../tree status --porcelain");
    // The index and the logs hold times and inode numbers; the files that users see are compared.
    pair.sh("rm -rf repo/.git clone/.git hardlinked/.git tree/.git");
    pair.compare(Times::Fresh);
}

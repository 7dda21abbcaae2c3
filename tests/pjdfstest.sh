#!/usr/bin/env bash
# The public POSIX suite pjdfstest (the Rust one), on a drive mounted in the default mode.
#
#     tests/pjdfstest.sh [DRIPFS [MOUNTPOINT_OF_ANOTHER_MOUNT]]
#
# Without a second argument it makes a vault and a mount of its own with DRIPFS (default: target/debug/dripfs), and
# removes both. With one it tests what is mounted there. Needs root (it becomes other users), cargo for the first run,
# and makes the users that the suite wants for its time if they are missing. Judged by the summary: the exit code says nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

VERSION=0.2.2
TOOLS=target/tools
DRIPFS=$(realpath "${1:-target/debug/dripfs}")

skip() {
    echo "SKIPPED: pjdfstest: $1" >&2
    if [ "${CI:-}" = true ]; then exit 1; fi
    exit 0
}
[ "$(id -u)" = 0 ] || skip "needs root, to become other users"
[ -c /dev/fuse ] || skip "/dev/fuse is missing"

if ! "$TOOLS/bin/pjdfstest" --version 2>/dev/null | grep -q "$VERSION"; then
    cargo install --quiet pjdfstest --version "$VERSION" --root "$TOOLS"
fi
MADE=()
for user in tests pjdfstest; do
    if ! id "$user" >/dev/null 2>&1; then
        useradd --system --user-group --no-create-home "$user"
        MADE+=("$user")
    fi
done
# Debian calls nobody's group nogroup; others call it nobody.
NOBODY=$(id -gn nobody)

WORK=$(mktemp -d)
chmod 755 "$WORK"
OWN=
finish() {
    if [ -n "$OWN" ]; then
        "$DRIPFS" umount "$OWN" >/dev/null 2>&1 || umount -l "$OWN" 2>/dev/null || true
    fi
    if [ -d "$WORK/other" ]; then umount "$WORK/other" 2>/dev/null || true; fi
    rm -rf --one-file-system "$WORK"
    for user in "${MADE[@]}"; do userdel "$user" 2>/dev/null || true; done
}
trap finish EXIT

if [ $# -ge 2 ]; then
    MOUNT=$2
else
    MOUNT=$WORK/mnt
    mkdir "$MOUNT" "$WORK/vault" "$WORK/home"
    (umask 077 && echo 'a passphrase for pjdfstest' > "$WORK/passphrase")
    HOME=$WORK/home "$DRIPFS" mount --init --background --state "$WORK/state" --passphrase-file "$WORK/passphrase" \
        --recovery-file "$WORK/recovery" -o allow_other "$WORK/vault" "$MOUNT"
    OWN=$MOUNT
fi
chmod 777 "$MOUNT"
# A second filesystem, for what must fail across two.
mkdir "$WORK/other"
mount -t tmpfs tmpfs "$WORK/other"
chmod 777 "$WORK/other"

cat > "$WORK/pjdfstest.toml" <<END
[features]
file_flags = []
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}

[settings]
naptime = 0.02
# mount -o remount would ask for a program dripfs in PATH (mount.fuse3): reading mounts have tests of their own.
allow_remount = false

[dummy_auth]
entries = [["nobody", "$NOBODY"], ["tests", "tests"], ["pjdfstest", "pjdfstest"]]
END

umask 022
OUTPUT=$WORK/output
RUST_BACKTRACE=0 "$TOOLS/bin/pjdfstest" -c "$WORK/pjdfstest.toml" -p "$MOUNT" -s "$WORK/other" > "$OUTPUT" 2>&1 || true

# One line a test: name and verdict; the line after it says why.
echo "Failed:"
sed 's/\x1b\[[0-9;]*m//g' "$OUTPUT" | grep -A1 'FAILED$' || echo "  nothing"
SUMMARY=$(sed 's/\x1b\[[0-9;]*m//g' "$OUTPUT" | grep -i 'summary' | tail -1)
if [ -z "$SUMMARY" ]; then
    tail -30 "$OUTPUT" >&2
    echo "pjdfstest ended without a summary" >&2
    exit 1
fi
echo "$SUMMARY"
if [ -n "${PJDFSTEST_OUTPUT:-}" ]; then cp "$OUTPUT" "$PJDFSTEST_OUTPUT"; fi
PASSED=$(echo "$SUMMARY" | grep -oE '[0-9]+ passed' | cut -d' ' -f1)
# A run that skipped nearly all would have no failures either.
echo "$SUMMARY" | grep -qE '\b0 failed' && [ "${PASSED:-0}" -ge 380 ]

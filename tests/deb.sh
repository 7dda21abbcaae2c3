#!/usr/bin/env bash
# The Debian package, installed, used and purged in a root of its own: tests/deb.sh BINARY. As root.
#
# The root is a directory with a dpkg of its own; the system's programs and libraries are lent to it, read-only.
set -euo pipefail
binary=$(realpath "$1")
cd "$(dirname "$0")/.."
work=$(realpath "$(mktemp -d -p "${CARGO_TARGET_DIR:-target}")")
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }

bash systemd/deb "$binary" "$work/dripfs.deb"
dpkg-deb --info "$work/dripfs.deb" | sed -n 's/^ *\(Package\|Version\|Installed-Size\):/\1:/p'
dpkg-deb --field "$work/dripfs.deb" Depends | grep -Eq '^libc6 \(>= 2\.[0-9]+\), libgcc-s1$' || fail "what it depends on"
dpkg-deb --contents "$work/dripfs.deb" | grep -q 'usr/sbin/mount.dripfs -> ../bin/dripfs' || fail "the link for mount(8)"

root=$work/root
mkdir -p "$root"/var/lib/dpkg/{info,updates,triggers} "$root"/etc "$root"/home/me "$root"/tmp
touch "$root/var/lib/dpkg/status" "$root/var/lib/dpkg/available"
files() { (cd "$root" && find . -path ./var/lib/dpkg -prune -o -path ./var/log -prune -o \( -type f -o -type l \) -print | sort); }
before=$(files)
dpkg --root="$root" --force-depends --force-script-chrootless --log="$work/log" -i "$work/dripfs.deb" >/dev/null 2>"$work/said" ||
  { cat "$work/said" >&2; fail "dpkg -i"; }
for there in usr/bin/dripfs usr/sbin/mount.dripfs lib/systemd/system/dripfs@.service usr/lib/systemd/user/dripfs@.service \
  usr/share/man/man1/dripfs.1.gz usr/share/man/man5/dripfs.toml.5.gz usr/share/man/man8/mount.dripfs.8.gz \
  usr/share/bash-completion/completions/dripfs; do
  [ -e "$root/$there" ] || fail "$there is not there"
done

# README's first command, as it is after the installation, by a user with an empty home.
echo "a passphrase" >"$work/passphrase" && chmod 600 "$work/passphrase"
run() { env -i HOME="$root/home/me" PATH=/usr/bin:/bin DRIPFS_PASSPHRASE_FILE="$work/passphrase" "$root/usr/bin/dripfs" "$@"; }
run mount --init --background --kdf-memory 64 --recovery-file "$root/home/me/recovery" \
  "$root/home/me/dripfs-vault" "$root/home/me/dripfs"
echo "some text" >"$root/home/me/dripfs/file"
run sync "$root/home/me/dripfs"
[ "$(cat "$root/home/me/dripfs/file")" = "some text" ] || fail "the drive"
run umount "$root/home/me/dripfs"
[ "$(env -i "$root/usr/sbin/mount.dripfs" --version)" = "$(run --version | sed 's/^dripfs/mount.dripfs/')" ] || fail "the helper"

dpkg --root="$root" --force-script-chrootless --log="$work/log" --purge dripfs >/dev/null 2>"$work/said" ||
  { cat "$work/said" >&2; fail "dpkg --purge"; }
echo "left behind by the purge:"
left=$(comm -13 <(echo "$before") <(files))
echo "$left" | sed 's,/[0-9a-f]\{32\}/,/<vault>/,; s,\(segments\|checkpoint\|header\|log\)/.*,\1/...,' | sort | uniq -c
others=$(echo "$left" | grep -v '^./home/me/\(dripfs-vault/\|recovery$\|.local/state/dripfs/\)' || true)
[ -z "$others" ] || fail "not the user's own: $others"
[ ! -e "$root/etc/dripfs" ] || fail "an empty /etc/dripfs stays"
echo "DONE"

#!/usr/bin/env bash
# fstab through the real mount(8), in a mount namespace of its own: fstab.sh BINARY ROOT. ROOT holds vault, passphrase,
# mnt and a directory for each thing below. Prints each command and what it said.
set -euo pipefail
binary=$1 root=$2
cd "$root"
fail() { echo "FAILED: $*" >&2; exit 1; }
try() { # try CODE COMMAND...: runs it and checks its exit code
  local want=$1 code=0
  shift
  echo "\$ $*"
  "$@" </dev/null || code=$?
  [ "$code" = "$want" ] || fail "$* ended with $code, not $want"
}
pids() { pgrep -f "dripfs .*serve-in-background $1\$" || true; }
gone() { for _ in $(seq 200); do [ -z "$(pids "$1")" ] && return; sleep 0.1; done; fail "still served: $1"; }

# The program in the place where mount(8) looks for helpers, seen in this namespace only.
mkdir -p sbin etc
cp "$binary" sbin/dripfs
ln -sf dripfs sbin/mount.dripfs
mount -t overlay overlay -o "lowerdir=$root/sbin:/usr/sbin" /usr/sbin || exit 77
[ -x /sbin/mount.dripfs ] || exit 77
mkdir -p etc/dripfs
mount -t overlay overlay -o "lowerdir=$root/etc:/etc" /etc || exit 77
mount -t tmpfs -o mode=755 tmpfs /var/lib
mkdir -p one two three
mount -t tmpfs -o mode=755 tmpfs /etc/dripfs
cat >/etc/dripfs/photos.toml <<TOML
url = "$root/vault"
passphrase-file = "$root/passphrase"
TOML
cat >fstab <<FSTAB
photos $root/one fuse.dripfs nofail,_netdev,x-systemd.automount,x-gvfs-show,noexec 0 0
dripfs#photos $root/two fuse ro,noauto,user,comment=x 0 0
photos $root/three dripfs noauto,nofail,relatime,ro 0 0
file://$root/nothing $root/three fuse.dripfs noauto,nofail 0 0
FSTAB
unset HOME DRIPFS_PASSPHRASE_FILE

try 0 mount -T "$root/fstab" -a
findmnt -no SOURCE,FSTYPE,OPTIONS one
[ "$(findmnt -no SOURCE one)" = photos ] || fail "the source is what fstab says"
for word in nodev nosuid noexec rw; do findmnt -no OPTIONS one | grep -qw $word || fail "not $word"; done
[ -d /var/lib/dripfs ] || fail "the state is in /var/lib"
echo "of one" >one/file
# Once more: it is mounted.
try 0 mount -T "$root/fstab" -a
[ "$(grep -c " $root/one " /proc/self/mountinfo)" = 1 ] || fail "mounted twice"
# Readers beside it: by mount.fuse3 in its old form, and by our own helper.
cat >/etc/dripfs/photos.toml <<TOML
url = "$root/vault"
passphrase-file = "$root/passphrase"
state = "$root/other"
TOML
dripfs sync one
try 0 mount -T "$root/fstab" "$root/two"
[ "$(cat two/file)" = "of one" ] || fail "two"
findmnt -no OPTIONS two | grep -qw ro || fail "ro"
if touch two/x 2>/dev/null; then fail "two is read-only"; fi
try 0 umount two
gone "$root/two"
try 0 mount -T "$root/fstab" photos "$root/three" -t dripfs -o ro
[ "$(cat three/file)" = "of one" ] || fail "three"
try 0 umount three
gone "$root/three"
# What fails has mount(8)'s code, and nofail makes none of it.
try 32 mount -t dripfs photos "$root/one/file"
try 32 mount -t fuse.dripfs "file://$root/nothing" "$root/three" -o "passphrase-file=$root/passphrase"
try 1 mount -t dripfs photos "$root/three" -o nonsense
try 0 mount.dripfs photos "$root/three" -f -n -v -o rw
try 0 umount one
gone "$root/one"
try 0 mount -T "$root/fstab" "$root/one"
[ "$(cat one/file)" = "of one" ] || fail "it is there again"
try 0 umount one
gone "$root/one"

# A user who is not root, for whom fstab says `user`.
if [ -u "$(command -v mount)" ] && [ -u "$(command -v fusermount3)" ] && [ -e /etc/fstab ]; then
  mkdir -p theirs/vault theirs/mnt theirs/state && cp passphrase theirs/
  chown -R 65534:65534 theirs
  chmod 755 "$root"
  echo "file://$root/theirs/vault $root/theirs/mnt fuse.dripfs noauto,user,state=$root/theirs/state,passphrase-file=$root/theirs/passphrase 0 0" >fstab
  mount --bind fstab /etc/fstab
  if [ "$(stat -c %a /dev/fuse)" != 666 ]; then
    # As udev makes it on any other machine.
    mkdir -p dev && mount -t tmpfs -o mode=755 tmpfs dev
    mknod -m 666 dev/fuse c 10 229 && mount --bind dev/fuse /dev/fuse
  fi
  as() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
  if as test -r "$root/theirs/passphrase"; then
    try 0 as dripfs init --kdf-memory 64 --state "$root/theirs/state" --recovery-file "$root/theirs/recovery" \
      --passphrase-file "$root/theirs/passphrase" "$root/theirs/vault"
    try 0 as mount "$root/theirs/mnt"
    try 0 as sh -c "echo theirs >'$root/theirs/mnt/file' && cat '$root/theirs/mnt/file'"
    try 0 as fusermount3 -u "$root/theirs/mnt"
    gone "$root/theirs/mnt"
  else
    echo "SKIPPED: user 65534 cannot reach $root"
  fi
fi
echo DONE

#!/usr/bin/env bash
# The unit under a real systemd, as PID 1 of a container of its own: systemd.sh BINARY ROOT. ROOT holds a vault and its
# passphrase. Exit code 77: no systemd can be run here. Prints each command and what it said.
set -euo pipefail
binary=$1 root=$2
source=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
fail() { echo "FAILED: $*" >&2; tail -n 20 log >&2 || true; exit 1; }
[ -x /lib/systemd/systemd ] || exit 77

mkdir -p bin etc/dripfs etc/systemd etc/init.d etc/credstore.encrypted etc/rc{0,1,2,3,4,5,6,S}.d varlib/dripfs drive
cp "$binary" bin/dripfs
cat >etc/dripfs/photos.toml <<TOML
url = "$root/vault"
directory = "$root/drive"
upload-limit = "4M"
TOML
cat >etc/dripfs/auto.toml <<TOML
url = "$root/vault"
passphrase-file = "$root/passphrase"
TOML
cat >boot.sh <<BOOT
set -e
cd "$root"
# Within this namespace, as systemd has it on a machine: credentials are mounted so.
mount --make-rshared /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount --bind varlib /var/lib
mount -t overlay overlay -o "lowerdir=$root/bin:/usr/bin" /usr/bin
mount -t overlay overlay -o "lowerdir=$root/etc:/etc" /etc
# Nothing of the machine is started, only what is tested.
for d in /etc/systemd /etc/init.d /etc/rc?.d /usr/lib/systemd/system /usr/lib/systemd/system-generators; do
  mount -t tmpfs -o mode=755 tmpfs \$d
done
mkdir /etc/systemd/system
mount --bind etc/credstore.encrypted /etc/credstore.encrypted
umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for target in sysinit basic network-online remote-fs multi-user shutdown umount final paths sockets timers; do
  printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' \$target >/usr/lib/systemd/system/\$target.target
done
cp "$source/systemd/dripfs@.service" /usr/lib/systemd/system/
# There is no journal here.
mkdir /etc/systemd/system/dripfs@.service.d
printf '[Service]\nStandardError=append:$root/log\n' >/etc/systemd/system/dripfs@.service.d/log.conf
exec env -i container=test PATH=/usr/sbin:/usr/bin /lib/systemd/systemd --system --unit=multi-user.target \
  --log-target=null --show-status=0
BOOT
init=
boot() {
  unshare --mount --pid --fork --mount-proc --uts --ipc --cgroup --propagation private --kill-child bash boot.sh >boot.log 2>&1 &
  outer=$!
  for _ in $(seq 100); do
    init=$(pgrep -P $outer -x systemd || true)
    [ -n "$init" ] && inside systemctl list-units >/dev/null 2>&1 && return
    sleep 0.1
  done
  cat boot.log >&2
  exit 77
}
# As power fails.
cut_power() { kill -KILL "$init"; wait "$outer" 2>/dev/null || true; }
trap '[ -z "$init" ] || kill -KILL "$init" 2>/dev/null || true' EXIT
inside() { nsenter -t "$init" -m -p -- "$@"; }
try() { echo "\$ $*"; inside "$@" || fail "$*: $?"; }
show() { inside systemctl show -P "$1" dripfs@photos; }
until_is() { for _ in $(seq 300); do [ "$(show "$1")" = "$2" ] && return; sleep 0.1; done; fail "$1 is $(show "$1"), not $2"; }

boot
inside systemd-creds --with-key=host --name=passphrase encrypt "$root/passphrase" \
  /etc/credstore.encrypted/dripfs-photos.passphrase 2>/dev/null
try systemctl start dripfs@photos
inside findmnt -no SOURCE,FSTYPE "$root/drive"
[ "$(show Result)/$(show ActiveState)" = success/active ] || fail "not active"
show StatusText | grep -q '^ready: serving' || { sleep 3; show StatusText | grep -q '^ready: serving' || fail "$(show StatusText)"; }

# Stopped in the middle of an upload.
inside dd if=/dev/urandom of="$root/drive/large" bs=1M count=16 status=none
sum=$(inside sha256sum "$root/drive/large" | cut -d' ' -f1)
sleep 2.5
echo "\$ systemctl status dripfs@photos"
inside systemctl status --no-pager dripfs@photos | sed -n 's/^ *\(Active\|Status\|Main PID\): /\1: /p'
show StatusText | grep -Eq 'pending: 1 files, [1-9]' || fail "what is pending: $(show StatusText)"
try systemctl stop dripfs@photos
[ "$(show Result)/$(show ActiveState)/$(show ExecMainStatus)" = success/inactive/0 ] || fail "the stop: $(show Result)"
inside findmnt "$root/drive" >/dev/null && fail "still mounted"

# An automount, as x-systemd.automount in fstab makes one: whoever comes by has it mounted.
if [ -e /dev/autofs ]; then
  mkdir -p auto
  unit=$(systemd-escape --path "$root/auto")
  printf '[Unit]\nDefaultDependencies=no\n[Automount]\nWhere=%s\n' "$root/auto" |
    inside tee "/etc/systemd/system/$unit.automount" >/dev/null
  printf '[Unit]\nDefaultDependencies=no\n[Mount]\nWhat=auto\nWhere=%s\nType=fuse.dripfs\nOptions=%s\nTimeoutSec=20\n' \
    "$root/auto" nofail,_netdev,allow_other | inside tee "/etc/systemd/system/$unit.mount" >/dev/null
  try systemctl daemon-reload
  try systemctl start "$unit.automount"
  [ "$(inside findmnt -no FSTYPE "$root/auto")" = autofs ] || fail "mounted before anybody came by"
  [ "$(inside sha256sum "$root/auto/large" | cut -d' ' -f1)" = "$sum" ] || fail "large, automounted"
  try systemctl stop "$unit.automount" "$unit.mount"
  inside findmnt "$root/auto" >/dev/null && fail "still automounted"
else
  echo "SKIPPED: no /dev/autofs, so no automount"
fi

# Killed: it is cleared and comes again by itself, with all that was there.
try systemctl start dripfs@photos
inside bash -c "echo kept >'$root/drive/kept'; sync '$root/drive/kept'"
before=$(show MainPID)
try systemctl kill -s KILL dripfs@photos
until_is NRestarts 1
until_is ActiveState active
[ "$(show MainPID)" != "$before" ] || fail "not another process"
[ "$(inside cat "$root/drive/kept")" = kept ] || fail "kept"
try systemctl reload dripfs@photos

# Power fails, and comes again.
inside bash -c "echo later >'$root/drive/later'; sync '$root/drive/later'"
cut_power
boot
try systemctl start dripfs@photos
[ "$(inside cat "$root/drive/later")" = later ] || fail "later"
[ "$(inside sha256sum "$root/drive/large" | cut -d' ' -f1)" = "$sum" ] || fail "large"

# The store is gone: what stays here makes the unit fail, and is not tried again and again.
mv vault away
inside bash -c "echo last >'$root/drive/last'"
for _ in $(seq 300); do show StatusText | grep -q '^outage' && break; sleep 0.1; done
show StatusText
inside systemctl stop --no-block dripfs@photos
until_is ActiveState deactivating
inside systemctl kill -s INT dripfs@photos
until_is ActiveState failed
[ "$(show ExecMainStatus)" = 14 ] || fail "ended with $(show ExecMainStatus)"
mv away vault
try systemctl start dripfs@photos
[ "$(inside cat "$root/drive/last")" = last ] || fail "last"
try systemctl stop dripfs@photos
[ "$(show ActiveState)" = inactive ] || fail "$(show ActiveState)"
echo DONE

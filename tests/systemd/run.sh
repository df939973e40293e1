#!/usr/bin/env bash
# The unit of conf/systemd under a systemd that runs: `make systemd-proof`, or run.sh BINARY, as root.
#
# Debian is put into a folder, target/systemd-root, and started there as a container with a network of its
# own. inside.sh is what is done in it. Its last line is the result.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
binary=$(realpath "${1:?run.sh BINARY}")
project=$(realpath "$here/../..")
root=$project/target/systemd-root

[ "$(id -u)" = 0 ] || { echo 'This starts a container, which only root may.' >&2; exit 1; }
if ! [ -e "$root/ready" ]; then
    rm -rf "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,python3 stable "$root" >"$root.log" || {
        tail -n 20 "$root.log" >&2
        exit 1
    }
    touch "$root/ready"
fi

install -m 755 "$binary" "$root/usr/local/bin/pingora-lb"
install -m 644 "$project/conf/systemd/pingora-lb.service" "$root/etc/systemd/system/pingora-lb.service"
install -m 644 "$here/proof.service" "$root/etc/systemd/system/proof.service"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -sf ../proof.service "$root/etc/systemd/system/multi-user.target.wants/proof.service"
rm -rf "$root/proof" "$root/etc/pingora-lb" "$root/var/log/pingora-lb"
mkdir -p "$root/proof"
install -m 755 "$here/inside.sh" "$here/clients.py" "$here/../until_true.sh" "$root/proof/"

# It turns itself off. What is said on its console tells why, should it not get that far.
timeout 300 systemd-nspawn --quiet --register=no --keep-unit --private-network -D "$root" --boot \
    </dev/null >"$root/console.log" 2>&1 || true
cat "$root/proof/result" 2>/dev/null || { tail -n 30 "$root/console.log" >&2; exit 1; }
tail -n 1 "$root/proof/result" | grep -q '^all of it holds' || {
    tail -n 60 "$root/proof/journal" >&2 || true
    exit 1
}

#!/usr/bin/env bash
# Runs in the container. The first thing that is not as it should be ends it, with what was seen.
set -euo pipefail

unit=pingora-lb
conf=/etc/pingora-lb/lb.yaml
trap 'journalctl --no-pager -o cat -u $unit >/proof/journal 2>&1' EXIT

fail() {
    echo "FAILED: $*"
    exit 1
}
main_pid() { systemctl show -P MainPID $unit; }
said() { journalctl --no-pager -o cat -u $unit | grep -c -- "$1" || true; }
. /proof/until_true.sh
is_other() { [ "$(main_pid)" != "$1" ]; }
is_gone() { ! [ -e "/proc/$1" ]; }

id pingora-lb >/dev/null 2>&1 ||
    useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin pingora-lb
for number in 1 2; do
    systemd-run --quiet --unit "backend-$number" /usr/local/bin/pingora-lb backend --port "900$number" --name "app-$number"
done
mkdir -p /etc/pingora-lb
cat >$conf <<'YAML'
listeners:
  web: { address: "0.0.0.0:80" }
pools:
  app:
    backends: [ "127.0.0.1:9001", "127.0.0.1:9002" ]
    health_check: { http: { path: /health }, interval: 1s }
access_log: { path: /var/log/pingora-lb/access.log }
YAML

systemctl daemon-reload
systemctl start $unit || fail "it does not start"
# Type=notify: it has said that it is ready, so it serves at once.
/proof/clients.py once || fail "it does not serve"
pid=$(main_pid)
[ "$(stat -c %U "/proc/$pid")" = pingora-lb ] || fail "it runs as $(stat -c %U "/proc/$pid")"
rights=$(sed -n 's/^CapEff:\s*//p' "/proc/$pid/status")
[ "$((16#$rights))" = $((1 << 10)) ] || fail "it has the rights $rights, not only that to bind port 80"
echo "started, as its user, on port 80"

/proof/clients.py until /run/stop >/proof/clients 2>&1 &
clients=$!
until_true "the clients do not get through" grep -q ready /proof/clients

for turn in $(seq 10); do
    before=$(main_pid)
    # Something that only a hand-over can change.
    sed -i "s/^server:.*//; \$a server: { threads: $((turn % 2 + 1)) }" $conf
    systemctl reload $unit || fail "hand-over $turn: reload says no"
    until_true "hand-over $turn: the main process is the same" is_other "$before"
    until_true "hand-over $turn: the one before does not go" is_gone "$before"
    [ "$(systemctl is-active $unit)" = active ] || fail "hand-over $turn: $(systemctl is-active $unit)"
done
echo "10 times systemctl reload, each with another process"

pid=$(main_pid) before=$(said '^.*reloaded: pool app')
sed -i 's/interval: 1s/interval: 2s/' $conf
systemctl kill -s HUP --kill-whom=main $unit
reloaded() { [ "$(said 'reloaded: pool app')" -gt "$before" ]; }
until_true "HUP does not reload" reloaded
[ "$(main_pid)" = "$pid" ] || fail "HUP changed the process"
echo "HUP reloads in the process that there is"

cp $conf $conf.good
echo "pols: {}" >>$conf
! systemctl reload $unit 2>/dev/null || fail "a file with a mistake is taken"
[ "$(main_pid)" = "$pid" ] || fail "a file with a mistake changed the process"
[ "$(systemctl is-active $unit)" = active ] || fail "a file with a mistake ended the service"
mv $conf.good $conf
echo "a file with a mistake fails systemctl reload, and changes nothing"

touch /run/stop
wait $clients || fail "clients noticed: $(tail -n 3 /proof/clients)"
tail -n 1 /proof/clients

systemctl kill -s KILL --kill-whom=main $unit
until_true "it is not started again" is_other "$pid"
until_true "it does not serve again" /proof/clients.py once
echo "started again after KILL"

pid=$(main_pid)
systemctl stop $unit || fail "it does not stop"
is_gone "$pid" || fail "it is still there"
[ "$(systemctl show -P Result $unit)" = success ] || fail "it ended with $(systemctl show -P Result $unit)"
[ -s /var/log/pingora-lb/access.log ] || fail "there is no access log"
echo "stopped in order, with $(wc -l </var/log/pingora-lb/access.log) lines in the access log"
echo "all of it holds, with $(systemctl --version | head -n 1)"

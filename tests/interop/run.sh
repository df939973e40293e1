#!/usr/bin/env bash
# Clients that others have written, through the binary: `make interop`, or run.sh BINARY.
#
# Each check asserts on what came back. The first that fails ends the run, with what it got and with the
# end of the balancer's log. What is needed of Debian's packages is installed where that may be done
# without a password, and named elsewhere; Python packages go to a folder of their own.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
binary=$(realpath "${1:?run.sh BINARY}")
# How long a WebSocket is silent, in seconds: longer than each of the times that the configuration sets.
idle=${IDLE_SECONDS:-3}

install_missing() {
    local missing=() root=none
    command -v curl >/dev/null || missing+=(curl)
    command -v openssl >/dev/null || missing+=(openssl)
    command -v nghttp >/dev/null && command -v h2load >/dev/null || missing+=(nghttp2-client)
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" = 0 ]; then root=; elif sudo -n true 2>/dev/null; then root=sudo; fi
    if ! command -v apt-get >/dev/null || [ "$root" = none ]; then
        echo "Missing: ${missing[*]}. Install them first; on Debian and Ubuntu:" >&2
        echo "  sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
    echo "Installing ${missing[*]}"
    $root apt-get update -q
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" </dev/null
}

install_missing
venv=${INTEROP_VENV:-$here/../../target/interop-python}
if ! [ -e "$venv/ready" ] || [ "$here/requirements.txt" -nt "$venv/ready" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -r "$here/requirements.txt" || {
        echo "The Python packages in $here/requirements.txt could not be installed." >&2
        exit 1
    }
    touch "$venv/ready"
fi

work=$(mktemp -d)
started=()
stop() {
    [ ${#started[@]} = 0 ] || kill "${started[@]}" 2>/dev/null || true
    wait || true
    rm -rf "$work"
}
trap stop EXIT
cd "$work"

fail() {
    echo "FAILED: $1" >&2
    [ ! -e got ] || { echo "--- what it got" >&2; tail -c 4000 got >&2; }
    echo "--- the balancer's log" >&2
    tail -n 30 lb.log >&2 || true
    exit 1
}

. "$here/../until_true.sh"

# check NAME PATTERN... -- COMMAND...: the command succeeds, and says something that matches each pattern.
# refused NAME PATTERN... -- COMMAND...: it fails, and says that.
check() { judge 0 "$@"; }
refused() { judge 1 "$@"; }
judge() {
    local failing=$1 name=$2 patterns=() status=0 pattern
    shift 2
    while [ "$1" != -- ]; do patterns+=("$1"); shift; done
    shift
    timeout 60 "$@" >got 2>&1 </dev/null || status=$?
    [ $status != 124 ] || fail "$name: no end within 60 s"
    [ $((status != 0)) = "$failing" ] || fail "$name: exit status $status"
    for pattern in "${patterns[@]}"; do
        grep -Eqia -- "$pattern" got || fail "$name: nothing like \"$pattern\""
    done
    echo "ok  $name"
}

# same NAME FILE -- COMMAND...: the command's output is the file.
same() {
    local name=$1 file=$2
    shift 3
    timeout 60 "$@" >body 2>got </dev/null || fail "$name: exit status $?"
    cmp -s body "$file" || fail "$name: $(stat -c %s body) bytes that are not the $(stat -c %s "$file") expected"
    echo "ok  $name"
}

certificate() { # NAME SIGNER SUBJECT EXTENSIONS
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -out "$1.csr" -subj "$3" 2>/dev/null
    printf '%s\n' "$4" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -CAcreateserial -days 2 -extfile "$1.ext" -out "$1.pem" 2>/dev/null
}
authority() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -out "$1.pem" -days 2 -subj "/CN=$1" 2>/dev/null
}
authority ca
authority people
certificate a ca /CN=a.example 'subjectAltName=DNS:a.example,DNS:localhost,IP:127.0.0.1'
certificate b ca /CN=b.example 'subjectAltName=DNS:b.example'
certificate person people /CN=person 'extendedKeyUsage=clientAuth'

read -r app ws web slow tls mtls proxied tcp tcp_tls chain passed < <(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(11)]
print(*(it.getsockname()[1] for it in held))')

# HTTP/2 inside TLS, where the binary has it.
h2_tls=$("$binary" schema | python3 -c '
import json, sys
listener = json.load(sys.stdin)["properties"]["listeners"]["additionalProperties"]
print("yes" if "\"h2\"" in json.dumps(listener["properties"]["tls"]["properties"]["alpn"]) else "no")')

certificates='[{ cert: a.pem, key: a.key }, { cert: b.pem, key: b.key }]'
cat >lb.yaml <<YAML
server: { pid_file: lb.pid, upgrade_sock: lb.sock }
listeners:
  web: { address: "127.0.0.1:$web", h2c: true }
  quick:
    address: "127.0.0.1:$slow"
    timeouts: { header: 1s, body_idle: 1s, keepalive: 1s, write: 1s }
  local: { address: "unix:web.sock" }
  tls:
    address: "127.0.0.1:$tls"
    tls: { certificates: $certificates }
  mtls:
    address: "127.0.0.1:$mtls"
    tls: { certificates: $certificates, client_ca: people.pem }
  proxied: { address: "127.0.0.1:$proxied", proxy_protocol: require }
  tcp: { address: "127.0.0.1:$tcp", protocol: tcp, pool: app }
  tcp_tls:
    address: "127.0.0.1:$tcp_tls"
    protocol: tcp
    pool: app
    tls: { certificates: $certificates }
  chain: { address: "127.0.0.1:$chain", protocol: tcp, pool: over_tls }
  passed: { address: "127.0.0.1:$passed", protocol: tcp, sni: { a.example: passed, b.example: passed } }
routes:
  - { match: { path_prefix: /ws }, pool: ws }
  - { pool: app }
pools:
  app: { backends: [{ address: "127.0.0.1:$app", name: app-1 }] }
  ws:
    backends: ["127.0.0.1:$ws"]
    timeouts: { read: 1s, write: 1s, idle: 1s }
  over_tls:
    backends: ["127.0.0.1:$tls"]
    tls: { ca: ca.pem, sni: a.example }
    health_check: off
  passed: { backends: ["127.0.0.1:$tls"] }
YAML

"$binary" backend --port "$app" --name app-1 >backend.log 2>&1 &
started+=($!)
"$venv/bin/python" "$here/websocket_server.py" "$ws" >ws.log 2>&1 &
started+=($!)
until_true "the WebSocket server listens" grep -q listening ws.log
until_true "the backend listens" curl -sf "http://127.0.0.1:$app/"
"$binary" -c lb.yaml >lb.log 2>&1 &
started+=($!)
until_true "the balancer serves" curl -sf "http://127.0.0.1:$web/"

python3 -c 'import sys; sys.stdout.buffer.write(bytes(i * 7 % 251 for i in range(1 << 20)))' >big
head -c 10000000 /dev/zero | tr '\0' x >filler
hello='Hello from app-1: /page'
curl=(curl -sS -m 50)

echo "HTTP/1.1, $(curl --version | head -n 1 | cut -d' ' -f1-2)"
check "a page" "HTTP/1.1 200" "x-backend-server: app-1" "$hello" -- \
    "${curl[@]}" -i --http1.1 "http://127.0.0.1:$web/page"
check "two requests on one connection" "Re-using existing connection" -- \
    "${curl[@]}" -v --http1.1 "http://127.0.0.1:$web/1" "http://127.0.0.1:$web/2"
same "1 MiB there and back" big -- "${curl[@]}" --data-binary @big "http://127.0.0.1:$web/echo"
same "1 MiB there and back, chunked and with Expect" big -- \
    "${curl[@]}" -H 'Transfer-Encoding: chunked' -H 'Expect: 100-continue' --data-binary @big "http://127.0.0.1:$web/echo"
same "10 MB down" filler -- "${curl[@]}" "http://127.0.0.1:$web/bytes?n=10000000"
check "a head alone" "HTTP/1.1 200" -- "${curl[@]}" -I "http://127.0.0.1:$web/page"
check "a status of the backend's" "HTTP/1.1 418" -- "${curl[@]}" -i "http://127.0.0.1:$web/status/418"
check "a unix socket" "HTTP/1.1 200" "$hello" -- "${curl[@]}" -i --unix-socket web.sock http://a.example/page

echo "HTTP/2 by prior knowledge"
check "curl" "HTTP/2 200" "$hello" -- "${curl[@]}" -i --http2-prior-knowledge "http://127.0.0.1:$web/page"
same "curl, 1 MiB there and back" big -- \
    "${curl[@]}" --http2-prior-knowledge --data-binary @big "http://127.0.0.1:$web/echo"
same "curl, 10 MB down" filler -- "${curl[@]}" --http2-prior-knowledge "http://127.0.0.1:$web/bytes?n=10000000"
check "nghttp" ":status: 200" "$hello" -- nghttp -v "http://127.0.0.1:$web/page"
same "nghttp, 1 MiB there and back" big -- nghttp -d big "http://127.0.0.1:$web/echo"
check "h2load, 2000 requests on 10 connections" \
    "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout" "2000 2xx" -- \
    h2load -n 2000 -c 10 -m 20 "http://127.0.0.1:$web/page"

echo "TLS, $(openssl version | cut -d' ' -f1-2)"
resolve=(--cacert ca.pem --resolve "a.example:$tls:127.0.0.1" --resolve "b.example:$tls:127.0.0.1" --resolve "c.example:$tls:127.0.0.1")
check "curl, HTTP/1.1" "HTTP/1.1 200" "$hello" -- "${curl[@]}" -i --http1.1 "${resolve[@]}" "https://a.example:$tls/page"
check "curl, another name" "subject: CN=b.example" "$hello" -- "${curl[@]}" -v --http1.1 "${resolve[@]}" "https://b.example:$tls/page"
refused "curl, a name without a certificate" "no alternative certificate subject name matches" -- \
    "${curl[@]}" --http1.1 "${resolve[@]}" "https://c.example:$tls/page"
same "curl, 1 MiB there and back" big -- \
    "${curl[@]}" --http1.1 "${resolve[@]}" --data-binary @big "https://a.example:$tls/echo"

# s_client PORT ARGUMENTS...: asks for a page and says all that it sees.
s_client() {
    printf 'GET /page HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n' |
        openssl s_client -connect "127.0.0.1:$1" -CAfile ca.pem -ign_eof "${@:2}"
}
export -f s_client
asks=(bash -c 's_client "$@"' s_client)
for version in 1.2 1.3; do
    check "s_client, TLS $version" "New, TLSv$version, Cipher is" "Verify return code: 0" "$hello" -- \
        "${asks[@]}" "$tls" -servername a.example -verify_return_error "-tls${version/./_}"
done
refused "s_client, TLS 1.1" "alert (protocol version|handshake failure)" -- \
    "${asks[@]}" "$tls" -servername a.example -tls1_1 -cipher DEFAULT:@SECLEVEL=0
check "s_client, SNI of the second certificate" "subject=CN = b.example" "$hello" -- "${asks[@]}" "$tls" -servername b.example
check "s_client, wrong SNI" "subject=CN = a.example" "$hello" -- "${asks[@]}" "$tls" -servername wrong.example
check "s_client, no SNI" "subject=CN = a.example" "$hello" -- "${asks[@]}" "$tls" -noservername
for version in 1.2 1.3; do
    refused "s_client, required certificate missing, TLS $version" "alert certificate required" -- \
        "${asks[@]}" "$mtls" -servername a.example "-tls${version/./_}"
    check "s_client, required certificate shown, TLS $version" "$hello" -- \
        "${asks[@]}" "$mtls" -servername a.example "-tls${version/./_}" -cert person.pem -key person.key
done
check "the backend learns of it" '"x-client-cert-subject": "CN=person"' -- \
    "${curl[@]}" --http1.1 --cacert ca.pem --cert person.pem --key person.key "https://localhost:$mtls/headers"

if [ "$h2_tls" = yes ]; then
    echo "HTTP/2 inside TLS"
    check "curl" "ALPN: server accepted h2|ALPN, server accepted to use h2" "HTTP/2 200" "$hello" -- \
        "${curl[@]}" -v -i --http2 "${resolve[@]}" "https://a.example:$tls/page"
    same "curl, 1 MiB there and back" big -- \
        "${curl[@]}" --http2 "${resolve[@]}" --data-binary @big "https://a.example:$tls/echo"
    check "nghttp" "negotiated protocol: h2" ":status: 200" "$hello" -- nghttp -v "https://localhost:$tls/page"
    check "h2load" "Application protocol: h2" "2000 succeeded, 0 failed, 0 errored" "2000 2xx" -- \
        h2load -n 2000 -c 10 -m 20 "https://localhost:$tls/page"
    check "s_client, both offered" "ALPN protocol: h2" -- \
        bash -c "openssl s_client -connect 127.0.0.1:$tls -servername a.example -alpn h2,http/1.1 </dev/null"
    check "s_client, HTTP/1.1 alone" "ALPN protocol: http/1.1" "$hello" -- \
        "${asks[@]}" "$tls" -servername a.example -alpn http/1.1
else
    echo "HTTP/2 inside TLS: this binary does not speak it"
fi

echo "The PROXY protocol"
check "curl" "$hello" -- "${curl[@]}" --haproxy-protocol "http://127.0.0.1:$proxied/page"
refused "curl, without a header" "empty reply|reset by peer" -- "${curl[@]}" "http://127.0.0.1:$proxied/page"
claim() {
    exec 3<>"/dev/tcp/127.0.0.1/$1"
    printf 'PROXY TCP4 203.0.113.9 192.0.2.80 4711 80\r\nGET /headers HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n' >&3
    cat <&3
}
export -f claim
check "the address in it reaches the backend" '"x-forwarded-for": "203.0.113.9"' -- bash -c 'claim "$@"' claim "$proxied"

echo "WebSocket, $("$venv/bin/pip" freeze --disable-pip-version-check | grep -i '^websockets')"
for uri in "ws://127.0.0.1:$web/ws" "ws://127.0.0.1:$slow/ws" "wss://localhost:$tls/ws"; do
    check "echo, pings and silence on $uri" "echoed after $idle s of silence, closed with 1000" -- \
        env SSL_CERT_FILE=ca.pem "$venv/bin/python" "$here/websocket_client.py" "$uri" "$idle"
done

echo "Connections that are passed on"
check "TCP" "HTTP/1.1 200" "$hello" -- "${curl[@]}" -i "http://127.0.0.1:$tcp/page"
! grep -qi x-backend-server got || fail "TCP: the response was changed on its way"
same "TCP, 10 MB down" filler -- "${curl[@]}" "http://127.0.0.1:$tcp/bytes?n=10000000"
check "TLS taken off" "SSL certificate verify ok" "HTTP/1.1 200" "$hello" -- \
    "${curl[@]}" -v -i --cacert ca.pem "https://localhost:$tcp_tls/page"
! grep -qi x-backend-server got || fail "TLS taken off: the response was changed on its way"
same "TLS taken off, 1 MiB there and back" big -- \
    "${curl[@]}" --cacert ca.pem --data-binary @big "https://localhost:$tcp_tls/echo"
check "TLS taken off, s_client" "New, TLSv1.3, Cipher is" "Verify return code: 0" "$hello" "closed" -- \
    "${asks[@]}" "$tcp_tls" -servername a.example -verify_return_error
check "TLS put on" "x-backend-server: app-1" "$hello" -- "${curl[@]}" -i "http://127.0.0.1:$chain/page"
through=(--cacert ca.pem --resolve "a.example:$passed:127.0.0.1" --resolve "c.example:$passed:127.0.0.1")
check "TLS passed on by its name" "subject: CN=a.example" "HTTP/2 200" "$hello" -- \
    "${curl[@]}" -v -i --http2 "${through[@]}" "https://a.example:$passed/page"
same "TLS passed on, 1 MiB there and back" big -- \
    "${curl[@]}" "${through[@]}" --data-binary @big "https://a.example:$passed/echo"
check "TLS passed on, s_client" "New, TLSv1.3, Cipher is" "subject=CN = b.example" "Verify return code: 0" "$hello" -- \
    "${asks[@]}" "$passed" -servername b.example -verify_return_error
refused "TLS with a name that nobody has" "SSL_ERROR_SYSCALL|unexpected eof|reset by peer" -- \
    "${curl[@]}" "${through[@]}" "https://c.example:$passed/page"

echo gRPC
PYTHON="$venv/bin/python" "$here/grpc.sh" "$binary" || fail "grpc.sh"
echo "All of them work."

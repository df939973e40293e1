"""Calls of every kind through the balancer: grpc_client.py BINARY. Exits non-zero when something is wrong."""

import collections
import json
import pathlib
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time

import grpc

from grpc_server import CERTS, NOT_SERVING, SERVING

HERE = pathlib.Path(__file__).parent
SOON = 15
CONFIG = """
server: {{ upgrade_sock: upgrade.sock, pid_file: lb.pid }}
listeners:
  clear: {{ address: "127.0.0.1:0", h2c: true }}
  tls:
    address: "127.0.0.1:0"
    tls: {{ certificates: [{{ cert: {certs}/example.pem, key: {certs}/example.key }}] }}
routes:
  - {{ match: {{ path: /test.Echo/SleepBriefly }}, listeners: [clear], pool: clear, timeout: 500ms }}
  - {{ match: {{ path: /test.Echo/SleepBriefly }}, listeners: [tls], pool: tls, timeout: 500ms }}
  - {{ match: {{ path_prefix: /test.Down }}, pool: down }}
  - {{ match: {{ path_prefix: /test.Echo }}, listeners: [clear], pool: clear }}
  - {{ match: {{ path_prefix: /test.Echo }}, listeners: [tls], pool: tls }}
pools:
  clear:
    backends: [{clear}]
    protocol: http2
    health_check: {{ grpc: {{}}, interval: 100ms, rise: 1, fall: 1 }}
  tls:
    backends: [{tls}]
    protocol: auto
    tls: {{ ca: {certs}/internal-ca.pem, sni: example.com }}
    health_check: {{ grpc: {{ service: test.Echo }}, interval: 100ms, rise: 1, fall: 1 }}
  down: {{ backends: [127.0.0.1:1], protocol: http2, health_check: off }}
"""


def check(truth, what):
    if not truth:
        raise AssertionError(what)


def eventually(what, condition):
    until = time.monotonic() + SOON
    while not condition():
        check(time.monotonic() < until, f"not within {SOON} s: {what}")
        time.sleep(0.02)


class Calls:
    """The methods of the service on one channel."""

    def __init__(self, channel):
        self.channel = channel

    def unary(self, name, request=b"", timeout=SOON, service="test.Echo", metadata=()):
        method = self.channel.unary_unary(f"/{service}/{name}")
        return method.with_call(request, timeout=timeout, metadata=metadata)

    def failure(self, name, **more):
        try:
            self.unary(name, **more)
        except grpc.RpcError as error:
            return error
        raise AssertionError(f"{name} succeeds")

    def backends(self, count):
        return collections.Counter(told(self.unary("Unary")[1])["backend"] for _ in range(count))


def told(call):
    return dict(call.trailing_metadata())


def unary(calls, _):
    for size in (0, 1, 100_000):
        body = b"x" * size
        metadata = (("echo", "a value"), ("echo-bin", bytes(range(256))))
        answer, call = calls.unary("Unary", body, metadata=metadata)
        check(answer == body, f"{size} bytes come back")
        check(call.code() == grpc.StatusCode.OK, "the call is good")
        check(told(call)["echo"] == "a value", told(call))
        check(told(call)["echo-bin"] == bytes(range(256)), told(call))


def balanced(calls, _):
    counts = calls.backends(40)
    check(sorted(counts.values()) == [10] * 4, f"one connection, four backends: {counts}")


def streams(calls, _):
    method = calls.channel.unary_stream("/test.Echo/ServerStream")
    numbers = [int(number) for number in method(b"1000", timeout=SOON)]
    check(numbers == list(range(1000)), "a thousand messages from the server, in order")
    method = calls.channel.stream_unary("/test.Echo/ClientStream")
    total = method((b"x" * 1000 for _ in range(1000)), timeout=SOON)
    check(total == b"1000000", f"a thousand messages from the client: {total}")


def both_ways(calls, _):
    said = queue.SimpleQueue()
    answers = calls.channel.stream_stream("/test.Echo/Bidi")(iter(said.get, None), timeout=SOON)
    for number in range(100):
        said.put(f"round {number}".encode())
        check(next(answers) == f"ROUND {number}".encode(), "each answer before the next question")
    said.put(None)
    check(list(answers) == [], "both sides are done")
    check(answers.code() == grpc.StatusCode.OK, "and the call is good")


def statuses(calls, _):
    error = calls.failure("Fail", request="nicht da: ä 100 %".encode())
    check(error.code() == grpc.StatusCode.NOT_FOUND, error)
    check(error.details() == "nicht da: ä 100 %", error)
    check(told(error)["backend"], "the trailers of a failure come, too")
    check(calls.failure("Nothing").code() == grpc.StatusCode.UNIMPLEMENTED, "the server knows no such method")


def deadlines(calls, _):
    left = told(calls.unary("Unary", timeout=9)[1])["time-left"]
    check(5 < float(left) < 10, f"the backend knows of the deadline: {left}")
    began = time.monotonic()
    check(calls.failure("Sleep", timeout=0.5).code() == grpc.StatusCode.DEADLINE_EXCEEDED, "the client's")
    error = calls.failure("SleepBriefly", timeout=10)
    check(error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error)
    check("upstream_timeout" in error.details(), "the route's is told by the balancer")
    check(time.monotonic() - began < 9, "and it is the shorter one")


def own_failures(calls, _):
    for service, code, reason in [
        ("test.Nowhere", grpc.StatusCode.UNIMPLEMENTED, "no_route"),
        ("test.Down", grpc.StatusCode.UNAVAILABLE, "connect_failed"),
    ]:
        error = calls.failure("Unary", service=service)
        check(error.code() == code, error)
        check(reason in error.details(), error)


def cancelled(calls, servers):
    call = calls.channel.stream_stream("/test.Echo/Hold")(iter(queue.SimpleQueue().get, None))
    name = next(call).decode()
    call.cancel()
    answer, _ = servers[name].unary("WasCancelled")
    check(answer == b"yes", "the backend learns that the client gave up")


def health(calls, servers):
    name = next(iter(calls.backends(1)))
    servers[name].unary("SetHealth", NOT_SERVING)
    eventually("it is out", lambda: name not in calls.backends(8))
    check(name not in calls.backends(20), "and stays out")
    servers[name].unary("SetHealth", SERVING)
    eventually("it is back", lambda: name in calls.backends(8))


CASES = [unary, balanced, streams, both_ways, statuses, deadlines, own_failures, cancelled, health]


def addresses(balancer):
    """The addresses that the balancer listens on, which it logs. The rest of its log is passed on."""
    found = {}
    for line in balancer.stderr:
        sys.stderr.write(line)
        match = re.search(r"listener (\w+): listening on (\S+)", line)
        if match:
            found[match[1]] = match[2]
        if len(found) == 2:
            break
    check(len(found) == 2, "the balancer listens")
    threading.Thread(target=lambda: [sys.stderr.write(line) for line in balancer.stderr], daemon=True).start()
    return found


def channels(ports, lb):
    """For each listener the channel to it, and those to the servers behind it, by name."""
    secure = grpc.ssl_channel_credentials((CERTS / "internal-ca.pem").read_bytes())
    named = (("grpc.ssl_target_name_override", "example.com"),)
    for kind in ("clear", "tls"):
        def channel(address, kind=kind):
            if kind == "tls":
                return Calls(grpc.secure_channel(address, secure, named))
            return Calls(grpc.insecure_channel(address))
        servers = {f"{kind}-{at}": channel(f"127.0.0.1:{port}") for at, port in enumerate(ports[kind])}
        yield kind, channel(lb[kind]), servers


def run(ports, lb):
    failed = 0
    for kind, calls, servers in channels(ports, lb):
        for case in CASES:
            try:
                case(calls, servers)
                print(f"ok      {kind}: {case.__name__}", flush=True)
            except (AssertionError, grpc.RpcError, StopIteration) as error:
                failed += 1
                print(f"FAILED  {kind}: {case.__name__}: {error}", flush=True)
    return failed


def main():
    pipe = subprocess.PIPE
    server = [sys.executable, str(HERE / "grpc_server.py")]
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(server, stdin=pipe, stdout=pipe) as origin:
        ports = json.loads(origin.stdout.readline())
        backends = {kind: ", ".join(f"127.0.0.1:{port}" for port in ports[kind]) for kind in ports}
        config = pathlib.Path(folder) / "lb.yaml"
        config.write_text(CONFIG.format(certs=CERTS.resolve(), **backends))
        balancer = subprocess.Popen([sys.argv[1], "-c", str(config)], stderr=pipe, text=True)
        try:
            failed = run(ports, addresses(balancer))
        finally:
            balancer.terminate()
            balancer.wait()
            origin.stdin.close()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

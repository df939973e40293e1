"""Four gRPC servers in the clear and four behind TLS, without generated code: messages are bytes.

Prints the ports as JSON and serves until its standard input ends.
"""

import json
import pathlib
import sys
import threading
from concurrent import futures

import grpc

CERTS = pathlib.Path(__file__).parent.parent.parent / "conf" / "certs"
HEALTH = "/grpc.health.v1.Health/Check"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


class Service(grpc.GenericRpcHandler):
    """What one server answers. Each answer ends with the server's name."""

    def __init__(self, name):
        self.name = name
        self.health = SERVING
        self.cancelled = threading.Event()

    def service(self, details):
        name = details.method.rsplit("/", 1)[-1]
        if details.method == HEALTH:
            return grpc.unary_unary_rpc_method_handler(lambda *_: self.health)
        kinds = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "Sleep": grpc.unary_unary_rpc_method_handler(self.sleep),
            "SleepBriefly": grpc.unary_unary_rpc_method_handler(self.sleep),
            "SetHealth": grpc.unary_unary_rpc_method_handler(self.set_health),
            "ServerStream": grpc.unary_stream_rpc_method_handler(self.server_stream),
            "ClientStream": grpc.stream_unary_rpc_method_handler(self.client_stream),
            "Bidi": grpc.stream_stream_rpc_method_handler(self.bidi),
            "Hold": grpc.stream_stream_rpc_method_handler(self.hold),
            "WasCancelled": grpc.unary_unary_rpc_method_handler(self.was_cancelled),
        }
        return kinds.get(name)

    def told(self, context):
        left = context.time_remaining()
        metadata = dict(context.invocation_metadata())
        context.set_trailing_metadata((
            ("backend", self.name),
            ("time-left", "none" if left is None else f"{left:.3f}"),
            ("echo", metadata.get("echo", "")),
            ("echo-bin", metadata.get("echo-bin", b"")),
        ))

    def unary(self, request, context):
        self.told(context)
        return request

    def fail(self, request, context):
        self.told(context)
        context.abort(grpc.StatusCode.NOT_FOUND, request.decode())

    def sleep(self, request, context):
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(20)
        return request

    def set_health(self, request, _):
        self.health = request
        return b""

    def server_stream(self, request, context):
        for number in range(int(request)):
            yield str(number).encode()
        self.told(context)

    def client_stream(self, requests, context):
        total = sum(len(request) for request in requests)
        self.told(context)
        return str(total).encode()

    def bidi(self, requests, context):
        for request in requests:
            yield request.upper()
        self.told(context)

    def hold(self, _, context):
        context.add_callback(self.cancelled.set)
        yield self.name.encode()
        self.cancelled.wait(20)

    def was_cancelled(self, _request, _context):
        return b"yes" if self.cancelled.wait(10) else b"no"


def start(name, credentials=None):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((Service(name),))
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return server, port


def main():
    key, chain = ((CERTS / name).read_bytes() for name in ("example.key", "example.pem"))
    secure = grpc.ssl_server_credentials([(key, chain)])
    clear = [start(f"clear-{number}") for number in range(4)]
    tls = [start(f"tls-{number}", secure) for number in range(4)]
    print(json.dumps({"clear": [port for _, port in clear], "tls": [port for _, port in tls]}), flush=True)
    sys.stdin.read()
    for server, _ in clear + tls:
        server.stop(None)


if __name__ == "__main__":
    main()

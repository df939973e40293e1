#!/bin/sh
# Real gRPC clients and servers with the balancer between them: grpc.sh BINARY
#
# Needs a Python with grpcio; PYTHON says which (default python3).
set -eu
binary=$(realpath "${1:?usage: grpc.sh BINARY}")
cd "$(dirname "$0")"
python=${PYTHON:-python3}
if ! "$python" -c 'import grpc' 2>/dev/null; then
    echo "grpc.sh: $python has no grpcio: python3 -m venv V && V/bin/pip install grpcio, then PYTHON=V/bin/python" >&2
    exit 1
fi
export PYTHONDONTWRITEBYTECODE=1
exec "$python" grpc_client.py "$binary"

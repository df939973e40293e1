#!/usr/bin/env python3
"""Clients of port 80, none of whom may notice anything: `once`, or `until FILE` is there."""

import http.client
import os
import sys
import threading
import time


def get(connection):
    connection.request("GET", "/")
    response = connection.getresponse()
    body = response.read()
    if response.status != 200 or not body:
        raise RuntimeError(f"{response.status} {body!r}")
    return response


def connect():
    return http.client.HTTPConnection("127.0.0.1", 80, timeout=10)


def ask(kept, stop, counts, failures):
    """Asks again and again, on a connection that stays for as long as the server lets it, or on new ones."""
    connection = connect()
    try:
        while not os.path.exists(stop):
            response = get(connection)
            counts["kept" if kept else "new"] += 1
            if not kept or response.will_close:
                connection.close()
            time.sleep(0.002)
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        failures.append(f"{'kept' if kept else 'new'}: {error!r}")


def main():
    if sys.argv[1] == "once":
        get(connect())
        return
    failures = []
    counts = [{"kept": 0, "new": 0} for _ in range(6)]
    threads = [
        threading.Thread(target=ask, args=(at % 2 == 0, sys.argv[2], counts[at], failures)) for at in range(6)
    ]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    for thread in threads:
        thread.join()
    kept, new = (sum(count[kind] for count in counts) for kind in ("kept", "new"))
    for failure in failures:
        print(failure)
    print(f"{kept} requests on kept connections and {new} on new ones, {len(failures)} failed", flush=True)
    sys.exit(bool(failures))


main()

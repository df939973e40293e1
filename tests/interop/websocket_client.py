"""A WebSocket client: messages, pings, a time of silence, and an orderly end. Fails with an exception."""

import asyncio
import sys

from websockets.asyncio.client import connect


async def echoed(connection, message):
    await connection.send(message)
    got = await asyncio.wait_for(connection.recv(), 30)
    assert got == message, f"sent {len(message)}, got {len(got)}: {got[:80]!r}"


async def main(uri, idle):
    async with connect(uri, ping_interval=None, max_size=None, compression=None) as connection:
        assert connection.response.status_code == 101, connection.response
        await echoed(connection, "hello")
        await echoed(connection, bytes(range(256)) * 4096)
        for _ in range(3):
            # Resolves when the server's pong with the same payload is here.
            await asyncio.wait_for(await connection.ping(), 30)
        await asyncio.sleep(idle)
        await asyncio.wait_for(await connection.ping(), 30)
        await echoed(connection, "still here")
    assert connection.close_code == 1000, connection.close_code
    print(f"echoed after {idle:g} s of silence, closed with {connection.close_code}")


asyncio.run(main(sys.argv[1], float(sys.argv[2])))

"""A WebSocket server that sends back what it gets: the backend of the check."""

import asyncio
import sys

from websockets.asyncio.server import serve


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def main(port):
    # Pings are the client's to send here: an idle connection has to live without any.
    async with serve(echo, "127.0.0.1", port, ping_interval=None, max_size=None) as server:
        print("listening", flush=True)
        await server.serve_forever()


asyncio.run(main(int(sys.argv[1])))

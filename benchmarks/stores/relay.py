"""A server as if it were far away: a relay on loopback that holds every request back for a while.

Run as a script, in a process of its own: relay.py PORT TARGET_PORT SECONDS
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

PIECE = 1 << 20
START_SECONDS = 30


@contextmanager
def relayed(target: int, seconds: float) -> Iterator[int]:
    """The port of a relay to a port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, __file__, str(port), str(target), str(seconds)])
    try:
        _wait(port)
        yield port
    finally:
        process.kill()
        process.wait()


def _wait(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


async def _serve(port: int, target: int, seconds: float) -> None:
    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target, limit=PIECE)
        await asyncio.gather(_pass_on(reader, back, seconds), _pass_on(there, writer, 0.0))

    server = await asyncio.start_server(connect, "127.0.0.1", port, limit=PIECE)
    await server.serve_forever()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """What a client sends for one request comes in one piece: bodies are for the way back."""
    try:
        while piece := await reader.read(PIECE):
            await asyncio.sleep(seconds)
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))

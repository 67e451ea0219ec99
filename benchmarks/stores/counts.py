"""What a piece of work fetched: bytes and requests, from this machine's files or over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from aiobotocore.httpsession import AIOHTTPSession

IO = Path("/proc/self/io")


@dataclass(frozen=True)
class Cost:
    """requests: of local files, calls of the operating system that read."""

    seconds: float
    bytes: int
    requests: int

    def times(self, factor: float) -> Cost:
        return Cost(self.seconds * factor, round(self.bytes * factor), round(self.requests * factor))


def local(work: Callable[[], np.ndarray]) -> tuple[Cost, np.ndarray]:
    """What it read by calls of the operating system; what is mapped into memory does not show."""
    before, start = _calls(), time.perf_counter()
    values = work()
    seconds, after = time.perf_counter() - start, _calls()
    return Cost(seconds, after[0] - before[0], after[1] - before[1]), values


def web(work: Callable[[], np.ndarray]) -> tuple[Cost, np.ndarray]:
    """What s3fs asked for, listings too, and the bodies that came."""
    with _counted() as seen:
        start = time.perf_counter()
        values = work()
        seconds = time.perf_counter() - start
    return Cost(seconds, sum(seen), len(seen)), values


def _calls() -> tuple[int, int]:
    fields = dict(line.split(": ") for line in IO.read_text().splitlines())
    return int(fields["rchar"]), int(fields["syscr"])


@contextmanager
def _counted() -> Iterator[list[int]]:
    seen: list[int] = []
    send = AIOHTTPSession.send

    async def counting(session: AIOHTTPSession, request: Any) -> Any:
        response = await send(session, request)
        body = request.method == "GET"
        seen.append(int(response.headers.get("Content-Length", 0)) if body else 0)
        return response

    with patch.object(AIOHTTPSession, "send", counting):
        yield seen

"""A statement that Ctrl-C stops, without an end to the program."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import duckdb

from vlmlake.errors import VlmlakeError

AGAIN = 0.1
"""Seconds after which a statement that has not stopped yet is told again: it may not have begun when it was told."""

Answer = TypeVar("Answer")


def interruptibly(connection: duckdb.DuckDBPyConnection, work: Callable[[], Answer]) -> Answer:
    """What `work` gives, which runs statements of the connection in a thread of its own.

    Raises VlmlakeError if Ctrl-C stopped it.
    """
    stopped = False
    with ThreadPoolExecutor(1, "vlmlake-statement") as pool:
        running = pool.submit(work)
        while not running.done():
            try:
                wait([running], AGAIN if stopped else None)
            except KeyboardInterrupt:
                stopped = True
            if stopped and not running.done():
                connection.interrupt()
    if stopped and running.exception() is not None:
        raise VlmlakeError("stopped") from running.exception()
    return running.result()

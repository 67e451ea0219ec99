"""A statement that Ctrl-C stops, without an end to the program."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event
from typing import TypeVar

import duckdb

from vlmlake.errors import VlmlakeError

AGAIN = 0.1
"""Seconds after which a statement that has not stopped is told again: it may not have begun when it was told."""

Answer = TypeVar("Answer")


class StoppedError(VlmlakeError):
    """A person did not want to wait for the answer."""


def interruptibly(connection: duckdb.DuckDBPyConnection, work: Callable[[], Answer]) -> Answer:
    """What `work` gives, which runs statements of the connection, in a thread of its own. To be called in the main one.

    Raises StoppedError if Ctrl-C stopped it.
    """
    stopped = Event()
    before = signal.signal(signal.SIGINT, lambda *_: stopped.set())
    try:
        with ThreadPoolExecutor(1, "vlmlake-statement") as pool:
            running = pool.submit(work)
            while wait([running], AGAIN).not_done:
                if stopped.is_set():
                    connection.interrupt()
    finally:
        signal.signal(signal.SIGINT, before)
    if stopped.is_set() and running.exception() is not None:
        raise StoppedError("stopped") from running.exception()
    return running.result()

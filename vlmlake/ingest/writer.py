"""Writing behind the model's back: one thread encodes and commits while the next batch is computed."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from queue import Queue
from types import TracebackType

Task = Callable[[], None]

NICENESS = 10
ENCODERS = max(1, min(8, (os.cpu_count() or 1) // 2))
"""Threads that compress; the model, which computes beside them, keeps the other half of the cores."""


class BackgroundWriter:
    """Runs tasks one after the other in a thread; at most `waiting` of them are held, then `put` waits.

    An error of a task is raised by the next `put` or at the end of the `with` block, and no later task is run. If the
    block itself fails, what was put is still written before its error goes on: finished work is not lost.
    """

    def __init__(self, waiting: int = 2) -> None:
        self._tasks: Queue[Task | None] = Queue(maxsize=waiting)
        self._error: BaseException | None = None
        self.waited = 0.0
        """Seconds that `put` has waited for room, and the end for what was put."""
        self._thread = threading.Thread(target=self._work, name="vlmlake-writer")

    def put(self, task: Task) -> None:
        self._raise()
        began = time.monotonic()
        self._tasks.put(task)
        self.waited += time.monotonic() - began

    def __enter__(self) -> BackgroundWriter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        began = time.monotonic()
        self._tasks.put(None)
        self._thread.join()
        self.waited += time.monotonic() - began
        if kind is None:
            self._raise()

    def _work(self) -> None:
        _step_back()
        while (task := self._tasks.get()) is not None:
            if self._error is not None:
                continue
            try:
                task()
            except BaseException as error:
                self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


def _step_back() -> None:
    """Let the model's threads go first: on a CPU they wait for one another, so that a core taken from one stops all.

    Linux gives every thread its own priority, which those that it starts inherit; elsewhere nothing is changed.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)

"""Writing behind the model's back: one thread encodes and commits while the next batch is computed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Queue
from types import TracebackType

Job = Callable[[], None]


class BackgroundWriter:
    """Runs jobs one after the other in a thread; at most `waiting` of them are held, then `put` waits.

    An error of a job is raised by the next `put` or at the end of the `with` block, and no later job is run. If the
    block itself fails, what was put is still written before its error goes on: finished work is not lost.
    """

    def __init__(self, waiting: int = 2) -> None:
        self._jobs: Queue[Job | None] = Queue(maxsize=waiting)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="vlmlake-writer")

    def put(self, job: Job) -> None:
        self._raise()
        self._jobs.put(job)

    def __enter__(self) -> BackgroundWriter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._jobs.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._error is not None:
                continue
            try:
                job()
            except BaseException as error:
                self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

"""Writers that take turns: each operation on the storage waits until the schedule says that it is its writer's turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from unittest import mock

from vlmlake.store_schema.storage import Storage

OPERATIONS = ("write", "create", "read", "delete")


class Died(BaseException):
    """The process was killed; no Exception, so that nothing catches it by mistake."""


@dataclass(eq=False)
class _Writer:
    work: Callable[[], object]
    go: threading.Event = field(default_factory=threading.Event)
    waits: threading.Event = field(default_factory=threading.Event)
    ended: bool = False
    error: BaseException | None = None

    def run(self) -> None:
        _here.writer = self
        try:
            self.work()
        except BaseException as error:
            self.error = error
        self.ended = True
        self.waits.set()

    def pause(self) -> None:
        """Before an operation, in the writer's own thread."""
        self.waits.set()
        self.go.wait()
        self.go.clear()

    def step(self) -> None:
        """One operation and what follows it, up to the next."""
        self.waits.clear()
        self.go.set()
        self.waits.wait()


_here = threading.local()


Operation = Callable[..., object]


@contextmanager
def operations(around: Callable[[str, Operation], object]) -> Iterator[None]:
    """Call `around` in the place of each operation, with its name and the operation itself, ready to be called."""

    def patched(name: str, real: Operation) -> Operation:
        @wraps(real)
        def operation(*arguments: object, **named: object) -> object:
            return around(name, partial(real, *arguments, **named))

        return operation

    with ExitStack() as stack:
        for name in OPERATIONS:
            stack.enter_context(mock.patch.object(Storage, name, patched(name, getattr(Storage, name))))
        yield


def take_turns(works: Sequence[Callable[[], object]], schedule: Sequence[int]) -> list[tuple[int, int]]:
    """Run all to their ends. schedule: of the writers that have not ended, which is next; the first where it is over.

    Returns of each turn the choice that was made and among how many writers. An error of a writer is raised.
    """

    def wait(name: str, operation: Operation) -> object:
        writer = getattr(_here, "writer", None)
        if writer is not None:
            writer.pause()
        return operation()

    writers, made = [_Writer(work) for work in works], []
    with operations(wait):
        threads = [threading.Thread(target=writer.run, daemon=True) for writer in writers]
        for thread, writer in zip(threads, writers, strict=True):
            thread.start()
            writer.waits.wait()
        while alive := [writer for writer in writers if not writer.ended]:
            choice = schedule[len(made)] % len(alive) if len(made) < len(schedule) else 0
            made.append((choice, len(alive)))
            alive[choice].step()
        for thread in threads:
            thread.join()
    for writer in writers:
        if writer.error is not None:
            raise writer.error
    return made


def every_schedule(run: Callable[[Sequence[int]], list[tuple[int, int]]]) -> Iterator[list[int]]:
    """Call `run`, which takes turns by a schedule, until every order was tried; each schedule after its run."""
    schedule: list[int] = []
    while True:
        made = run(schedule)
        yield [choice for choice, _ in made]
        while made and made[-1][0] + 1 == made[-1][1]:
            made.pop()
        if not made:
            return
        schedule = [choice for choice, _ in made[:-1]] + [made[-1][0] + 1]


@contextmanager
def dies_after(count: int, done: bool) -> Iterator[None]:
    """The process is killed at the operation after so many. done: that one still happens."""
    begun = 0

    def counted(name: str, operation: Operation) -> object:
        nonlocal begun
        begun += 1
        if begun == count + 1 and done:
            operation()
        if begun > count:
            raise Died
        return operation()

    with operations(counted):
        yield

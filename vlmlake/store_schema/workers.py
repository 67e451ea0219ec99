"""What the writers of a run say of themselves, for `status` alone: nothing is decided by it.

A note is a small file per worker, replaced at every commit and removed when the run is finished. It holds no time: how
old it is, the storage's own clock says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import json_text, paths
from vlmlake.store_schema.storage import Storage

NOTE = re.compile(r"(\d+)-of-(\d+)\.json")
BY_LAUNCHER = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))
"""Variables in which torchrun and SLURM say which of how many processes this one is."""


@dataclass(frozen=True)
class Worker:
    """The `number`-th of `count` writers of one run, from 0: it owns every batch whose number leaves that rest."""

    number: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise VlmlakeError(f"worker {self} is none: expected I/N with I from 0 to N - 1, as in --worker 0/4")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def owns(self, batch: int) -> bool:
        """Whether a batch is this worker's; each is exactly one's."""
        return batch % self.count == self.number

    @classmethod
    def parse(cls, text: str) -> Worker:
        """Out of I/N. Raises VlmlakeError for anything else."""
        number, separator, count = text.partition("/")
        if not (separator and number.isdecimal() and count.isdecimal()):
            raise VlmlakeError(f"worker is {text!r}, expected I/N with I from 0 to N - 1, as in --worker 0/4")
        return cls(int(number), int(count))

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Worker:
        """As the launcher says; the only one where there is none. Raises VlmlakeError for what are no numbers."""
        for number, count in BY_LAUNCHER:
            if number in environment and count in environment:
                try:
                    return cls.parse(f"{environment[number]}/{environment[count]}")
                except VlmlakeError as error:
                    raise VlmlakeError(f"{number} and {count} of the environment: {error}") from error
        return cls()


@dataclass(frozen=True)
class Note:
    """batch: what it writes now, none between two. committed: batches in this pass; bytes: of them."""

    worker: Worker
    batch: int | None
    committed: int
    bytes: int


def write_note(storage: Storage, run: str, note: Note) -> None:
    """Put a worker's note in the place of its last."""
    content = json.dumps(asdict(note)).encode() + b"\n"
    storage.write(_path(run, note.worker), content)


def read_notes(storage: Storage, run: str) -> list[tuple[Note, datetime | None]]:
    """The notes of all workers, and when the storage got each. One that cannot be read is left out."""
    found = []
    for name in storage.names(paths.workers(run)):
        if NOTE.fullmatch(name):
            path = f"{paths.workers(run)}/{name}"
            try:
                fields = json_text.parse(storage.read(path))
                note = Note(Worker(**fields.pop("worker")), **fields)
                _require_numbers(note)
            except (ValueError, TypeError, KeyError, AttributeError, FileNotFoundError, VlmlakeError):
                continue
            found.append((note, storage.modified(path)))
    return found


def remove_notes(storage: Storage, run: str) -> None:
    """Take all notes away; one that a worker is about to put is left to it."""
    for name in filter(NOTE.fullmatch, storage.names(paths.workers(run))):
        storage.delete(f"{paths.workers(run)}/{name}")


def _require_numbers(note: Note) -> None:
    numbers = (note.worker.number, note.worker.count, note.committed, note.bytes)
    if not all(type(number) is int for number in numbers) or type(note.batch) not in (int, type(None)):
        raise ValueError("a note holds whole numbers")


def _path(run: str, worker: Worker) -> str:
    return f"{paths.workers(run)}/{worker.number}-of-{worker.count}.json"

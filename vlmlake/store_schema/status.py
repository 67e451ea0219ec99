"""How far a run is: its batches one by one, and what its writers last said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from vlmlake.store_schema.commits import look
from vlmlake.store_schema.finish import is_finished
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.workers import Note, Worker, read_notes


@dataclass(frozen=True)
class WorkerStatus:
    """owned, committed: its batches of the run, and those of them that are committed, by whomever. passed: those that
    it committed in this pass; bytes: of them. writing: what it said it writes. silent: about how many seconds ago it
    said so; two clocks meet in it, the storage's and this machine's, so nothing may be decided by it.
    """

    worker: Worker
    owned: int
    committed: int
    passed: int
    bytes: int
    writing: int | None
    silent: float | None


@dataclass(frozen=True)
class RunStatus:
    """Every planned batch is in one of: committed; broken, and why; writing (there are shards, and a worker says that
    it is at it); left_over (there are shards); missing. bytes: of the committed shards.
    """

    run: str
    planned: int
    examples: int
    committed: tuple[int, ...]
    broken: Mapping[int, str]
    writing: tuple[int, ...]
    left_over: tuple[int, ...]
    missing: tuple[int, ...]
    bytes: int
    finished: bool
    workers: tuple[WorkerStatus, ...]


def run_status(storage: Storage, record: RunRecord) -> RunStatus:
    """What there is now; of a web server's lake without its workers.

    Raises VlmlakeError for a web server's run that is not finished.
    """
    listed = is_finished(storage, record.name)
    notes = read_notes(storage, record.name) if storage.listable else []
    state = look(storage, record)
    said = {note.batch for note, _ in notes}
    told = {*state.committed, *state.broken, *state.begun}
    return RunStatus(
        run=record.name,
        planned=record.extents.batches,
        examples=sum(commit.rows.num_rows for commit in state.committed.values()),
        committed=tuple(state.committed),
        broken=dict(sorted(state.broken.items())),
        writing=tuple(sorted(number for number in state.begun if number in said)),
        left_over=tuple(sorted(number for number in state.begun if number not in said)),
        missing=tuple(number for number in range(record.extents.batches) if number not in told),
        bytes=sum(commit.bytes for commit in state.committed.values()),
        finished=listed and len(state.committed) == record.extents.batches,
        workers=tuple(_worker(record, note, when, state.committed) for note, when in notes),
    )


def _worker(record: RunRecord, note: Note, when: datetime | None, committed: Mapping[int, object]) -> WorkerStatus:
    owned = [number for number in range(record.extents.batches) if note.worker.owns(number)]
    return WorkerStatus(
        worker=note.worker,
        owned=len(owned),
        committed=sum(number in committed for number in owned),
        passed=note.committed,
        bytes=note.bytes,
        writing=note.batch,
        silent=max(0.0, (datetime.now(UTC) - when).total_seconds()) if when else None,
    )

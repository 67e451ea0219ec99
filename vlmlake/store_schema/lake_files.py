"""Every file that vlmlake writes into a lake by its path: which ones belong to something visible, and which do not."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from vlmlake.errors import DamagedError
from vlmlake.store_schema import paths
from vlmlake.store_schema.arrays import shard_file
from vlmlake.store_schema.commits import BATCH_FILE
from vlmlake.store_schema.index import NAME, is_finding
from vlmlake.store_schema.local_disk import WRITING
from vlmlake.store_schema.metadata import DOCUMENT
from vlmlake.store_schema.run_record import RunRecord, read_record
from vlmlake.store_schema.schema import ARRAYS, ONCE_ARRAYS
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.workers import NOTE

Kind = Literal["temporary", "shard", "commit", "creation", "note", "unknown"]
"""What does not belong to anything visible; leftovers.Leftover says what each is."""

TEMPORARY = re.compile(re.escape(WRITING) + r"[0-9a-f]{32}")
PARTIAL = re.compile(r".+\.[0-9a-f]{32}\.partial")
"""What zarr-python's local store leaves when it is interrupted."""


@dataclass(frozen=True)
class Group:
    """Files that belong together: all of them are left over, or none is. needs_absent: a file that, if it is there by
    now, says that they are no leftovers.
    """

    kind: Kind
    paths: tuple[str, ...]
    needs_absent: str | None = None


def sort_files(storage: Storage, files: Iterable[str]) -> tuple[Group, ...]:
    """Those of a lake's files that belong to nothing visible."""
    groups: list[Group] = []
    runs: dict[str, list[str]] = defaultdict(list)
    for path in sorted(files):
        parts = path.split("/")
        in_arrays = len(parts) > 3 and parts[0] == paths.RUNS and parts[2] == posixpath.basename(paths.arrays(""))
        if TEMPORARY.fullmatch(parts[-1]) or (in_arrays and PARTIAL.fullmatch(parts[-1])):
            groups.append(Group("temporary", (path,)))
        elif parts[0] == paths.RUNS and len(parts) > 2 and NAME.fullmatch(parts[1]):
            runs[parts[1]].append(path)
        elif path not in (paths.LAKE, paths.INDEX) and not is_finding(path):
            groups.append(Group("unknown", (path,)))
    for run, inside in runs.items():
        groups += _of_run(storage, run, inside)
    return tuple(groups)


def _of_run(storage: Storage, run: str, inside: Sequence[str]) -> Iterator[Group]:
    if paths.run_record(run) not in inside:
        # Without its record nothing tells what a batch of it was: a folder with more than a creation puts stays.
        whole = _files_of_a_creation(run).issuperset(inside)
        yield Group("creation" if whole else "unknown", tuple(inside), paths.run_record(run))
        return
    try:
        record = read_record(storage, run)
    except DamagedError:
        yield Group("unknown", (paths.run_record(run),))
        return
    yield from _of_known_run(record, inside)


def _of_known_run(record: RunRecord, inside: Sequence[str]) -> Iterator[Group]:
    run = record.name
    known = _files_of_a_run(record)
    planned = {
        shard_file(record, spec, number): number
        for spec in record.batch_specs
        for number in range(record.extents.batches)
    }
    shards: dict[int, list[str]] = defaultdict(list)
    there = set(inside)
    for path in inside:
        folder, _, name = path.rpartition("/")
        number = planned.get(path)
        if number is not None:
            if paths.batch(run, number) not in there:
                shards[number].append(path)
        elif folder == paths.batches(run) and (match := BATCH_FILE.fullmatch(name)):
            if int(match[1]) >= record.extents.batches:
                yield Group("commit", (path,))
        elif folder == paths.workers(run) and NOTE.fullmatch(name):
            if paths.batch_list(run) in there:
                yield Group("note", (path,))
        elif path not in known:
            yield Group("unknown", (path,))
    for number, files in shards.items():
        yield Group("shard", tuple(files), paths.batch(run, number))


def _files_of_a_run(record: RunRecord) -> set[str]:
    """Those of which every run has one."""
    run, arrays = record.name, paths.arrays(record.name)
    return {
        paths.run_record(run),
        paths.vocabulary(run),
        paths.skipped(run),
        paths.batch_list(run),
        f"{arrays}/{DOCUMENT}",
        *(f"{arrays}/{spec.name}/{DOCUMENT}" for spec in record.specs),
        *(shard_file(record, spec, 0) for spec in record.specs if spec.once),
    }


def _files_of_a_creation(run: str) -> set[str]:
    """All that can be there before the record is."""
    arrays = paths.arrays(run)
    return {
        paths.vocabulary(run),
        f"{arrays}/{DOCUMENT}",
        *(f"{arrays}/{spec.name}/{DOCUMENT}" for spec in ARRAYS),
        *(f"{arrays}/{spec.name}/c.{'.'.join('0' * len(spec.dimensions))}" for spec in ONCE_ARRAYS),
    }

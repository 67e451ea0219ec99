"""Whether what a run has beside its batches is whole: Zarr documents, vocabulary, shared arrays, tables of results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from vlmlake.errors import DamagedError, VlmlakeError
from vlmlake.store_schema import json_text, paths, tables
from vlmlake.store_schema.check_shard import read_shard
from vlmlake.store_schema.finish import is_finished
from vlmlake.store_schema.index import Index, listed_index, written_index
from vlmlake.store_schema.metadata import documents, finished_group
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.verdict import Looked, Problem


def check_run(storage: Storage, record: RunRecord) -> tuple[Looked, list[Problem]]:
    """All but its batches and its results."""
    told = [*_documents(storage, record), *_tables(storage, record)]
    looked, shared = _shared_arrays(storage, record)
    return looked, [Problem(record.name, None, array, what) for array, what in (*told, *shared)]


def check_findings(storage: Storage, findings: Sequence[str]) -> Iterator[Problem]:
    """findings: paths of tables that analyses wrote."""
    for path in findings:
        run = path.split("/")[2]
        try:
            tables.read(storage, [path], tables.FINDINGS[path.split("/")[0]])
        except VlmlakeError as error:
            yield Problem(run, None, None, str(error))


def check_index(storage: Storage) -> Iterator[Problem]:
    """Whether readers that cannot list the lake are told what is there."""
    if not storage.listable:
        return
    there = listed_index(storage)
    finished = [run for run in there.runs if is_finished(storage, run)]
    if not storage.exists(paths.INDEX):
        if finished:
            yield Problem(None, None, None, f"there is no {paths.INDEX}, and {finished[0]} is finished")
        return
    try:
        told = written_index(storage)
    except DamagedError as error:
        yield Problem(None, None, None, str(error))
        return
    for what in _differences(told, there, finished):
        yield Problem(None, None, None, f"{paths.INDEX} {what}")


def _differences(told: Index, there: Index, finished: Sequence[str]) -> Iterator[str]:
    """A run that was finished and is not, until its batches are computed again, may be listed."""
    for words, names in (
        ("lacks the run", set(finished) - set(told.runs)),
        ("lists a run that is not there:", set(told.runs) - set(there.runs)),
        ("lacks", set(there.findings) - set(told.findings)),
        ("lists a table that is not there:", set(told.findings) - set(there.findings)),
    ):
        yield from (f"{words} {name}" for name in sorted(names))


def _documents(storage: Storage, record: RunRecord) -> Iterator[tuple[str | None, str]]:
    """A document's array, none for the group's, and what is wrong with it."""
    group, consolidated = finished_group(record)
    finished = is_finished(storage, record.name)
    for path, content in documents(record).items():
        allowed = [content] if path != group else [consolidated] if finished else [content, consolidated]
        array = None if path == group else path.split("/")[-2]
        try:
            there = json_text.parse(storage.read(path))
        except FileNotFoundError:
            yield array, f"{path} is missing"
        except ValueError as error:
            yield array, f"{path} is not valid JSON: {error}"
        else:
            if there not in [json.loads(text) for text in allowed]:
                yield array, f"{path} does not say what the run's record says"


def _tables(storage: Storage, record: RunRecord) -> Iterator[tuple[None, str]]:
    try:
        words = tables.read(storage, [paths.vocabulary(record.name)], tables.VOCABULARY)
        if not np.array_equal(_numbers(words, "id"), np.arange(record.extents.vocab)):
            yield (
                None,
                f"{paths.vocabulary(record.name)} has not the {record.extents.vocab} tokens of the run, in order",
            )
    except VlmlakeError as error:
        yield None, str(error)
    try:
        there = [path for path in (paths.skipped(record.name),) if storage.exists(path)]
        tables.read(storage, there, tables.SKIPPED)
    except VlmlakeError as error:
        yield None, str(error)


def _numbers(table: pa.Table, column: str) -> np.ndarray:
    numbers: np.ndarray = table[column].to_numpy()
    return numbers


def _shared_arrays(storage: Storage, record: RunRecord) -> tuple[Looked, list[tuple[str, str]]]:
    looked, told = Looked(), []
    for spec in (spec for spec in record.specs if spec.once):
        shard = read_shard(storage, record, spec, 0, None)
        looked += shard.looked
        told += [(spec.name, what) for what in shard.problems]
        if shard.values is not None:
            lengths = [record.extents.length(dimension) for dimension in spec.dimensions]
            missing = int(np.isnan(shard.values[tuple(slice(length) for length in lengths)]).sum())
            if missing:
                told.append((spec.name, f"no value at {missing} places"))
    return looked, told

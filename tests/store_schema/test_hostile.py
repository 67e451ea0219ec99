"""Lakes that somebody made to harm their readers: every checksum holds, and what they say is refused by name."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from rich.console import Console

from tests.store_schema.small_lake import make_lake
from vlmlake import open_lake
from vlmlake.console import print_results
from vlmlake.errors import DamagedError, VlmlakeError
from vlmlake.store_schema import paths, seals, tables
from vlmlake.store_schema.arrays import shard_file, shard_format
from vlmlake.store_schema.batch_list import encode_batch_list
from vlmlake.store_schema.check_rows import check_rows
from vlmlake.store_schema.commit import Commit, ShardFacts
from vlmlake.store_schema.commits import look
from vlmlake.store_schema.finish import finish
from vlmlake.store_schema.index import written_index
from vlmlake.store_schema.lake import Lake
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.run_record import read_record
from vlmlake.store_schema.stored_array import StoredArray
from vlmlake.store_schema.workers import read_notes

NESTED = b"[" * 200_000


@pytest.fixture
def lake(tmp_path) -> Lake:
    return make_lake(str(tmp_path / "lake"))


@pytest.fixture
def run(lake) -> Run:
    return lake.run("toy")


def change_record(run: Run, change: Callable[[dict[str, Any]], object]) -> None:
    path = paths.run_record(run.name)
    fields = json.loads(run.storage.read(path)) | {seals.KEY: seals.BLANK}
    change(fields)
    run.storage.write(path, seals.sealed(json.dumps(fields).encode()))


def change_commit(run: Run, number: int, rows: dict[str, list] | None = None, **facts: ShardFacts) -> None:
    """Another commit, and no batch list that tells of the old one."""
    path = paths.batch(run.name, number)
    commit = Commit.decode(run.storage.read(path), run.name, number, path)
    table = commit.rows
    for name, values in (rows or {}).items():
        told = tables.BATCH.field(name)
        table = table.set_column(tables.BATCH.get_field_index(name), told, pa.array(values, told.type))
    run.storage.delete(paths.batch_list(run.name))
    run.storage.write(path, replace(commit, rows=table, shards={**commit.shards, **facts}).encode())


def put_shard(run: Run, entry: tuple[int, int], body: bytes) -> None:
    """A shard of token_id whose first chunk is said to lie at `entry`, an offset and a length."""
    spec = next(spec for spec in run.record.specs if spec.name == "token_id")
    form = shard_format(run.record, spec)
    index = np.full((*form.grid, 2), 2**64 - 1, "<u8")
    index[(0,) * len(form.grid)] = entry
    content = body + with_checksum(index.tobytes())
    run.storage.write(shard_file(run.record, spec, 0), content)
    change_commit(run, 0, token_id=ShardFacts(len(content), zlib.crc32(content), ()))


def with_checksum(content: bytes) -> bytes:
    return content + int(google_crc32c.value(content)).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda fields: fields["extents"].update(batches=10**12), "extents.batches"),
        (lambda fields: fields["extents"].update(batches=1.5), "extents.batches"),
        (lambda fields: fields["extents"].update(batches=True), "extents.batches"),
        (lambda fields: fields["extents"].update(hidden=10**12), "extents.hidden"),
        (lambda fields: fields["extents"].update(hidden=10**9, tokens=10**6), "a shard of hidden_states"),
        (lambda fields: fields["extents"].update(layers=4), "layers"),
        (lambda fields: fields["extents"].update(more=4), "extents"),
        (lambda fields: fields.update(extents=[]), "extents"),
        (lambda fields: fields.update(examples="\x1b[31m"), "examples"),
        (lambda fields: fields.update(rows=0), "rows"),
        (lambda fields: fields.update(model=["toy"]), "model"),
        (lambda fields: fields.update(identity=[]), "identity"),
        (lambda fields: fields.update(versions="1"), "versions"),
        (lambda fields: fields.update(stored_dtype="object"), "stored_dtype"),
        (lambda fields: fields.update(stored_dtype=[]), "stored_dtype"),
        (lambda fields: fields.update(arrays=["../logits"]), "arrays"),
        (lambda fields: fields.update(arrays=["logits", "logits"]), "arrays"),
        (lambda fields: fields.update(layers=["embed", "block_0", "\x1b[31m"]), "layers"),
        (lambda fields: fields.update(positions=["prompt_last"]), "positions"),
        (lambda fields: fields.update(positions=[1, 2, 3]), "positions"),
        (lambda fields: fields.update(identity={"a": "\ud800"}), "surrogates"),
    ],
)
def test_a_record_that_no_run_has_is_refused(run, change, what):
    change_record(run, change)
    with pytest.raises(DamagedError, match=f"is damaged .*{what}"):
        read_record(run.storage, run.name)


def test_what_is_nested_deeper_than_python_follows_is_refused(run):
    storage = run.storage
    sealed = seals.sealed(b'{"seal": "' + seals.BLANK.encode() + b'", "a": ' + NESTED)
    for path, read in (
        (paths.run_record(run.name), lambda: read_record(storage, run.name)),
        (paths.INDEX, lambda: written_index(storage)),
    ):
        storage.write(path, sealed)
        with pytest.raises(DamagedError):
            read()
    storage.write(paths.LAKE, NESTED)
    with pytest.raises(VlmlakeError, match="nested too deeply"):
        open_lake(storage.address)


@pytest.mark.parametrize(
    "note",
    [
        NESTED,
        b'{"worker": {"number": 0, "count": 1}, "batch": "\\u001b[31m", "committed": 1, "bytes": 1}',
        b'{"worker": {"number": 0, "count": 1}, "batch": 1, "committed": 1, "bytes": "a"}',
        b'{"worker": {"number": 0, "count": 1}, "batch": [], "committed": 1, "bytes": 1}',
        b'{"worker": {"number": 0.5, "count": 1}, "batch": 1, "committed": 1, "bytes": 1}',
    ],
    ids=["nested", "text", "bytes", "list", "fraction"],
)
def test_a_note_of_anything_but_numbers_is_left_out(run, note):
    run.storage.write(f"{paths.workers(run.name)}/0-of-1.json", note)
    assert read_notes(run.storage, run.name) == []


@pytest.mark.parametrize(
    "entry",
    [(0, 2**40), (2**63, 10), (2**64 - 2, 10), (0, 0), (90, 20)],
    ids=["long", "beyond any file", "wrapped", "empty", "into the index"],
)
def test_a_chunk_beyond_its_shard_is_never_fetched(run, entry):
    put_shard(run, entry, b"x" * 100)
    with pytest.raises(DamagedError, match=r"token_id of batch 0 .*its index has a chunk at"):
        run.dataset()["token_id"].values.sum()


@pytest.mark.parametrize("size", [10, 300, 10**7])
def test_a_chunk_is_not_unpacked_to_more_or_less_than_it_holds(run, size):
    body = with_checksum(bytes(numcodecs.Zstd().encode(np.zeros(size, np.uint8))))
    put_shard(run, (0, len(body)), body)
    with pytest.raises(DamagedError, match=f"it says that it holds {size} bytes"):
        run.dataset()["token_id"].values.sum()


def test_values_of_a_batch_that_no_commit_tells_of_are_not_read(run):
    spec = next(spec for spec in run.record.specs if spec.name == "token_id")
    array = StoredArray(run.storage, run.record, spec, np.arange(6), {})
    with pytest.raises(DamagedError, match="no commit says that it is there"):
        array[:]


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ({"run": "victim-00000000"}, "rows of other runs"),
        ({"batch": 1}, r"they are of batch \[1\]"),
        ({"row": 3}, "column row goes beyond"),
        ({"row": -1}, "column row goes beyond"),
        ({"prefix": 10**9}, "column prefix goes beyond"),
        ({"prefix": None}, "column prefix goes beyond"),
    ],
)
def test_rows_that_are_not_the_batchs_own_are_refused(run, rows, what):
    change_commit(run, 0, {name: [value] * 4 for name, value in rows.items()})
    with pytest.raises(DamagedError, match=what):
        run.dataset()


def test_a_batch_list_of_other_rows_is_refused(run):
    state = look(run.storage, run.record)
    for told in ({0: state.committed[1], 1: state.committed[0]}, {7: state.committed[0]}):
        content = encode_batch_list(run.name, told, dict.fromkeys(told, 1))
        run.storage.write(paths.batch_list(run.name), content)
        with pytest.raises(DamagedError):
            look(run.storage, run.record)
    run.storage.delete(paths.batch_list(run.name))
    finish(run.storage, run.record)


def test_a_table_of_more_rows_than_bytes_is_not_unpacked(run):
    many = pa.Table.from_arrays([pa.nulls(10**6, field.type) for field in tables.BATCH], schema=tables.BATCH)
    with pytest.raises(DamagedError, match="1000000 rows"):
        tables.decode(tables.encode(many), tables.BATCH, "it")
    wide = pa.table({"id": pa.array([0, 1], pa.int32()), "text": ["x" * 10**8, ""]}, schema=tables.VOCABULARY)
    with pytest.raises(DamagedError, match="unpacked"):
        tables.decode(tables.encode(wide), tables.VOCABULARY, "it")


def test_text_that_is_no_utf_8_is_refused():
    raw = pa.array([b"\xff\xfe"] * 2, pa.binary())
    words = pa.Table.from_arrays(
        [pa.array([0, 1], pa.int32()), pa.Array.from_buffers(pa.string(), 2, raw.buffers())], schema=tables.VOCABULARY
    )
    with pytest.raises(DamagedError, match=r"it is damaged: .*UTF"):
        tables.decode(tables.encode(words), tables.VOCABULARY, "it")


@pytest.mark.parametrize("sample", [None, {"sample": 0}], ids=["null", "without values"])
def test_a_sample_without_values_is_a_problem_of_its_batch(run, sample):
    change_commit(run, 0, {"samples": [[sample]] * 4})
    (found,) = check_rows(run.record, look(run.storage, run.record).committed[0])
    assert found.startswith("a sample's token_ids")


def test_results_cannot_steer_the_terminal():
    row = dict.fromkeys(tables.RESULTS.names) | {"analysis": "a", "run": "r", "split": "\x1b[31m", "note": "\x1b[32m"}
    results = pl.DataFrame(
        [row | {"metric": "m", "value": 1.0}], schema=tables.frame(tables.RESULTS.empty_table()).schema
    )
    text = io.StringIO()
    print_results(Console(file=text, width=200, markup=False), results)
    assert "\x1b" not in text.getvalue()
    assert r"\x1b[32m" in text.getvalue()

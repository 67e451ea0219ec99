"""One bit flipped, anywhere: it is found on reading, or it changed nothing of what was read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from uuid import uuid4

import numpy as np
import pytest

from tests.store_schema.toy import batch, by_us, new_run, record, rows
from vlmlake import open_lake
from vlmlake.errors import DamagedError, VlmlakeError
from vlmlake.store_schema import paths, shard_part, tables
from vlmlake.store_schema.arrays import shard_file
from vlmlake.store_schema.commits import commit_batch, look, visible
from vlmlake.store_schema.finish import finish
from vlmlake.store_schema.index import written_index
from vlmlake.store_schema.run_record import read_record
from vlmlake.store_schema.schema import ARRAYS, Extents
from vlmlake.store_schema.storage import Storage

EXTENTS = Extents(
    batches=1,
    example_rows=2,
    prefix_rows=1,
    layers=2,
    heads=1,
    tokens=2,
    prefix_tokens=2,
    positions=1,
    hidden=3,
    vocab=2,
)


def flipped(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Every content that is one bit from this one, and the number of that bit."""
    changed = bytearray(content)
    for bit in range(8 * len(content)):
        changed[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(changed)
        changed[bit // 8] ^= 1 << bit % 8


@pytest.fixture
def storage():
    return Storage.at(f"memory://{uuid4().hex}")


@pytest.fixture
def planned(storage):
    planned = new_run(
        storage, record(arrays=("attn_write", "token_role", "unembedding", "final_norm"), extents=EXTENTS)
    )
    commit_batch(storage, planned, 0, batch(2, 1, 2, 0, EXTENTS), rows(planned, 0, 2))
    finish(storage, planned)
    return planned


@pytest.mark.parametrize("name", ["attn_write", "token_role"])
def test_every_bit_of_a_shard_counts(storage, planned, name):
    (spec,) = (spec for spec in ARRAYS if spec.name == name)
    path = shard_file(planned, spec, 0)
    stored = by_us(storage, planned, name)
    whole, content = stored[:], storage.read(path)
    for _, changed in flipped(content):
        storage.write(path, changed)
        shard_part._indexes.clear()
        with pytest.raises(DamagedError, match=rf"{name} of batch 0 of {planned.name} is damaged: the checksum of"):
            stored[:]
    storage.write(path, content)
    np.testing.assert_array_equal(stored[:], whole)


def test_a_bit_in_a_chunk_that_is_not_read_changes_nothing(storage, planned):
    (spec,) = (spec for spec in ARRAYS if spec.name == "attn_write")
    path = shard_file(planned, spec, 0)
    stored = by_us(storage, planned, spec.name)
    wanted, outcomes = stored[:, 1], []
    for _, changed in flipped(storage.read(path)):
        storage.write(path, changed)
        shard_part._indexes.clear()
        try:
            np.testing.assert_array_equal(stored[:, 1], wanted)
            outcomes.append("the same")
        except DamagedError:
            outcomes.append("damaged")
    assert set(outcomes) == {"the same", "damaged"}


def test_every_bit_of_a_commit_counts(storage, planned):
    path = paths.batch(planned.name, 0)
    storage.delete(paths.batch_list(planned.name))
    for bit, changed in flipped(storage.read(path)):
        with pytest.raises(DamagedError, match=r"batches/000000.parquet is damaged"):
            tables.decode(changed, tables.BATCH, path)
        if bit % 997 == 0:
            storage.write(path, changed)
            with pytest.raises(DamagedError, match=r"000000.parquet of .* is damaged: its checksum does not hold"):
                visible(storage, planned)


@pytest.mark.parametrize(
    ("table", "schema"),
    [(paths.batch_list, tables.BATCH), (paths.vocabulary, tables.VOCABULARY)],
    ids=["list", "words"],
)
def test_every_bit_of_a_table_counts(storage, planned, table, schema):
    content = storage.read(table(planned.name))
    assert tables.decode(content, schema, "it")[0].num_rows
    for _, changed in flipped(content):
        with pytest.raises(DamagedError, match="it is damaged"):
            tables.decode(changed, schema, "it")


def test_every_bit_of_the_run_record_counts(storage, planned):
    path = paths.run_record(planned.name)
    for _, changed in flipped(storage.read(path)):
        storage.write(path, changed)
        with pytest.raises(DamagedError, match=r"run.json of .* is damaged \(ValueError: its checksum does not hold"):
            read_record(storage, planned.name)


def test_every_bit_of_the_index_counts(storage, planned):
    content = storage.read(paths.INDEX)
    assert written_index(storage).runs == (planned.name,)
    for _, changed in flipped(content):
        storage.write(paths.INDEX, changed)
        with pytest.raises(DamagedError, match=r"index.json of .* is damaged: its checksum does not hold"):
            written_index(storage)


def test_a_bit_of_the_lakes_header_is_found_or_changes_nothing(storage, planned):
    for _, changed in flipped(storage.read(paths.LAKE)):
        storage.write(paths.LAKE, changed)
        with suppress(VlmlakeError):
            assert open_lake(storage.url).runs == (planned.name,)


def test_a_damaged_batch_list_is_found_by_look(storage, planned):
    path = paths.batch_list(planned.name)
    content = bytearray(storage.read(path))
    content[100] ^= 4
    storage.write(path, bytes(content))
    with pytest.raises(DamagedError, match=r"batches.parquet of .* is damaged"):
        look(storage, planned)
    assert list(look(storage, planned, fresh=True).committed) == [0]

"""Several writers of one batch, their storage operations in every order: one of them has written all that is there."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store_schema.toy import batch, by_us, new_run, record, rows, wanted
from tests.store_schema.turns import every_schedule, take_turns
from vlmlake.store_schema import paths, shards
from vlmlake.store_schema.arrays import Arrays, shard_file, write_batch
from vlmlake.store_schema.commit import Commit
from vlmlake.store_schema.commits import commit_batch, look, visible
from vlmlake.store_schema.schema import Extents
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
    hidden=2,
    vocab=2,
)
PLANNED = record(arrays=("attn_write", "token_role", "unembedding", "final_norm"), extents=EXTENTS)
ARRAYS = [batch(2, 1, 2, seed, EXTENTS) for seed in range(3)]


@pytest.fixture(autouse=True)
def one_thread_encodes(monkeypatch):
    monkeypatch.setattr(shards, "THREADS", 1)


@cache
def laid_out() -> Storage:
    storage = Storage.at(f"memory://{uuid4().hex}")
    new_run(storage, PLANNED)
    return storage


def fresh() -> Storage:
    """The run laid out, nothing of its batch there."""
    storage = laid_out()
    for path in (paths.batch(PLANNED.name, 0), *(shard_file(PLANNED, spec, 0) for spec in PLANNED.batch_specs)):
        storage.delete(path)
    return storage


def writer(storage: Storage, arrays: Arrays, answer: str = "yes"):
    return lambda: commit_batch(storage, PLANNED, 0, arrays, rows(PLANNED, 0, 2, answer))


def naive_writer(storage: Storage, arrays: Arrays):
    """Shards, then the commit, whatever lies there."""

    def write() -> None:
        commit = Commit.of(PLANNED.name, 0, write_batch(storage, PLANNED, 0, arrays), rows(PLANNED, 0, 2))
        storage.write(paths.batch(PLANNED.name, 0), commit.encode())

    return write


def as_committed(storage: Storage) -> bool:
    """Whether the shards that lie there are, byte for byte, those of the commit."""
    (commit,) = visible(storage, PLANNED).values()
    for spec in PLANNED.batch_specs:
        content = storage.read(shard_file(PLANNED, spec, 0))
        if (commit.shards[spec.name].bytes, commit.shards[spec.name].crc32) != (
            len(content),
            zlib.crc32(content),
        ):
            return False
    return True


def whose(storage: Storage, candidates: Sequence[Arrays]) -> set[int]:
    """The writers all of whose arrays are there."""
    found = {spec.name: by_us(storage, PLANNED, spec.name)[:] for spec in PLANNED.batch_specs}
    return {
        number
        for number, arrays in enumerate(candidates)
        if all(np.array_equal(found[name], wanted(PLANNED, arrays, name), equal_nan=True) for name in found)
    }


def assert_one_writers(storage: Storage, candidates: Sequence[Arrays]) -> None:
    assert storage.names(paths.batches(PLANNED.name)) == ("000000.parquet",)
    assert as_committed(storage)
    assert whose(storage, candidates)
    state = look(storage, PLANNED)
    assert (list(state.committed), state.broken, state.begun) == ([0], {}, frozenset())


def test_writers_that_replace_one_anothers_commit_end_in_a_mixture_in_some_order():
    mixtures = []

    def run(schedule):
        storage = fresh()
        made = take_turns([naive_writer(storage, arrays) for arrays in ARRAYS[:2]], schedule)
        if not whose(storage, ARRAYS[:2]):
            assert not as_committed(storage)
            mixtures.append(schedule)
        return made

    orders = list(every_schedule(run))
    assert 0 < len(mixtures) < len(orders)


@pytest.mark.parametrize("equal", [False, True], ids=["different arrays", "equal arrays"])
def test_two_writers_end_with_one_of_them_in_every_order(equal):
    candidates = [ARRAYS[0], ARRAYS[0] if equal else ARRAYS[1]]
    winners = set()

    def run(schedule):
        storage = fresh()
        made = take_turns([writer(storage, arrays) for arrays in candidates], schedule)
        assert_one_writers(storage, candidates)
        winners.update(whose(storage, candidates))
        return made

    orders = list(every_schedule(run))
    assert len(orders) == len(set(map(tuple, orders))) > 200
    assert winners == {0, 1}


@settings(max_examples=120, deadline=None)
@given(schedule=st.lists(st.integers(0, 5), max_size=45), who=st.sampled_from([(0, 1, 2), (0, 1, 1), (0, 0, 1)]))
def test_three_writers_end_with_one_of_them_in_any_order(schedule, who):
    storage, candidates = fresh(), [ARRAYS[number] for number in who]
    take_turns([writer(storage, arrays) for arrays in candidates], schedule)
    assert_one_writers(storage, candidates)


@settings(max_examples=60, deadline=None)
@given(schedule=st.lists(st.integers(0, 1), max_size=30))
def test_rows_are_one_writers_where_only_they_differ(schedule):
    storage = fresh()
    take_turns([writer(storage, ARRAYS[0], answer) for answer in ("yes", "no")], schedule)
    assert_one_writers(storage, ARRAYS[:1])
    (commit,) = visible(storage, PLANNED).values()
    assert set(commit.rows["answer"].to_pylist()) in ({"yes"}, {"no"})


def test_a_batch_that_is_committed_already_is_left_alone():
    storage = fresh()
    assert writer(storage, ARRAYS[0])() > 0
    before = {path: storage.read(path) for path in storage.files(".")}
    assert writer(storage, ARRAYS[1])() == 0
    assert {path: storage.read(path) for path in storage.files(".")} == before

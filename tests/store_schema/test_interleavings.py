"""Several writers of one batch, their storage operations in every order: one of them has written all that is there."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store_schema.toy import batch, new_run, record, rows
from tests.store_schema.turns import every_schedule, take_turns
from vlmlake.store_schema import paths, shards
from vlmlake.store_schema.arrays import Arrays, shard_file, write_batch
from vlmlake.store_schema.commit import Commit, ShardFacts
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


def there(storage: Storage) -> dict[str, tuple[int, int]]:
    """Length and checksum of each shard."""
    contents = {spec.name: storage.read(shard_file(PLANNED, spec, 0)) for spec in PLANNED.batch_specs}
    return {name: (len(content), zlib.crc32(content)) for name, content in contents.items()}


def told(facts: Mapping[str, ShardFacts]) -> dict[str, tuple[int, int]]:
    return {name: (shard.bytes, shard.crc32) for name, shard in facts.items()}


FACTS = [told(write_batch(Storage.at(f"memory://{uuid4().hex}"), PLANNED, 0, arrays)) for arrays in ARRAYS]


def assert_one_writers(storage: Storage, candidates: Sequence[int]) -> None:
    """The batch is visible, its shards are what the commit says, and all of one writer."""
    assert storage.names(paths.batches(PLANNED.name)) == ("000000.parquet",)
    state = look(storage, PLANNED)
    assert (list(state.committed), state.broken, state.begun) == ([0], {}, frozenset())
    assert there(storage) == told(state.committed[0].shards)
    assert there(storage) in [FACTS[number] for number in candidates]


def test_writers_that_replace_one_anothers_commit_end_in_a_mixture_in_some_order():
    mixtures = []

    def run(schedule):
        storage = fresh()
        made = take_turns([naive_writer(storage, arrays) for arrays in ARRAYS[:2]], schedule)
        if there(storage) not in FACTS[:2]:
            assert list(visible(storage, PLANNED)) == [0]
            mixtures.append(schedule)
        return made

    orders = list(every_schedule(run))
    assert 0 < len(mixtures) < len(orders)


@pytest.mark.parametrize("equal", [False, True], ids=["different arrays", "equal arrays"])
def test_two_writers_end_with_one_of_them_in_every_order(equal):
    candidates = (0, 0) if equal else (0, 1)
    winners = []

    def run(schedule):
        storage = fresh()
        made = take_turns([writer(storage, ARRAYS[number]) for number in candidates], schedule)
        assert_one_writers(storage, candidates)
        winners.append(FACTS.index(there(storage)))
        return made

    orders = list(every_schedule(run))
    assert len(orders) == len(set(map(tuple, orders))) > 200
    assert set(winners) == set(candidates)


@settings(max_examples=120, deadline=None)
@given(schedule=st.lists(st.integers(0, 5), max_size=45), who=st.sampled_from([(0, 1, 2), (0, 1, 1), (0, 0, 1)]))
def test_three_writers_end_with_one_of_them_in_any_order(schedule, who):
    storage = fresh()
    take_turns([writer(storage, ARRAYS[number]) for number in who], schedule)
    assert_one_writers(storage, who)


@settings(max_examples=60, deadline=None)
@given(schedule=st.lists(st.integers(0, 1), max_size=30))
def test_rows_are_one_writers_where_only_they_differ(schedule):
    storage = fresh()
    take_turns([writer(storage, ARRAYS[0], answer) for answer in ("yes", "no")], schedule)
    assert_one_writers(storage, [0])
    (commit,) = visible(storage, PLANNED).values()
    assert set(commit.rows["answer"].to_pylist()) in ({"yes"}, {"no"})


def test_a_batch_that_is_committed_already_is_left_alone():
    storage = fresh()
    assert writer(storage, ARRAYS[0])() > 0
    before = {path: storage.read(path) for path in storage.files(".")}
    assert paths.batch(PLANNED.name, 0) in before
    assert writer(storage, ARRAYS[1])() == 0
    assert {path: storage.read(path) for path in storage.files(".")} == before

"""What is said of batches whose commit or shards are not as they were written."""

from __future__ import annotations

from uuid import uuid4

import numpy as np
import pytest

from tests.store_schema.toy import FEW_ARRAYS, batch, commit, new_run, record, rows
from vlmlake.errors import DamagedError
from vlmlake.store_schema import paths
from vlmlake.store_schema.arrays import shard_file, write_batch
from vlmlake.store_schema.commit import Commit
from vlmlake.store_schema.commits import commit_batch, look, visible, withdraw
from vlmlake.store_schema.finish import finish, is_finished
from vlmlake.store_schema.storage import Storage

PLANNED = record(arrays=FEW_ARRAYS)
NAME = PLANNED.name
LOGS = "readout_states"


@pytest.fixture
def storage():
    """Three batches, all committed."""
    storage = Storage.at(f"memory://{uuid4().hex}")
    new_run(storage, PLANNED)
    for number in range(3):
        commit(storage, PLANNED, number, seed=number)
    return storage


def shard(number: int) -> str:
    (spec,) = (spec for spec in PLANNED.specs if spec.name == LOGS)
    return shard_file(PLANNED, spec, number)


def test_a_batch_is_visible_once_it_is_committed(storage):
    state = look(storage, PLANNED)
    assert (list(state.committed), state.broken, state.damaged, state.begun) == (
        [0, 1, 2],
        {},
        frozenset(),
        frozenset(),
    )
    assert visible(storage, PLANNED) == state.committed


def test_shards_without_a_commit_are_begun_and_not_seen(storage):
    withdraw(storage, PLANNED, [1])
    storage.delete(shard(2))
    withdraw(storage, PLANNED, [2])
    state = look(storage, PLANNED)
    assert (list(state.committed), state.broken, state.begun) == ([0], {}, {1, 2})


def test_a_missing_shard_breaks_its_batch(storage):
    storage.delete(shard(1))
    state = look(storage, PLANNED)
    assert list(state.committed) == list(visible(storage, PLANNED)) == [0, 2]
    assert state.broken == {1: f"{shard(1)} is missing"}
    assert state.damaged == frozenset()


def test_a_shard_of_another_length_breaks_its_batch(storage):
    content = storage.read(shard(1))
    for changed in (content[:-1], content + b"x", b""):
        storage.write(shard(1), changed)
        state = look(storage, PLANNED)
        assert list(state.committed) == list(visible(storage, PLANNED)) == [0, 2]
        assert state.broken == {1: f"{shard(1)} has {len(changed)} bytes, its commit says {len(content)}"}


@pytest.mark.parametrize("change", [lambda content: content[:-9], lambda content: b"", lambda content: b"x" + content])
def test_a_damaged_commit_is_named_and_its_batch_computed_again(storage, change):
    path = paths.batch(NAME, 1)
    whole = storage.read(path)
    storage.write(path, change(whole))
    state = look(storage, PLANNED)
    assert (list(state.committed), state.damaged) == ([0, 2], {1})
    assert state.broken[1] == f"{path} of {storage.url} is damaged: its checksum does not hold"
    with pytest.raises(DamagedError, match=r"000001.parquet of .*; `vlmlake extract` computes that batch again"):
        visible(storage, PLANNED)
    commit(storage, PLANNED, 1, seed=1)
    assert storage.read(path) == whole
    assert list(visible(storage, PLANNED)) == [0, 1, 2]


def test_the_commit_of_another_run_or_batch_is_not_taken_for_this_ones(storage):
    other = record("float32", FEW_ARRAYS)
    path = paths.batch(NAME, 1)
    facts = write_batch(storage, PLANNED, 1, batch(seed=1))
    for commit_of, told in ((Commit.of(other.name, 1, facts, []), other.name), (Commit.of(NAME, 2, facts, []), NAME)):
        storage.write(path, commit_of.encode())
        state = look(storage, PLANNED)
        assert (list(state.committed), state.damaged) == ([0, 2], {1})
        assert state.broken[1] == (
            f"{path} of {storage.url} is the commit of batch {commit_of.batch} of the run {told}: remove it"
        )
        with pytest.raises(DamagedError, match="is the commit of batch"):
            visible(storage, PLANNED)


def test_a_commit_that_says_nothing_of_an_array_breaks_its_batch(storage):
    facts = write_batch(storage, PLANNED, 1, batch(seed=1))
    del facts["token_role"]
    storage.write(paths.batch(NAME, 1), Commit.of(NAME, 1, facts, []).encode())
    assert look(storage, PLANNED).broken == {1: "its commit says nothing of token_role"}


def test_files_of_other_names_are_not_looked_at(storage):
    before = look(storage, PLANNED)
    for path in (
        f"{paths.batches(NAME)}/.writing-0123",
        f"{paths.batches(NAME)}/000007.parquet",
        f"{paths.batches(NAME)}/1.parquet",
        f"{paths.batches(NAME)}/notes.txt",
        shard(7),
        shard(1) + ".old",
        f"{paths.arrays(NAME)}/{LOGS}/c/1/0/0/0",
    ):
        storage.write(path, b"?")
    assert look(storage, PLANNED) == before


def test_a_commit_says_the_same_bytes_each_time():
    facts = write_batch(Storage.at(f"memory://{uuid4().hex}"), PLANNED, 1, batch())
    one, two = (Commit.of(NAME, 1, facts, rows(PLANNED, 1)) for _ in range(2))
    assert one.encode() == two.encode()
    again = Commit.decode(one.encode(), NAME, 1, "it")
    assert (again.shards, again.rows) == (facts, one.rows)
    with pytest.raises(ValueError, match=r"columns \['nope'\] are not in the schema"):
        Commit.of(NAME, 1, facts, [{"nope": 1}])


def test_a_batch_taken_back_unfinishes_the_run(storage):
    finish(storage, PLANNED)
    withdraw(storage, PLANNED, [1])
    assert not is_finished(storage, NAME)
    assert list(visible(storage, PLANNED)) == [0, 2]


def test_a_commit_written_again_is_not_shadowed_by_an_old_batch_list(storage):
    """It is as long, and only its arrays are others."""
    finish(storage, PLANNED)
    path = paths.batch(NAME, 1)
    length, old = storage.length(path), visible(storage, PLANNED)[1]
    rng, values = np.random.default_rng(0), batch(seed=1)
    for _ in range(30):
        storage.delete(path)
        signs = rng.choice([-1, 1], values[LOGS].shape)
        arrays = {**values, LOGS: values[LOGS] * signs}
        commit_batch(storage, PLANNED, 1, arrays, rows(PLANNED, 1))
        assert visible(storage, PLANNED)[1].shards == write_batch(storage, PLANNED, 1, arrays)
        if storage.length(path) == length:
            break
    assert storage.length(path) == length
    assert visible(storage, PLANNED)[1].shards != old.shards


def test_a_damaged_commit_written_again_is_not_shadowed_either(storage):
    finish(storage, PLANNED)
    path = paths.batch(NAME, 1)
    storage.write(path, bytes(storage.length(path)))
    arrays = batch(seed=77)
    commit_batch(storage, PLANNED, 1, arrays, rows(PLANNED, 1))
    assert visible(storage, PLANNED)[1].shards == write_batch(storage, PLANNED, 1, arrays)

"""Vectors at scattered places of arrays, as numpy picks them out of the whole array."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store_schema import toy
from vlmlake.errors import DamagedError
from vlmlake.store_schema import schema, shard_part
from vlmlake.store_schema.arrays import shard_file, shard_format
from vlmlake.store_schema.commits import commit_batch
from vlmlake.store_schema.points import Cost, cost_of, read_points
from vlmlake.store_schema.schema import ARRAYS
from vlmlake.store_schema.storage import Storage

SMALL = replace(toy.EXTENTS, tokens=37, prefix_tokens=21, vocab=53, hidden=9)


@pytest.fixture(scope="module", params=["float16", "bfloat16", "float32"])
def laid_out(request, tmp_path_factory):
    """Two of three batches, shorter than planned, in chunks so small that every array has several on most axes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "CHUNK_BYTES", 256)
        patch.setattr(schema, "ONCE_CHUNK_BYTES", 256)
        patch.setattr(schema, "TOKENS_A_CHUNK", 5)
        storage = Storage.at(str(tmp_path_factory.mktemp("lake")))
        planned = toy.new_run(storage, toy.record(request.param, extents=SMALL))
        for number in (0, 2):
            toy.commit(storage, planned, number, seed=number)
        yield storage, planned


def whole(storage, planned, name):
    array = toy.by_us(storage, planned, name, raw=False)
    return array, array[...] if array.ndim == 1 else array[:]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_points_are_what_numpy_picks(laid_out, data):
    storage, planned = laid_out
    spec = data.draw(st.sampled_from(ARRAYS))
    array, values = whole(storage, planned, spec.name)
    axes = data.draw(st.integers(1, array.ndim))
    point = st.tuples(*(st.integers(0, length - 1) for length in array.shape[:axes]))
    chosen = np.array(data.draw(st.lists(point, max_size=12)), int).reshape(-1, axes)
    chosen = np.concatenate([chosen, chosen[: data.draw(st.integers(0, 3))]])
    found = read_points(array, tuple(chosen.T))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, values[tuple(chosen.T)])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_chunk_is_fetched_twice_and_the_cost_is_what_is_fetched(laid_out, data):
    storage, planned = laid_out
    name = data.draw(st.sampled_from(["hidden_states", "attention", "readout_states", "token_logits", "prefix_states"]))
    array = toy.by_us(storage, planned, name)
    axes = data.draw(st.integers(1, array.ndim))
    point = st.tuples(*(st.integers(0, length - 1) for length in array.shape[:axes]))
    chosen = np.array(data.draw(st.lists(point, min_size=1, max_size=12)), int)
    form, rows = shard_format(planned, array.spec), array.rows[chosen[:, 0]]
    lead = {
        (int(row) // form.shape[0], int(row) % form.shape[0] // form.chunks[0], *place)
        for row, place in zip(rows, (chosen[:, 1:] // form.chunks[1:axes]).tolist(), strict=True)
    }
    shards = {batch for batch, *_ in lead}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_part, "_indexes", {})
        asked, read = [], Storage.read_spans
        patch.setattr(Storage, "read_spans", lambda self, spans: asked.extend(spans) or read(self, spans))
        cost = cost_of(array, tuple(chosen.T))
        assert len(asked) == len(shards) == cost.requests - cost.chunks
        asked.clear()
        read_points(array, tuple(chosen.T))
        assert cost_of(array, tuple(chosen.T)).requests == cost.chunks
    assert len(asked) == len(set(asked)) == cost.chunks <= len(lead) * int(np.prod(form.grid[axes:]))
    assert sum(end - start for _, start, end in asked) == cost.bytes


def test_what_was_never_written_is_the_fill_value(tmp_path):
    storage = Storage.at(str(tmp_path))
    planned = toy.new_run(storage, toy.record(extents=SMALL))
    arrays = toy.batch(examples=2, prefixes=1, tokens=3, extents=SMALL)
    commit_batch(storage, planned, 0, arrays, toy.rows(planned, 0, 2))
    states, ids = (toy.by_us(storage, planned, name, raw=False) for name in ("hidden_states", "token_id"))
    places = np.array([0, 3, 1]), np.array([0, 1, 2]), np.array([36, 2, 2])
    found = read_points(states, places)
    assert np.isnan(found[:2]).all()
    assert np.isfinite(found[2]).all()
    assert read_points(ids, (np.array([0, 1]), np.array([36, 2]))).tolist() == [-1, arrays["token_id"][1, 2]]
    assert cost_of(states, tuple(axis[:2] for axis in places)) == Cost()


def test_no_points_are_nothing(laid_out):
    storage, planned = laid_out
    array = toy.by_us(storage, planned, "hidden_states")
    none = np.empty(0, int)
    assert read_points(array, (none, none, none)).shape == (0, SMALL.hidden)
    assert cost_of(array, (none, none, none)) == Cost()


def test_a_place_beyond_an_axis_is_no_place(laid_out):
    storage, planned = laid_out
    array = toy.by_us(storage, planned, "readout_states")
    with pytest.raises((IndexError, ValueError)):
        read_points(array, (np.array([0]), np.array([99]), np.array([0])))
    with pytest.raises(IndexError):
        read_points(array, (np.array([999]), np.array([0]), np.array([0])))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda content: None, "its shard is missing"),
        (lambda content: content[: len(content) // 2], "its shard is cut short|index"),
        (lambda content: bytes([content[0] ^ 1]) + content[1:], "the checksum of a chunk does not hold"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "the checksum of its index does not hold"),
    ],
)
def test_damage_is_named_where_it_lies_and_nowhere_else(tmp_path, damage, why):
    storage = Storage.at(str(tmp_path))
    planned = toy.new_run(storage, toy.record())
    for number in range(2):
        toy.commit(storage, planned, number)
    array = toy.by_us(storage, planned, "readout_states")
    path = shard_file(planned, array.spec, 1)
    content = damage(storage.read(path))
    storage.delete(path) if content is None else storage.write(path, content)
    shard_part._indexes.clear()
    place = np.array([0]), np.array([0])
    assert np.isfinite(read_points(array, (np.array([0]), *place)).astype(float)).all()
    with pytest.raises(
        DamagedError, match=f"readout_states of batch 1 of {planned.name} is damaged: .*({why})"
    ) as told:
        read_points(array, (np.array([4]), *place))
    assert path in str(told.value)


def test_indexes_are_forgotten_oldest_first_whoever_adds_them(laid_out, monkeypatch):
    storage, planned = laid_out
    monkeypatch.setattr(shard_part, "_indexes", {("other", str(number), 0): np.empty(0) for number in range(9)})
    monkeypatch.setattr(shard_part, "INDEXES_KEPT", 2)
    array = toy.by_us(storage, planned, "readout_states")
    read_points(array, (np.array([0, 4]), np.array([0, 0]), np.array([0, 0])))
    assert [path for _, path, _ in shard_part._indexes] == [
        shard_file(planned, array.spec, number) for number in (0, 2)
    ]

"""Our reader of shards beside zarr-python's, on whatever shapes, chunks, dtypes and selections."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer.cpu import Buffer
from zarr.storage import MemoryStore

from tests.store_schema.toy import EXTENTS, batch, by_us, by_zarr, commit, new_run, record, rows, wanted
from vlmlake.store_schema import bfloat16
from vlmlake.store_schema.commits import commit_batch
from vlmlake.store_schema.shard_reader import DamagedShardError, ShardFormat
from vlmlake.store_schema.shards import encode_shard
from vlmlake.store_schema.storage import Storage

DTYPES = [np.dtype(name) for name in ("float16", "float32", "int8", "int16", "int32")] + [bfloat16.BFLOAT16]


def bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


@st.composite
def written_shards(draw):
    """A format, the values of a shard whole, and the bytes of it."""
    chunks = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    shape = [chunk * draw(st.integers(1, 3)) for chunk in chunks]
    dtype = draw(st.sampled_from(DTYPES))
    there = tuple(draw(st.integers(1, length)) for length in shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    fill = -1 if dtype.kind == "i" else float("nan")
    values = rng.integers(-1, 3, there).astype(dtype) if dtype.kind == "i" else rng.normal(size=there).astype(dtype)
    values[rng.random(there) < draw(st.sampled_from([0, 0.3, 1]))] = fill
    whole = np.full(shape, fill, dtype)
    whole[tuple(map(slice, there))] = values
    form = ShardFormat(tuple(shape), tuple(chunks), dtype, fill)
    return form, whole, b"".join(encode_shard(values, form.shape, form.chunks, fill).parts)


def read_by_zarr(form: ShardFormat, content: bytes) -> np.ndarray:
    store = MemoryStore()
    array = zarr.create_array(
        store,
        shape=form.shape,
        chunks=form.chunks,
        shards=form.shape,
        dtype=form.dtype,
        fill_value=form.fill_value,
        compressors=[ZstdCodec(level=-1), Crc32cCodec()],
    )
    store._store_dict["c/" + "/".join("0" for _ in form.shape)] = Buffer.from_bytes(content)
    return array[...]


def read_by_us(form: ShardFormat, content: bytes, selection: list[np.ndarray]) -> np.ndarray:
    spans = form.spans(form.index(content[-form.index_bytes :]), selection)
    target = form.empty([len(axis) for axis in selection])
    form.place({place: content[start:end] for place, (start, end) in spans.items()}, selection, target)
    return target


@settings(max_examples=40, deadline=None)
@given(written=written_shards(), data=st.data())
def test_a_shard_reads_as_zarr_reads_it(written, data):
    form, whole, content = written
    theirs = read_by_zarr(form, content)
    np.testing.assert_array_equal(bits(theirs), bits(whole))
    np.testing.assert_array_equal(bits(form.whole(content)), bits(theirs))
    selection = [
        np.array(data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=5))) for length in form.shape
    ]
    np.testing.assert_array_equal(bits(read_by_us(form, content, selection)), bits(theirs[np.ix_(*selection)]))


@settings(max_examples=40, deadline=None)
@given(written=written_shards(), data=st.data())
def test_no_more_chunks_are_asked_for_than_hold_the_selection(written, data):
    form, _, content = written
    index = form.index(content[-form.index_bytes :])
    drawn = (data.draw(st.lists(st.integers(0, length - 1), max_size=3)) for length in form.shape)
    selection = [np.array(axis, int) for axis in drawn]
    pieces = ({at // chunk for at in axis} for axis, chunk in zip(selection, form.chunks, strict=True))
    touched = set(itertools.product(*pieces))
    spans = form.spans(index, selection)
    assert set(spans) <= touched
    assert list(spans.values()) == sorted(spans.values())


def test_a_shard_that_is_cut_or_changed_says_where():
    form = ShardFormat((4,), (2,), np.dtype(np.int16), -1)
    content = b"".join(encode_shard(np.arange(4, dtype=np.int16), (4,), (2,), -1).parts)
    with pytest.raises(DamagedShardError, match=r"its index has 35 bytes, expected 36"):
        form.index(content[-35:])
    with pytest.raises(DamagedShardError, match="the checksum of its index does not hold"):
        form.index(content[-37:-1])
    with pytest.raises(DamagedShardError, match="the checksum of a chunk does not hold"):
        form.decode(b"")
    with pytest.raises(DamagedShardError, match="the checksum of a chunk does not hold"):
        form.whole(b"\0" + content[1:])


def keys_of(length: int):
    """Numbers, slices with steps, and lists."""
    whole_numbers = st.integers(-length, length - 1)
    return st.one_of(
        whole_numbers,
        st.slices(length),
        st.lists(whole_numbers, min_size=1, max_size=6),
        st.lists(whole_numbers, min_size=1, max_size=6).map(np.array),
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Two of three batches, the last one short."""
    storage = Storage.at(str(tmp_path_factory.mktemp("lake")))
    planned = new_run(storage, record("bfloat16"))
    commit(storage, planned, 0, seed=1)
    commit_batch(storage, planned, 2, batch(3, 1, 9, seed=2), rows(planned, 2, 3))
    return storage, planned


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_selection_of_a_run_is_numpys_of_what_zarr_reads(lake, data):
    storage, planned = lake
    spec = data.draw(st.sampled_from(planned.specs))
    ours, theirs = by_us(storage, planned, spec.name), by_zarr(storage, planned)[spec.name][...]
    if not spec.once:
        held = EXTENTS.shard(spec.dimensions[0])
        theirs = np.concatenate([theirs[:held], theirs[2 * held : 3 * held]])
    assert ours.shape == theirs.shape
    selection = tuple(data.draw(keys_of(length)) for length in ours.shape[: data.draw(st.integers(1, ours.ndim))])
    expected = theirs
    for axis, key in reversed(list(enumerate(selection))):
        expected = expected[(*(slice(None),) * axis, key)]
    found = ours[selection]
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(bits(found), bits(expected))


def test_rows_in_any_order_and_twice_come_from_their_batches(lake):
    storage, planned = lake
    ours = by_us(storage, planned, "readout_states")
    order = [7, 0, 5, 5, 3, 1, 0]
    np.testing.assert_array_equal(bits(ours[order]), bits(ours[:][order]))


def test_a_place_beyond_the_array_is_an_index_error(lake):
    ours = by_us(*lake, "logits")
    for key in (8, -9, (0, 3), (0, [0, 3])):
        with pytest.raises(IndexError):
            ours[key]


def test_an_index_that_is_remembered_is_of_that_very_shard(tmp_path):
    storage = Storage.at(str(tmp_path))
    planned = new_run(storage, record())
    for seed, examples in ((1, 4), (2, 2), (3, 4)):
        storage.delete(f"runs/{planned.name}/batches/000000.parquet")
        arrays = batch(examples, 2, 20, seed=seed)
        commit_batch(storage, planned, 0, arrays, rows(planned, 0, examples))
        for name in ("logits", "readout_states", "attention"):
            there = wanted(planned, arrays, name)
            np.testing.assert_array_equal(bits(by_us(storage, planned, name)[:]), bits(there))

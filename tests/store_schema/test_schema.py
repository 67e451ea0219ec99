from dataclasses import replace
from math import prod

import ml_dtypes
import numpy as np
import pytest

from vlmlake.store_schema.schema import ARRAYS, BATCH_DIMENSIONS, CHUNK_BYTES, STORED_DTYPES, Extents

TINY = Extents(
    batches=5,
    example_rows=24,
    prefix_rows=2,
    layers=5,
    heads=4,
    tokens=28,
    prefix_tokens=40,
    positions=5,
    hidden=64,
    vocab=341,
)
LLAVA_7B = Extents(
    batches=167,
    example_rows=18,
    prefix_rows=1,
    layers=33,
    heads=32,
    tokens=46,
    prefix_tokens=581,
    positions=17,
    hidden=4096,
    vocab=32064,
)
BATCH_SPECS = tuple(spec for spec in ARRAYS if not spec.once)
ODD = replace(TINY, example_rows=7, prefix_rows=3, tokens=17, heads=5, vocab=1)


@pytest.mark.parametrize("extents", [TINY, LLAVA_7B, ODD], ids=["tiny", "llava-7b", "odd"])
@pytest.mark.parametrize("spec", ARRAYS, ids=lambda spec: spec.name)
def test_chunks_fill_shards_and_shards_are_batches(spec, extents):
    layout = spec.layout(extents, "float16")
    for dimension, length, chunk, shard in zip(
        spec.dimensions, layout.shape, layout.chunks, layout.shards, strict=True
    ):
        assert shard % chunk == 0
        assert chunk <= length
        if dimension in BATCH_DIMENSIONS:
            assert shard == extents.shard(dimension)
            assert length == extents.batches * shard
        else:
            assert length <= shard < length + chunk


def test_one_batch_is_one_shard_of_every_batch_array():
    for spec in BATCH_SPECS:
        layout = spec.layout(LLAVA_7B, "float16")
        shards = prod(-(-length // shard) for length, shard in zip(layout.shape, layout.shards, strict=True))
        assert shards == LLAVA_7B.batches


def test_chunks_of_a_real_model_are_about_their_aim():
    for spec in BATCH_SPECS:
        if spec.grow:
            stored = prod(spec.layout(LLAVA_7B, "float16").chunks) * 2
            assert CHUNK_BYTES / 2 <= stored <= CHUNK_BYTES, spec.name


def test_every_array_is_described_and_none_is_named_like_a_dimension():
    dimensions = {dimension for spec in ARRAYS for dimension in spec.dimensions}
    assert len({spec.name for spec in ARRAYS}) == len(ARRAYS)
    for spec in ARRAYS:
        assert spec.description
        assert spec.name not in dimensions


def test_an_empty_axis_is_refused_by_name():
    with pytest.raises(ValueError, match="extent hidden is 0"):
        replace(TINY, hidden=0)


@pytest.mark.parametrize("stored", STORED_DTYPES)
def test_attention_is_never_stored_in_bfloat16(stored):
    widths = {"activation": stored, "weight": "float16" if stored == "bfloat16" else stored}
    for spec in ARRAYS:
        assert spec.is_float == (spec.kind in widths)
        if spec.is_float:
            assert spec.dtype(stored).name == widths[spec.kind]
            assert np.isnan(spec.fill_value)
    assert {spec.name for spec in ARRAYS if spec.kind == "weight"} == {
        "attention",
        "readout_attention",
        "prefix_attention",
    }


def test_bfloat16_is_that_of_ml_dtypes():
    (states,) = (spec for spec in ARRAYS if spec.name == "hidden_states")
    assert states.dtype("bfloat16") == np.dtype(ml_dtypes.bfloat16)

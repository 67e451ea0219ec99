"""A toy run: its record, the arrays and rows of its batches, and what a reader sees of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from vlmlake.store_schema import paths
from vlmlake.store_schema.arrays import Arrays
from vlmlake.store_schema.commits import commit_batch, create_run, visible
from vlmlake.store_schema.lake import create_lake
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ARRAYS, BATCH_DIMENSIONS, Extents, layer_names, position_names
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.stored_array import StoredArray

EXTENTS = Extents(
    batches=3,
    example_rows=4,
    prefix_rows=2,
    layers=3,
    heads=2,
    tokens=20,
    prefix_tokens=10,
    positions=3,
    hidden=8,
    vocab=11,
)

EVERY_ARRAY = tuple(spec.name for spec in ARRAYS)
FEW_ARRAYS = ("readout_states", "attn_write", "token_role", "unembedding", "final_norm")
"""Three shards a batch: enough to tell writers apart, few enough to try every order of theirs."""


def record(
    dtype: str = "float16", arrays: tuple[str, ...] = EVERY_ARRAY, extents: Extents = EXTENTS, model: str = "toy"
) -> RunRecord:
    return RunRecord(
        model=model,
        identity={"dtype": dtype, "arrays": list(arrays)},
        examples=extents.batches * extents.example_rows,
        rows=extents.batches * extents.example_rows,
        extents=extents,
        stored_dtype=dtype,
        arrays=arrays,
        layers=layer_names(extents.layers - 1),
        positions=position_names(extents.positions - 1),
        final_norm={},
        versions={},
    )


def batch(
    examples: int = 4, prefixes: int = 2, tokens: int = 20, seed: int = 0, extents: Extents = EXTENTS
) -> dict[str, np.ndarray]:
    """Random arrays of one batch, `tokens` long."""
    rng = np.random.default_rng(seed)
    arrays = {}
    lengths = {
        "example": examples,
        "prefix": prefixes,
        "token": tokens,
        "query": tokens,
        "key": extents.prefix_tokens + tokens,
    }
    for spec in (spec for spec in ARRAYS if not spec.once):
        shape = [lengths.get(dimension, extents.shard(dimension)) for dimension in spec.dimensions]
        arrays[spec.name] = rng.normal(size=shape).astype(np.float32) if spec.is_float else rng.integers(0, 3, shape)
    return arrays


def once(extents: Extents = EXTENTS) -> dict[str, np.ndarray]:
    """What the run shares."""
    return {
        "unembedding": np.ones((extents.vocab, extents.hidden), np.float32),
        "final_norm": np.ones(extents.hidden, np.float32),
    }


def rows(planned: RunRecord, number: int, examples: int = 4, answer: str = "yes") -> list[dict[str, Any]]:
    """One row per example of a batch; every example has its own row, and the first prefix."""
    extents = planned.extents
    return [
        {
            "run": planned.name,
            "example": f"e{number}.{place}",
            "answer": answer,
            "batch": number,
            "row": number * extents.example_rows + place,
            "prefix": number * extents.prefix_rows,
            "samples": [],
        }
        for place in range(examples)
    ]


def new_run(storage: Storage, planned: RunRecord) -> RunRecord:
    """A lake with the run laid out in it, no batch committed."""
    create_lake(storage.address)
    create_run(storage, planned, once(planned.extents), [f"word {number}" for number in range(planned.extents.vocab)])
    return planned


def commit(storage: Storage, planned: RunRecord, number: int, seed: int = 0, answer: str = "yes") -> dict[str, Any]:
    """Commit random arrays as a batch; the arrays."""
    extents = planned.extents
    arrays = batch(extents.example_rows, extents.prefix_rows, extents.tokens, seed, extents)
    commit_batch(storage, planned, number, arrays, rows(planned, number, extents.example_rows, answer))
    return arrays


def by_zarr(storage: Storage, planned: RunRecord) -> zarr.Group:
    """A local run's arrays as zarr-python has them."""
    return zarr.open_group(str(Path(storage.root) / paths.arrays(planned.name)), mode="r")


def by_us(storage: Storage, planned: RunRecord, name: str, raw: bool = True, numbers: Any = None) -> StoredArray:
    """One array as our own reader has it: the rows of the visible batches, or of some of them."""
    (spec,) = (spec for spec in ARRAYS if spec.name == name)
    commits = visible(storage, planned)
    held = planned.extents.shard(spec.dimensions[0])
    where = [number * held + place for number in (commits if numbers is None else numbers) for place in range(held)]
    shared = spec.dimensions[0] not in BATCH_DIMENSIONS
    facts = {} if shared else {number: commits[number].shards[name] for number in commits}
    return StoredArray(storage, planned, spec, None if shared else np.array(where, int), facts, raw)


def wanted(planned: RunRecord, arrays: Arrays, name: str) -> np.ndarray:
    """One array of a batch as it must be read back: in the stored dtype, padded."""
    (spec,) = (spec for spec in ARRAYS if spec.name == name)
    shape = [planned.extents.shard(dimension) for dimension in spec.dimensions]
    whole = np.full(shape, spec.fill_value, spec.dtype(planned.stored_dtype))
    whole[tuple(slice(0, length) for length in arrays[name].shape)] = arrays[name].astype(whole.dtype)
    return whole

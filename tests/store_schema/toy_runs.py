"""Small runs of random numbers for tests of the store: no model, no images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vlmlake.store_schema.commits import commit_batch, create_run, record_skipped
from vlmlake.store_schema.finish import finish
from vlmlake.store_schema.lake import create_lake
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ARRAYS, ONCE_ARRAYS, Extents, layer_names, position_names
from vlmlake.store_schema.storage import Storage

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
ROWS_OF_BATCH = 5
"""Examples in a batch: two of them ask the same."""


def toy_record(dtype: str = "float16", **changed) -> RunRecord:
    record = RunRecord(
        model="toy",
        identity={"dtype": dtype},
        examples=3 * ROWS_OF_BATCH,
        rows=12,
        extents=EXTENTS,
        stored_dtype=dtype,
        arrays=EVERY_ARRAY,
        layers=layer_names(2),
        positions=position_names(2),
        final_norm={"kind": "rms", "epsilon": 1e-6},
        versions={"vlmlake": "0"},
    )
    return replace(record, **changed)


def toy_batch(record: RunRecord, seed: int, tokens: int = 17) -> dict[str, np.ndarray]:
    """Random arrays of one batch, `tokens` long; no attention and no writes at `embed`."""
    rng = np.random.default_rng(seed)
    lengths = {"token": tokens, "query": tokens, "key": record.extents.prefix_tokens + tokens}
    arrays = {}
    for spec in record.batch_specs:
        shape = [lengths.get(dimension, record.extents.shard(dimension)) for dimension in spec.dimensions]
        if spec.is_float:
            values = rng.normal(size=shape).astype(np.float32)
            if spec.blocks_only:
                values[:, 0] = np.nan
        else:
            values = rng.integers(0, 3, shape).astype(spec.dtype(record.stored_dtype))
        arrays[spec.name] = values
    return arrays


def toy_rows(record: RunRecord, number: int) -> list[dict[str, object]]:
    """Five examples of four rows and two prefixes; the last asks what the fourth does."""
    return [
        {
            "run": record.name,
            "example": f"e{number}{place}",
            "dataset": "toy",
            "split": ("even", "odd")[place % 2],
            "image": f"image_{number}_{min(place, 3) // 2}",
            "question": f"question {min(place, 3)}",
            "gold": "yes",
            "batch": number,
            "row": number * record.extents.example_rows + min(place, 3),
            "prefix": number * record.extents.prefix_rows + min(place, 3) // 2,
            "prefix_tokens": 10,
            "suffix_tokens": 15,
            "answer": "yes",
            "answer_tokens": 2,
            "token_ids": [1, 2],
            "log_probs": [-0.5, -0.25],
            "first_log_prob": -0.5 - place,
            "samples": [{"sample": 0, "answer": "no", "token_ids": [1], "log_probs": [-1.0]}],
        }
        for place in range(ROWS_OF_BATCH)
    ]


def lay_out(url: str, record: RunRecord, storage_options: dict[str, object] | None = None) -> Storage:
    """A lake with the run and none of its batches."""
    storage = create_lake(url, storage_options).storage
    rng = np.random.default_rng(7)
    shapes = {spec.name: [record.extents.length(dimension) for dimension in spec.dimensions] for spec in ONCE_ARRAYS}
    once = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    create_run(storage, record, once, [f"word {number}" for number in range(record.extents.vocab)])
    return storage


def commit(storage: Storage, record: RunRecord, number: int) -> None:
    commit_batch(storage, record, number, toy_batch(record, seed=number), toy_rows(record, number))


def toy_run(
    url: str,
    record: RunRecord | None = None,
    numbers: tuple[int, ...] = (0, 1, 2),
    storage_options: dict[str, object] | None = None,
) -> Run:
    """A run with these batches, finished if they are all; one example was skipped."""
    record = record or toy_record()
    storage = lay_out(url, record, storage_options)
    record_skipped(storage, record.name, [{"run": record.name, "example": "torn", "reason": "torn"}])
    for number in numbers:
        commit(storage, record, number)
    if len(numbers) == record.extents.batches:
        finish(storage, record)
    return Run(storage, record)

"""A small finished lake of made-up values that could be a model's: two batches of three questions about two images."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vlmlake.store_schema import paths, tables
from vlmlake.store_schema.arrays import shard_file
from vlmlake.store_schema.commit import Commit, ShardFacts
from vlmlake.store_schema.commits import commit_batch, create_run, withdraw
from vlmlake.store_schema.finish import finish
from vlmlake.store_schema.index import refresh_index
from vlmlake.store_schema.lake import Lake, create_lake
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ANSWER, ARRAYS, IMAGE, QUESTION, SYSTEM, Extents, layer_names, position_names

EXTENTS = Extents(
    batches=2,
    example_rows=3,
    prefix_rows=2,
    layers=3,
    heads=2,
    tokens=8,
    prefix_tokens=6,
    positions=3,
    hidden=4,
    vocab=11,
)
PREFIXES = (6, 5)
"""Tokens of the two prefixes: a system token, an image of 2 x 2, and another system token in the first."""
QUESTIONS = ((0, 4, 1), (0, 5, 2), (1, 3, 0))
"""Of each row its prefix, and the tokens of its suffix and its answer."""
ARRAY_NAMES = tuple(spec.name for spec in ARRAYS)

Arrays = dict[str, np.ndarray]
Rows = list[dict[str, Any]]
Change = Callable[[Arrays, Rows], None]


def record_of(dtype: str = "float16", shared: bool = True) -> RunRecord:
    return RunRecord(
        model="toy",
        identity={"plan": {"shared_prefix": shared}, "dtype": dtype},
        examples=8,
        rows=6,
        extents=EXTENTS,
        stored_dtype=dtype,
        arrays=ARRAY_NAMES,
        layers=layer_names(2),
        positions=position_names(2),
        final_norm={"kind": "rms", "epsilon": 1e-6},
        versions={},
    )


def make_lake(url: str, dtype: str = "float16", shared: bool = True) -> Lake:
    """A finished run, and what an analysis found in it."""
    lake, record = create_lake(url), record_of(dtype, shared)
    once = {"unembedding": np.ones((11, 4), np.float32), "final_norm": np.ones(4, np.float32)}
    create_run(lake.storage, record, once, [f"word {number}" for number in range(11)])
    for number in range(2):
        commit_batch(lake.storage, record, number, batch_arrays(record, number), batch_rows(record, number))
    finish(lake.storage, record)
    result = {"analysis": "accuracy", "run": record.name, "rule": "exact", "metric": "accuracy", "value": 0.5}
    path = paths.finding("results", "accuracy", record.name, "exact")
    lake.storage.write(path, tables.to_parquet([result], tables.RESULTS))
    refresh_index(lake.storage)
    return lake


def changed(lake: Lake, record: RunRecord, change: Change) -> Lake:
    """The lake with another batch 1, which makes the run unfinished. change: what to do to its arrays and its rows."""
    arrays, rows = batch_arrays(record, 1), batch_rows(record, 1)
    change(arrays, rows)
    withdraw(lake.storage, record, [1])
    commit_batch(lake.storage, record, 1, arrays, rows)
    return lake


def recommit(lake: Lake, record: RunRecord, number: int, name: str, content: bytes | None, **facts: Any) -> None:
    """Put another shard in an array's place, if any, and let the commit say what it is."""
    path = paths.batch(record.name, number)
    commit = Commit.decode(lake.storage.read(path), record.name, number, path)
    said = replace(commit.shards[name], **facts)
    if content is not None:
        spec = next(spec for spec in record.specs if spec.name == name)
        lake.storage.write(shard_file(record, spec, number), content)
        said = ShardFacts(len(content), zlib.crc32(content), said.largest)
    lake.storage.write(path, replace(commit, shards={**commit.shards, name: said}).encode())
    finish(lake.storage, record)


def batch_rows(record: RunRecord, number: int) -> Rows:
    """One row a question, and one more for the first, which two examples ask."""
    rows = []
    for place, (prefix, suffix, answer) in enumerate(QUESTIONS):
        ids = [*range(2, 2 + answer), 1]
        for asker in "ab"[: 2 - min(place, 1)]:
            rows.append(
                {
                    "run": record.name,
                    "example": f"toy/{number}/{place}{asker}",
                    "image_sha256": f"{number}{prefix}",
                    "question": f"question {place}",
                    "prompt": f"<image> question {place}",
                    "prefix_tokens": PREFIXES[prefix],
                    "suffix_tokens": suffix,
                    "batch": number,
                    "row": 3 * number + place,
                    "prefix": 2 * number + prefix,
                    "answer": "word",
                    "answer_tokens": answer,
                    "token_ids": ids,
                    "log_probs": [-0.5] * len(ids),
                    "finish": "stop",
                    "samples": [],
                }
            )
    return rows


def batch_arrays(record: RunRecord, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    arrays: Arrays = {}
    for spec in record.batch_specs:
        shape = [EXTENTS.shard(dimension) for dimension in spec.dimensions]
        arrays[spec.name] = np.full(shape, spec.fill_value, np.float32 if spec.is_float else np.int64)
    for row, (prefix, suffix, answer) in enumerate(QUESTIONS):
        _fill_question(arrays, rng, row, PREFIXES[prefix], suffix, answer)
    for row, length in enumerate(PREFIXES):
        _fill_prefix(arrays, rng, row, length)
    return arrays


def _fill_question(arrays: Arrays, rng: np.random.Generator, row: int, prefix: int, suffix: int, answer: int) -> None:
    tokens = suffix + answer
    arrays["hidden_states"][row, :, :tokens] = rng.normal(size=(3, tokens, 4))
    arrays["readout_states"][row, :, : 1 + answer] = rng.normal(size=(3, 1 + answer, 4))
    arrays["logits"][row, : 1 + answer] = rng.normal(size=(1 + answer, 11))
    arrays["token_logits"][row, :tokens] = rng.normal(size=(tokens, 11))
    arrays["blank_states"][row] = rng.normal(size=(3, 4))
    arrays["blank_logits"][row] = rng.normal(size=11)
    for name in ("attn_write", "mlp_write"):
        arrays[name][row, 1:] = rng.normal(size=(2, 4))
    for query in range(tokens):
        weights = np.zeros((2, 2, prefix + tokens))
        weights[..., : prefix + query + 1] = rng.dirichlet(np.ones(prefix + query + 1), (2, 2))
        arrays["attention"][row, 1:, :, query, :prefix] = weights[..., :prefix]
        arrays["attention"][row, 1:, :, query, 6 : 6 + tokens] = weights[..., prefix:]
    shares = rng.dirichlet(np.ones(prefix + 3), (2, 2, 1 + answer))
    arrays["readout_attention"][row, 1:, :, : 1 + answer, :prefix] = shares[..., :prefix]
    arrays["token_id"][row, :tokens] = [*range(3, 3 + suffix), *range(2, 2 + answer)]
    arrays["token_role"][row, :tokens] = [QUESTION] * suffix + [ANSWER] * answer


def _fill_prefix(arrays: Arrays, rng: np.random.Generator, row: int, length: int) -> None:
    arrays["prefix_states"][row, :, :length] = rng.normal(size=(3, length, 4))
    arrays["prefix_logits"][row, :length] = rng.normal(size=(length, 11))
    arrays["image_update"][row, 1:] = rng.random(2)
    for query in range(length):
        arrays["prefix_attention"][row, 1:, :, query, :length] = 0
        arrays["prefix_attention"][row, 1:, :, query, : query + 1] = rng.dirichlet(np.ones(query + 1), (2, 2))
    roles: Sequence[int] = [SYSTEM, *[IMAGE] * 4, SYSTEM][:length]
    arrays["prefix_token_role"][row, :length] = roles
    arrays["prefix_token_id"][row, :length] = range(length)
    arrays["image_row"][row, 1:5] = [0, 0, 1, 1]
    arrays["image_column"][row, 1:5] = [0, 1, 0, 1]

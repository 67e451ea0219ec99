"""Lakes of made-up runs for queries: ragged lengths, images of several sizes, shared prefixes or not, any plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmlake.store_schema.commits import commit_batch, create_run
from vlmlake.store_schema.finish import finish
from vlmlake.store_schema.lake import Lake, create_lake
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ALWAYS, ANSWER, ARRAYS, CUE, IMAGE, QUESTION, SYSTEM, Extents

EVERY_ARRAY = (
    *("hidden_states", "prefix_states", "attention", "readout_states", "logits", "readout_attention"),
    "prefix_attention",
)
"""What the relations are made of."""
LAYERS = ("embed", "block_0", "block_1")
POSITIONS = ("prompt_last", "answer_0", "answer_1")
ROWS, EXAMPLES_A_ROW = 3, (2, 1, 1)
LONGEST_SUFFIX, LONGEST_ANSWER = 18, 2
"""More than one chunk of tokens has; as many answer tokens as there are positions for."""


@dataclass(frozen=True)
class Plan:
    """What a made-up run is. grids: patches of the images, in turn; behind: system tokens behind an image, in turn;
    committed: batches that are there, of three.
    """

    model: str = "toy"
    dtype: str = "float16"
    shared: bool = True
    arrays: Sequence[str] = EVERY_ARRAY
    layers: Sequence[str] = LAYERS
    positions: Sequence[str] = POSITIONS
    grids: Sequence[tuple[int, int]] = ((2, 2), (3, 6))
    behind: Sequence[int] = (0, 1)
    hidden: int = 4
    heads: int = 2
    vocab: int = 13
    committed: Sequence[int] = (0, 1, 2)

    @property
    def record(self) -> RunRecord:
        kept = tuple(spec.name for spec in ARRAYS if spec.name in {*self.arrays, *ALWAYS})
        extents = Extents(
            batches=3,
            example_rows=ROWS,
            prefix_rows=2 if self.shared else ROWS,
            layers=len(self.layers),
            heads=self.heads,
            tokens=LONGEST_SUFFIX + LONGEST_ANSWER,
            prefix_tokens=1 + max(self.behind) + max(rows * columns for rows, columns in self.grids),
            positions=len(self.positions),
            hidden=self.hidden,
            vocab=self.vocab,
        )
        identity = {"model": {"type": self.model}, "dtype": self.dtype, "shared": self.shared, "arrays": list(kept)}
        return RunRecord(
            model=self.model,
            identity={**identity, "layers": list(self.layers), "positions": list(self.positions)},
            examples=3 * sum(EXAMPLES_A_ROW),
            rows=3 * ROWS,
            extents=extents,
            stored_dtype=self.dtype,
            arrays=kept,
            layers=tuple(self.layers),
            positions=tuple(self.positions),
            final_norm={"kind": "rms", "epsilon": 1e-6},
            versions={},
        )


def make_lake(url: str, *plans: Plan, storage_options: dict[str, Any] | None = None) -> Lake:
    """A lake of these runs, each finished where all of its batches are there."""
    lake = create_lake(url, storage_options)
    for plan in plans:
        record = plan.record
        once = {
            "unembedding": np.ones((plan.vocab, plan.hidden), np.float32),
            "final_norm": np.ones(plan.hidden, np.float32),
        }
        create_run(lake.storage, record, once, [f"wörd '{number}'" for number in range(plan.vocab)])
        for number in plan.committed:
            arrays, rows = _Batch(plan, number).made()
            commit_batch(lake.storage, record, number, arrays, rows)
        if len(plan.committed) == 3:
            finish(lake.storage, record)
    return lake


class _Batch:
    """One batch of a plan: lengths first, then values wherever the format has a place for one."""

    def __init__(self, plan: Plan, number: int):
        self.plan, self.number, self.record = plan, number, plan.record
        self.rng = np.random.default_rng([number, len(plan.model), plan.hidden])
        extents = self.record.extents
        self.suffix = self.rng.integers(1, LONGEST_SUFFIX + 1, ROWS)
        self.answer = self.rng.permutation(LONGEST_ANSWER + 1)[:ROWS]
        self.prefix_of = [min(row, extents.prefix_rows - 1) for row in range(ROWS)]
        grids = [plan.grids[(number + prefix) % len(plan.grids)] for prefix in range(extents.prefix_rows)]
        if not plan.shared:
            grids[1] = grids[0]  # two questions about one image
        self.grids = grids
        self.prefix_length = [
            1 + rows * columns + plan.behind[prefix % len(plan.behind)] for prefix, (rows, columns) in enumerate(grids)
        ]
        self.arrays = {
            spec.name: np.full(
                [extents.shard(dimension) for dimension in spec.dimensions],
                spec.fill_value,
                np.float32 if spec.is_float else np.int64,
            )
            for spec in self.record.batch_specs
        }

    def made(self) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
        for prefix, length in enumerate(self.prefix_length):
            self._fill_prefix(prefix, length, self.grids[prefix])
        for row in range(ROWS):
            self._fill_row(row)
        return self.arrays, self._rows()

    def _put(self, name: str, place: tuple[Any, ...], values: np.ndarray) -> None:
        if name in self.arrays:
            self.arrays[name][place] = values

    def _normal(self, name: str, *place: Any) -> None:
        if name in self.arrays:
            self.arrays[name][place] = self.rng.normal(size=self.arrays[name][place].shape)

    @property
    def _blocks(self) -> list[int]:
        return [place for place, layer in enumerate(self.plan.layers) if layer != "embed"]

    def _fill_prefix(self, prefix: int, length: int, grid: tuple[int, int]) -> None:
        patches = grid[0] * grid[1]
        cells = self.rng.permutation(patches) if self.plan.model == "shuffled" else np.arange(patches)
        roles = [SYSTEM, *[IMAGE] * patches, *[SYSTEM] * (length - patches - 1)]
        self._put("prefix_token_role", (prefix, slice(length)), np.array(roles))
        self._put("prefix_token_id", (prefix, slice(length)), self.rng.integers(0, self.plan.vocab, length))
        self._put("image_row", (prefix, slice(1, 1 + patches)), cells // grid[1])
        self._put("image_column", (prefix, slice(1, 1 + patches)), cells % grid[1])
        self._normal("prefix_states", prefix, slice(None), slice(length))
        self._normal("prefix_logits", prefix, slice(length))
        for layer in self._blocks:
            self._normal("image_update", prefix, layer)
            for head in range(self.plan.heads):
                for query in range(length):
                    self._attend("prefix_attention", (prefix, layer, head, query), *self._seen(prefix, query, length))

    def _seen(self, prefix: int, query: int, length: int) -> tuple[int, int]:
        """Tokens of the prefix and of the suffix that a query of the prefix sees: all of the prompt if it is not
        shared.
        """
        return (query + 1, 0) if self.plan.shared else (length, int(self.suffix[prefix]))

    def _attend(self, name: str, place: tuple[int, ...], before: int, after: int) -> None:
        """A row of shares over so many tokens of the prefix and the suffix; other tokens of the example have none."""
        if name in self.arrays:
            shares = self.rng.dirichlet(np.ones(before + after))
            row = self.arrays[name][place]
            row[:before] = shares[:before]
            if after:
                first = self.record.extents.prefix_tokens
                row[first : first + after] = shares[before:]

    def _fill_row(self, row: int) -> None:
        suffix, answer = int(self.suffix[row]), int(self.answer[row])
        tokens, before = suffix + answer, self.prefix_length[self.prefix_of[row]]
        ids = self.rng.integers(0, self.plan.vocab, tokens)
        self._put("token_id", (row, slice(tokens)), ids)
        roles = [QUESTION] * (suffix - 1) + [CUE] + [ANSWER] * answer
        self._put("token_role", (row, slice(tokens)), np.array(roles))
        self._normal("hidden_states", row, slice(None), slice(tokens))
        self._normal("token_logits", row, slice(tokens))
        self._normal("blank_states", row)
        self._normal("blank_logits", row)
        kept = [place for place, label in enumerate(self.plan.positions) if POSITIONS.index(label) <= answer]
        for place in kept:
            self._normal("readout_states", row, slice(None), place)
            self._normal("logits", row, place)
        if "logits" in self.arrays:
            self.arrays["logits"][row, kept, 3] = self.arrays["logits"][row, kept, 5]  # a tie
        for layer in self._blocks:
            self._normal("attn_write", row, layer)
            self._normal("mlp_write", row, layer)
            for head in range(self.plan.heads):
                for query in range(tokens):
                    self._attend("attention", (row, layer, head, query), before, query + 1)
                for place in kept:
                    self._attend("readout_attention", (row, layer, head, place), before, 0)

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for row, askers in enumerate(EXAMPLES_A_ROW):
            for asker in range(askers):
                prefix = self.prefix_of[row]
                image = prefix if self.plan.shared else max(0, prefix - 1)
                rows.append(
                    {
                        "run": self.record.name,
                        "example": f"{self.number}.{row}/ä'{'ab'[asker]}",
                        "dataset": "toy",
                        "split": ("even", "odd")[row % 2] if asker == 0 else None,
                        "image": f"image {self.number}.{image}",
                        "image_sha256": f"{self.number}{image}",
                        "question": f"question {row}",
                        "prefix_tokens": self.prefix_length[prefix],
                        "suffix_tokens": int(self.suffix[row]),
                        "batch": self.number,
                        "row": self.number * ROWS + row,
                        "prefix": self.number * self.record.extents.prefix_rows + prefix,
                        "answer": "word",
                        "answer_tokens": int(self.answer[row]),
                        "token_ids": [1],
                        "log_probs": [-0.5],
                        "finish": "stop",
                        "first_log_prob": -0.5 - row,
                        "samples": [],
                    }
                )
        return rows

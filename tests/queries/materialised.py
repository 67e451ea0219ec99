"""Every relation of some runs in memory, out of the Dataset and the tables by plain loops: what scans are held to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp, log
from typing import Any

import numpy as np
import polars as pl
import pytest

from vlmlake.store_schema.run import Run

Row = dict[str, Any]

KEYS = {
    "hidden_states": ("run", "example", "layer", "token"),
    "readout_states": ("run", "example", "layer", "position"),
    "attention": ("run", "example", "layer", "head", "query"),
    "attention_image": ("run", "example", "layer", "head", "query"),
    "logits_top": ("run", "example", "position", "rank"),
    "tokens": ("run", "example", "token"),
    "prefixes": ("run", "prefix"),
}
"""What tells the rows of a relation apart."""


class Memory:
    """All that a run holds, read once."""

    def __init__(self, run: Run):
        self.run = run
        self.dataset = run.dataset()
        wanted = {name for names in NEEDED.values() for name in names} & set(self.dataset.data_vars)
        self.arrays = {name: self.dataset[name].to_numpy() for name in wanted}
        self.layers, self.positions = self.dataset["layer"].to_numpy(), list(self.dataset["position"].to_numpy())
        self.readout = self.positions if "readout_attention" in self.arrays else []
        self.prefix_numbers = self.dataset["prefix"].to_numpy().tolist()
        self.longest_prefix = self.dataset.sizes["prefix_token"]
        self.examples = run.examples().to_dicts()
        self.told = {one["example"]: run.tokens(one["example"]).to_dicts() for one in self.examples}

    def prefix(self, example: Row) -> int:
        return self.prefix_numbers.index(example["prefix"])

    def tokens(self) -> Iterator[Row]:
        for example in self.examples:
            for token, told in enumerate(self.told[example["example"]]):
                yield {
                    **self._token(example, "token", token),
                    **{name: told[name] for name in ("id", "text", "image_row", "image_column")},
                }

    def _token(self, example: Row, name: str, token: int) -> Row:
        prompt = example["prefix_tokens"] + example["suffix_tokens"]
        position = "prompt_last" if token == prompt - 1 else f"answer_{token - prompt}" if token >= prompt else None
        role = self.told[example["example"]][token]["role"]
        return {
            "run": self.run.name,
            "example": example["example"],
            name: token,
            "role": role,
            "position": position,
        }

    def hidden_states(self) -> Iterator[Row]:
        for place, example in enumerate(self.examples):
            before = example["prefix_tokens"]
            for layer, label in enumerate(self.layers):
                for token in range(len(self.told[example["example"]])):
                    if token < before and "prefix_states" in self.arrays:
                        vector = self.arrays["prefix_states"][self.prefix(example), layer, token]
                    elif token >= before and "hidden_states" in self.arrays:
                        vector = self.arrays["hidden_states"][place, layer, token - before]
                    else:
                        continue
                    yield {**self._token(example, "token", token), "layer": label, "vector": vector.tolist()}

    def readout_states(self) -> Iterator[Row]:
        for place, example in enumerate(self.examples):
            for number, position in enumerate(self.positions):
                if position != "prompt_last" and int(position.split("_")[1]) >= example["answer_tokens"]:
                    continue
                for layer, label in enumerate(self.layers):
                    vector = self.arrays["readout_states"][place, layer, number]
                    labels = {"run": self.run.name, "example": example["example"], "layer": label}
                    yield {**labels, "position": position, "vector": vector.tolist()}

    def attention(self) -> Iterator[Row]:
        for keys, example, row in self._looks(readout=False):
            after = example["suffix_tokens"] + example["answer_tokens"]
            first = self.longest_prefix
            weights = [*row[: example["prefix_tokens"]], *row[first : first + after]]
            yield {**keys, "weights": np.nan_to_num(weights).tolist()}

    def attention_image(self) -> Iterator[Row]:
        for keys, example, row in self._looks(readout=True):
            told = enumerate(self.told[example["example"]])
            cells = sorted(
                (one["image_row"], one["image_column"], token) for token, one in told if one["role"] == "image"
            )
            grid = [1 + max((cell[axis] for cell in cells), default=-1) for axis in (0, 1)]
            weights = np.nan_to_num([row[token] for _, _, token in cells]).tolist()
            yield {**keys, "weights": weights, "grid_rows": grid[0], "grid_columns": grid[1]}

    def _looks(self, readout: bool) -> Iterator[tuple[Row, Row, np.ndarray]]:
        for place, example in enumerate(self.examples):
            before = example["prefix_tokens"]
            for layer, label in enumerate(self.layers):
                for query in range(len(self.told[example["example"]])) if label != "embed" else ():
                    keys = {**self._token(example, "query", query), "layer": label}
                    for head in range(self.run.record.extents.heads):
                        if query < before and "prefix_attention" in self.arrays:
                            row = self.arrays["prefix_attention"][self.prefix(example), layer, head, query]
                        elif query >= before and "attention" in self.arrays:
                            row = self.arrays["attention"][place, layer, head, query - before]
                        elif readout and query >= before and keys["position"] in self.readout:
                            kept = self.positions.index(keys["position"])
                            row = self.arrays["readout_attention"][place, layer, head, kept]
                        else:
                            continue
                        yield {**keys, "head": head}, example, row

    def logits_top(self) -> Iterator[Row]:
        words = self.dataset["token_text"].to_numpy()
        for place, example in enumerate(self.examples):
            for number, position in enumerate(self.positions):
                if position != "prompt_last" and int(position.split("_")[1]) >= example["answer_tokens"]:
                    continue
                logits = self.arrays["logits"][place, number].tolist()
                norm = log(sum(map(exp, logits)))
                for rank, token in enumerate(sorted(range(len(logits)), key=lambda one: (-logits[one], one))[:10], 1):
                    yield {
                        "run": self.run.name,
                        "example": example["example"],
                        "position": position,
                        "rank": rank,
                        "token_id": token,
                        "text": words[token],
                        "logit": logits[token],
                        "log_prob": logits[token] - norm,
                    }

    def prefixes(self) -> Iterator[Row]:
        for prefix in self.prefix_numbers:
            own = [example for example in self.examples if example["prefix"] == prefix]
            image = [one for one in self.told[own[0]["example"]] if one["role"] == "image"]
            yield {
                "run": self.run.name,
                "prefix": prefix,
                "image": own[0]["image"],
                "image_sha256": own[0]["image_sha256"],
                "tokens": own[0]["prefix_tokens"],
                "image_tokens": len(image),
                "grid_rows": 1 + max((one["image_row"] for one in image), default=-1),
                "grid_columns": 1 + max((one["image_column"] for one in image), default=-1),
                "examples": len(own),
            }


NEEDED = {
    "hidden_states": ("prefix_states", "hidden_states"),
    "readout_states": ("readout_states",),
    "attention": ("prefix_attention", "attention"),
    "attention_image": ("prefix_attention", "attention", "readout_attention"),
    "logits_top": ("logits",),
}
"""One of these at least a run must keep to have rows in a relation."""


def has_rows(run: Run, relation: str) -> bool:
    needed = NEEDED.get(relation)
    return needed is None or any(name in run.record.arrays for name in needed)


def materialised(memories: Sequence[Memory], relation: str, schema: pl.Schema) -> pl.DataFrame:
    """All rows of a relation over some runs, in the order of its keys."""
    keeping = [memory for memory in memories if has_rows(memory.run, relation)]
    rows = [row for memory in keeping for row in getattr(memory, relation)()]
    frame = pl.DataFrame(rows, schema=schema) if rows else pl.DataFrame(schema=schema)
    return in_order(frame, relation)


def in_order(frame: pl.DataFrame, relation: str) -> pl.DataFrame:
    return frame.sort(KEYS[relation])


def as_rows(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Rows of plain values, log-probabilities such that they are equal where they are but for rounding."""
    if "log_prob" not in frame.columns:
        return frame.rows()
    place = frame.columns.index("log_prob")
    return [(*row[:place], pytest.approx(row[place], abs=1e-5), *row[place + 1 :]) for row in frame.rows()]

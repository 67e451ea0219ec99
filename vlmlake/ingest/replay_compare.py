"""What a model did again against what is stored of it: within which bounds they are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from vlmlake.errors import DamagedError
from vlmlake.ingest.answers import Answer
from vlmlake.ingest.families import Family, Prompt
from vlmlake.ingest.first_batch import STORED_STEP, TOLERANCES
from vlmlake.ingest.record import once_arrays
from vlmlake.ingest.replay_job import Row
from vlmlake.store_schema.commit import Commit
from vlmlake.store_schema.inside import RowLengths, inside
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.schema import ArraySpec, position_names, weight_dtype
from vlmlake.store_schema.stored_array import StoredArray
from vlmlake.store_schema.verdict import Problem

LOGIT_SIZE = 32.0
"""Taken for the largest logit where a run keeps none: log-probs are as exact as logits are."""

VECTORS = ("hidden", "vocab")
"""Last axes along which values are of one size: they are measured by the largest of them."""


@dataclass(frozen=True)
class Again:
    """One question computed again: its place in the arrays of its batch, and its prefix's."""

    arrays: Mapping[str, np.ndarray]
    place: int
    prefix: int
    prompt: Prompt
    answer: Answer
    sees_suffix: bool

    def values(self, spec: ArraySpec) -> np.ndarray:
        """Its row of an array; of floats as float32."""
        row: np.ndarray = self.arrays[spec.name][self.place if spec.dimensions[0] == "example" else self.prefix]
        return row.astype(np.float32) if spec.is_float else row


class Comparison:
    """Collects differences. values: how many were compared."""

    def __init__(self, run: Run, commits: Mapping[int, Commit], family: Family) -> None:
        self.run, self.record, self.commits, self.family = run, run.record, commits, family
        computed = TOLERANCES.get(family.model.dtype, 1e-4)
        stored = self.record.stored_dtype
        self.answer_tolerance = computed
        self.tolerance = {
            "activation": computed + STORED_STEP[getattr(torch, stored)],
            "weight": computed + STORED_STEP[getattr(torch, weight_dtype(stored))],
        }
        self.values = 0
        self.problems: list[Problem] = []

    def once(self) -> None:
        """What the run shares: it was cast, and nothing else."""
        ours = once_arrays(self.family)
        for spec in (spec for spec in self.record.specs if spec.once):
            stored = self._stored(spec, None, None)
            if stored is not None:
                cast = ours[spec.name].astype(spec.dtype(self.record.stored_dtype)).astype(np.float32)
                self.values += stored.size
                if cast.shape != stored.shape or not np.array_equal(cast, stored):
                    self._note(None, spec.name, "it is not the model's")
        try:
            if self.run.vocabulary != tuple(self.family.vocabulary):
                self._note(None, None, "the vocabulary is not the tokenizer's")
        except DamagedError as error:
            self._note(None, None, str(error))

    def example(self, row: Row, again: Again) -> None:
        """row: what is stored of it, of tables.BATCH."""
        told = (row["prompt"], row["prefix_tokens"], row["suffix_tokens"])
        now = (again.prompt.text, again.prompt.split, again.prompt.suffix_length)
        if told != now:
            self._note(row["batch"], None, f"example {row['example']}: the prompt is {now}, stored {told}")
            return
        lengths = RowLengths(row["prefix_tokens"], row["suffix_tokens"], self._agreeing(row, again))
        for spec in self.record.batch_specs:
            number = row["row"] if spec.dimensions[0] == "example" else row["prefix"]
            stored = self._stored(spec, number, row["batch"])
            if stored is not None:
                self._compare(
                    row, spec, again.values(spec), stored, inside(spec, self.record, lengths, again.sees_suffix)
                )

    def _agreeing(self, row: Row, again: Again) -> int:
        """How many captured answer tokens are the same; notes where ids or log-probs differ.

        Where two tokens are as likely as rounding can tell, either may have been taken: the rest is not compared.
        """
        stored, ours = list(row["token_ids"]), list(again.answer.ids)
        same = next(
            (n for n, (a, b) in enumerate(zip(stored, ours, strict=False)) if a != b), min(len(stored), len(ours))
        )
        size = self._logit_size(again)
        allowed = 2 * self.answer_tolerance * size
        if stored != ours and not self._is_tie(again, stored, same, allowed):
            self._note(row["batch"], None, f"example {row['example']}: the answer's tokens are {ours}, stored {stored}")
        pairs = zip(row["log_probs"][:same], again.answer.log_probs[:same], strict=True)
        worst = max((abs(a - b) for a, b in pairs), default=0.0)
        if not worst <= allowed:
            self._note(
                row["batch"], None, f"example {row['example']}: log-probs differ by {worst:.2g}, allowed {allowed:.2g}"
            )
        self.values += 2 * same
        told: int = row["answer_tokens"]
        return min(same, told, again.answer.captured)

    def _logit_size(self, again: Again) -> float:
        if "logits" not in self.record.arrays:
            return LOGIT_SIZE
        return max(1.0, float(np.abs(again.arrays["logits"][again.place][0].astype(np.float32)).max()))

    def _is_tie(self, again: Again, stored: list[int], token: int, allowed: float) -> bool:
        """Whether the stored answer token was as likely as the one that is taken now; not where the logits that say so
        are not kept.
        """
        label = position_names(token)[token]
        if token >= len(stored) or "logits" not in self.record.arrays or label not in self.record.positions:
            return False
        logits = again.arrays["logits"][again.place][self.record.positions.index(label)].astype(np.float32)
        return bool(logits.max() - logits[stored[token]] <= allowed)

    def _compare(
        self, row: Row, spec: ArraySpec, ours: np.ndarray, stored: np.ndarray, places: list[np.ndarray]
    ) -> None:
        here = np.ix_(*places)
        now, then = ours[here], stored[here]
        self.values += now.size
        if spec.is_float:
            size = np.abs(now)
            if spec.dimensions[-1] in VECTORS:
                size = size.max(-1, keepdims=True, initial=0)
            difference = np.abs(now - then) / np.maximum(size, 1)
            wrong = ~((difference <= self.tolerance[spec.kind]) | (now == then))
        else:
            difference, wrong = np.abs(now.astype(np.int64) - then), now != then
        if wrong.any():
            self._note(
                row["batch"], spec.name, f"example {row['example']}{self._worst(spec, wrong, difference, places)}"
            )

    def _worst(self, spec: ArraySpec, wrong: np.ndarray, difference: np.ndarray, places: list[np.ndarray]) -> str:
        """The layer of the largest difference, and its size."""
        told = np.where(wrong, np.nan_to_num(difference, nan=np.inf), -1)
        at = np.unravel_index(int(told.argmax()), told.shape)
        words = ""
        if "layer" in spec.dimensions:
            axis = spec.dimensions.index("layer") - 1
            words = f", {self.record.layers[places[axis][at[axis]]]}"
        count = int(wrong.sum())
        if not spec.is_float:
            return f"{words}: {count} values are others" if count > 1 else f"{words}: 1 value is another"
        differ = f"{count} values differ" if count > 1 else "1 value differs"
        measure = "" if spec.kind == "weight" else " of the token's largest"
        return f"{words}: {differ}, by up to {told[at]:.2g}{measure}, allowed {self.tolerance[spec.kind]:.2g}"

    def _stored(self, spec: ArraySpec, row: int | None, batch: int | None) -> np.ndarray | None:
        """One row of an array, or all of one that the run shares; none where it is damaged, which is noted."""
        shards = {} if batch is None else {batch: self.commits[batch].shards[spec.name]}
        rows = None if row is None else np.array([row])
        array = StoredArray(self.run.storage, self.record, spec, rows, shards)
        try:
            return array[:] if row is None else array[0]
        except DamagedError as error:
            self._note(batch, spec.name, str(error))
            return None

    def _note(self, batch: int | None, array: str | None, what: str) -> None:
        self.problems.append(Problem(self.record.name, batch, array, what))

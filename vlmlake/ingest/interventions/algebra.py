"""The route that needs no model: an edit of what the last block leaves is the stored residual stream with other numbers
in it, through the final norm and the unembedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from vlmlake.ingest.interventions.edited.edits import AFTER_BLOCK, MLP_OUT, RESID, Edit
from vlmlake.ingest.interventions.requests.conditions import ALL, MASK, PATCH, Condition, block_label
from vlmlake.ingest.interventions.requests.patching import donated
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.schema import PROMPT_LAST


@dataclass(frozen=True)
class FromStore:
    """Of one condition and some rows. logits: [rows, vocab], float32, of the first token. ids: the tokens of each
    answer, none where the store does not tell how it goes on.
    """

    condition: Condition
    logits: np.ndarray
    ids: tuple[tuple[int, ...] | None, ...]


def is_possible(run: Run, condition: Condition) -> bool:
    """Whether the store has what the first token under a condition takes."""
    record = run.record
    last = block_label(int(record.identity["model"]["blocks"]) - 1)
    kept = last in record.layers and PROMPT_LAST in record.positions
    if condition.kind == MASK or not kept or not {"readout_states", "unembedding", "final_norm"} <= {*record.arrays}:
        return False
    places = [(edit.site, block_label(edit.block)) for edit in condition.edits]
    if condition.kind == PATCH:
        places = [(condition.site or "", condition.layer or "")]
    reads = {RESID: "readout_states", MLP_OUT: "mlp_write"}
    return all(site in AFTER_BLOCK and layer == last and reads[site] in record.arrays for site, layer in places)


def goes_on(condition: Condition) -> bool:
    """Whether the store tells more than the first token of an answer, where more are asked for: of what an MLP wrote it
    has no more than that.
    """
    more = condition.answer_tokens > 1 and condition.positions == ALL
    return not (more and any(edit.site == MLP_OUT for edit in condition.edits))


def is_exact(run: Run) -> bool:
    """Whether it gives what the model would: that computes in float32, as this route does, and the store keeps all."""
    return run.record.stored_dtype == "float32" and str(run.record.identity["model"]["dtype"]) == "float32"


@dataclass(frozen=True)
class Weights:
    """What turns a residual stream into tokens. scale: [hidden], of the final norm, and its epsilon. unembedding:
    [vocab, hidden]. ends: the tokens that the run's answers are known to end in.
    """

    scale: np.ndarray
    epsilon: float
    unembedding: np.ndarray
    ends: frozenset[int]

    @classmethod
    def of(cls, run: Run, ends: frozenset[int]) -> Weights:
        """Those that the run stored, in memory."""
        data = run.dataset()
        return cls(
            data["final_norm"].values.astype(np.float32),
            float(run.record.final_norm["epsilon"]),
            data["unembedding"].values.astype(np.float32),
            ends,
        )


def answers_from_store(
    run: Run, weights: Weights, conditions: Sequence[Condition], rows: pl.DataFrame, answer_tokens: int
) -> Iterator[FromStore]:
    """What each condition makes of these rows of tables.EXAMPLES and ANSWERS; every condition `is_possible`.

    An answer is told as far as it goes along the stored one: its residual streams are those that the store has.
    """
    stored = _Stored(run, weights, rows, answer_tokens)
    for condition in conditions:
        yield FromStore(condition, *stored.under(condition))


@dataclass(frozen=True)
class _Stored:
    run: Run
    weights: Weights
    rows: pl.DataFrame
    limit: int

    @cached_property
    def data(self) -> Any:
        last = block_label(int(self.run.record.identity["model"]["blocks"]) - 1)
        return self.run.dataset().sel(example=self.rows["example"].to_list(), layer=last)

    @cached_property
    def written(self) -> np.ndarray:
        """[rows, hidden], what the last MLP wrote at prompt_last."""
        values: np.ndarray = self.data["mlp_write"].values.astype(np.float32)
        return values

    @cached_property
    def said(self) -> list[tuple[int, ...]]:
        return [tuple(ids) for ids in self.rows["token_ids"].to_list()]

    def under(self, condition: Condition) -> tuple[np.ndarray, tuple[tuple[int, ...] | None, ...]]:
        edits = condition.edits
        if condition.kind == PATCH:
            edits = (donated(self.run, condition, self.rows["example"].to_list()),)
        logits = self._logits(0, np.arange(self.rows.height), edits)
        begun = [(int(token),) for token in logits.argmax(axis=1)]
        if condition.positions == ALL and edits:
            return logits, self._edited_on(begun, edits)
        return logits, tuple(self._as_stored(place, ids) for place, ids in enumerate(begun))

    def _is_whole(self, ids: tuple[int, ...]) -> bool:
        return len(ids) == self.limit or ids[-1] in self.weights.ends

    def _as_stored(self, place: int, begun: tuple[int, ...]) -> tuple[int, ...] | None:
        """After the first token nothing is edited: what begins as the stored answer goes on as it does."""
        stored = self.said[place][: self.limit]
        if self._is_whole(begun):
            return begun
        return stored if stored[:1] == begun and self._is_whole(stored) else None

    def _edited_on(self, begun: Sequence[tuple[int, ...]], edits: Sequence[Edit]) -> tuple[tuple[int, ...] | None, ...]:
        """The answer's tokens are edited, too: the next one is known while the last ones are those that were stored."""
        told: list[tuple[int, ...] | None] = [None] * len(begun)
        going = dict(enumerate(begun))
        only_streams = all(edit.site == RESID for edit in edits)
        for step in range(1, self.limit + 1):
            for place in [place for place, ids in going.items() if self._is_whole(ids)]:
                told[place] = going.pop(place)
            along = [place for place, ids in going.items() if self.said[place][:step] == ids]
            if not along or not only_streams or f"answer_{step - 1}" not in self.run.record.positions:
                break
            tokens = self._logits(step, np.array(along), edits).argmax(axis=1)
            going = {place: (*going[place], int(token)) for place, token in zip(along, tokens, strict=True)}
        return tuple(told)

    def _logits(self, step: int, places: np.ndarray, edits: Sequence[Edit]) -> np.ndarray:
        """After `step` tokens of the answer. Returns [places, vocab], float32."""
        stream, before = self._begun(step)
        stream, before = stream[places], before[places]
        changed = np.array(stream)
        for edit in sorted(edits, key=lambda one: one.site == RESID):
            values = edit.values if edit.values.ndim == 1 else edit.values[places]
            values = np.broadcast_to(values, (len(places), len(edit.neurons)))
            now = changed[:, edit.neurons]
            old = now if edit.site == RESID else self.written[places][:, edit.neurons]
            changed[:, edit.neurons] = np.where(np.isnan(values), now, now - old + values)
        moved = np.flatnonzero((changed != stream).any(axis=0))
        # The unembedding is linear: only the coordinates that changed are multiplied again.
        shift = ((changed - stream)[:, moved] * self.weights.scale[moved]) @ self.weights.unembedding[:, moved].T
        rms = np.sqrt(np.mean(changed.astype(np.float64) ** 2, axis=1) + self.weights.epsilon)
        logits: np.ndarray = ((before + shift) / rms[:, None]).astype(np.float32)
        return logits

    def _begun(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The stream before the final norm, [rows, hidden], and its logits but for the division by its norm."""
        if step not in self._steps:
            position = PROMPT_LAST if step == 0 else f"answer_{step - 1}"
            stream = self.data["readout_states"].sel(position=position).values.astype(np.float32)
            self._steps[step] = (stream, (stream * self.weights.scale) @ self.weights.unembedding.T)
        return self._steps[step]

    @cached_property
    def _steps(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        return {}

"""What direct logit attribution projects on: for each example the unembedding of gold less runner-up, as the final norm
lets it through.
"""

from __future__ import annotations

from dataclasses import dataclass

import dask
import numpy as np
import xarray as xr

from vlmlake.analysis.blocks import computed, example_pieces
from vlmlake.analysis.contract import kept_array
from vlmlake.analysis.margins.lens import rms
from vlmlake.analysis.margins.readouts import Readouts, require_last_block, stored_lead
from vlmlake.analysis.neurons.rankings import gold_and_runner_up
from vlmlake.analysis.population import joined
from vlmlake.answers.spellings import NONE, gold_note
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.schema import PROMPT_LAST


@dataclass(frozen=True)
class Directions:
    """Of n examples. told: [n], bool, those whose gold answer has a token. tokens: [m, d], unembedding rows; gold and
    runner_up: places in it, [told]. rms: [told], of the last residual stream. scale: [d], of the final norm. note: of
    how many examples, and how their gold answers are read.
    """

    told: np.ndarray
    tokens: np.ndarray
    gold: np.ndarray
    runner_up: np.ndarray
    rms: np.ndarray
    scale: np.ndarray
    note: str | None

    @property
    def towards(self) -> np.ndarray:
        """[told, d]."""
        difference: np.ndarray = self.tokens[self.gold] - self.tokens[self.runner_up]
        return difference


def directions(data: xr.Dataset) -> Directions:
    """Of the examples of a Dataset, from their stored logits and last residual stream at prompt_last; the gold answer's
    tokens are those of `margins`.

    Raises VlmlakeError if the run keeps no logits, or not what `Readouts` needs, if no gold answer has a token, or if
    the last layer that is kept does not give the stored logits.
    """
    kept_array(data, "logits")
    readouts = Readouts.of(data)
    pairs, stored = _pairs(readouts)
    last = readouts.states().isel(layer=-1).data
    pairs, stored = pairs[readouts.place], stored[:, readouts.place]
    told = pairs[:, 0] != NONE
    if not told.any():
        raise VlmlakeError("no gold answer has a token in the vocabulary: there is no logit to attribute")
    ids, places = np.unique(pairs[told], return_inverse=True)
    places = places.reshape(-1, 2)
    tokens, states = dask.compute(data["unembedding"].isel(vocab=ids).data, last)  # type: ignore[attr-defined, no-untyped-call]
    states = states[readouts.place][told]
    note = joined(f"attribution: {int(told.sum())} of {len(told)} examples", gold_note(data["gold"].values))
    found = Directions(
        told=told,
        tokens=tokens,
        gold=places[:, 0],
        runner_up=places[:, 1],
        rms=rms(states, readouts.epsilon)[:, 0].astype(np.float64),
        scale=readouts.scale.astype(np.float64),
        note=note,
    )
    lead = np.vecdot(states * found.scale / found.rms[:, None], found.towards)
    require_last_block(readouts.layers[-1], lead, stored[:, told])
    return found


def _pairs(readouts: Readouts) -> tuple[np.ndarray, np.ndarray]:
    """[m, 2] of `gold_and_runner_up`, and [2, m] of `stored_lead`."""
    task = dask.delayed(_pairs_of_piece)  # type: ignore[attr-defined]
    pieces = example_pieces(readouts.data["logits"].sel(position=PROMPT_LAST))
    found = computed([task(part.data, readouts.gold[piece]) for piece, part in pieces])
    return np.concatenate([pairs for pairs, _ in found]), np.concatenate([stored for _, stored in found], axis=1)


def _pairs_of_piece(logits: np.ndarray, gold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pairs = gold_and_runner_up(logits, gold)
    return pairs, stored_lead(logits, pairs)

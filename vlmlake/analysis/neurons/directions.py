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
from vlmlake.analysis.neurons.rankings import gold_and_runner_up
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.schema import PROMPT_LAST


@dataclass(frozen=True)
class Directions:
    """Of n examples. told: [n], bool, those whose gold answer is a token. tokens: [m, d], unembedding rows; gold and
    runner_up: places in it, [told]. rms: [told], of the last residual stream. scale: [d], of the final norm.
    """

    told: np.ndarray
    tokens: np.ndarray
    gold: np.ndarray
    runner_up: np.ndarray
    rms: np.ndarray
    scale: np.ndarray

    @property
    def towards(self) -> np.ndarray:
        """[told, d]."""
        difference: np.ndarray = self.tokens[self.gold] - self.tokens[self.runner_up]
        return difference


def directions(data: xr.Dataset) -> Directions:
    """Of the examples of a Dataset, from their stored logits and last residual stream at prompt_last.

    Raises VlmlakeError if the run keeps no logits, unembedding or final norm, or no gold answer is one token.
    """
    for name in ("logits", "unembedding", "final_norm"):
        kept_array(data, name)
    logits, texts = data["logits"].sel(position=PROMPT_LAST), data["token_text"].data
    task = dask.delayed(gold_and_runner_up)  # type: ignore[attr-defined]
    pieces = example_pieces(logits)
    pairs = np.concatenate(computed([task(piece.data, data["gold"].values[place], texts) for place, piece in pieces]))
    told = pairs[:, 0] >= 0
    if not told.any():
        raise VlmlakeError("no gold answer is one token of the vocabulary: there is no logit to attribute")
    ids, places = np.unique(pairs[told], return_inverse=True)
    places = places.reshape(-1, 2)
    last = data["readout_states"].isel(example=told).sel(position=PROMPT_LAST).isel(layer=-1)
    tokens, scale, states = dask.compute(  # type: ignore[attr-defined, no-untyped-call]
        data["unembedding"].isel(vocab=ids).data, data["final_norm"].data, last.data
    )
    rms = np.sqrt((states.astype(np.float64) ** 2).mean(axis=1) + data.attrs["final_norm_epsilon"])
    return Directions(told, tokens, places[:, 0], places[:, 1], rms, scale.astype(np.float64))

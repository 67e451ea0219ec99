"""What coordinates hold on average, and how large they are: out of the store where it tells, else from the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from vlmlake.ingest.families.base import Family
from vlmlake.ingest.interventions.edited.edits import ATTN_OUT, MLP_OUT, RESID, Place, hooked
from vlmlake.ingest.interventions.edited.suffix import start
from vlmlake.ingest.interventions.requests.conditions import ALL, block_label
from vlmlake.ingest.loader import load_ahead
from vlmlake.ingest.work import Work
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.schema import PROMPT_LAST

MOST_EXAMPLES = 256
"""That activations are measured on."""
AT_ONCE = 32
"""Examples whose stored states are read together."""
WRITES = {MLP_OUT: "mlp_write", ATTN_OUT: "attn_write"}


@dataclass(frozen=True, eq=False)
class Activations:
    """Of one site and block over some tokens. mean, rms: [width], float32; rms is the root of the mean square."""

    mean: np.ndarray
    rms: np.ndarray


class _Sums:
    def __init__(self) -> None:
        self.weight, self.first, self.second = 0.0, np.zeros(0), np.zeros(0)

    def add(self, values: np.ndarray, weights: np.ndarray) -> None:
        """values: [tokens, width]. weights: [tokens]."""
        values = np.where(weights[:, None] > 0, values.astype(np.float64), 0)
        if not len(self.first):
            self.first, self.second = np.zeros(values.shape[1]), np.zeros(values.shape[1])
        self.weight += float(weights.sum())
        self.first += weights @ values
        self.second += weights @ values**2

    def told(self) -> Activations:
        return Activations(
            (self.first / self.weight).astype(np.float32), np.sqrt(self.second / self.weight).astype(np.float32)
        )


def calibration_examples(examples: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Of these rows of tables.EXAMPLES at most MOST_EXAMPLES, one a row of the arrays, drawn from the seed."""
    rows = examples.unique("row", keep="first", maintain_order=True).sort("row").with_row_index("place")
    drawn = np.random.default_rng(seed).permutation(rows.height)[:MOST_EXAMPLES]
    return rows.filter(pl.col("place").is_in(drawn.tolist())).drop("place")


def of_store(run: Run, place: Place, positions: str, examples: Sequence[str]) -> Activations | None:
    """The activations of a site over the prompts of these examples, or at their prompt_last.

    None where the run does not keep them.
    """
    site, layer = place[0], block_label(place[1])
    data = run.dataset()
    if layer not in data.indexes["layer"]:
        return None
    data = data.sel(layer=layer, example=list(examples))
    sums = _Sums()
    if positions == PROMPT_LAST:
        name = "readout_states" if site == RESID else WRITES.get(site, "")
        if name not in data or (site == RESID and PROMPT_LAST not in data.indexes["position"]):
            return None
        stored = data[name].sel(position=PROMPT_LAST) if site == RESID else data[name]
        sums.add(stored.values, np.ones(len(examples)))
        return sums.told()
    if site != RESID or "hidden_states" not in data or "prefix_states" not in data:
        return None
    for first in range(0, len(examples), AT_ONCE):
        part = data.isel(example=slice(first, first + AT_ONCE))
        _add(sums, part["hidden_states"].values, part["suffix_tokens"].values, np.ones(part.sizes["example"]))
    prefixes, asked = np.unique(data["prefix_of"].values, return_counts=True)
    lengths = dict(zip(data["prefix_of"].values.tolist(), data["prefix_tokens"].values.tolist(), strict=True))
    for first in range(0, len(prefixes), AT_ONCE):
        chosen = prefixes[first : first + AT_ONCE]
        values = data["prefix_states"].sel(prefix=chosen).values
        _add(sums, values, np.array([lengths[one] for one in chosen.tolist()]), asked[first : first + AT_ONCE])
    return sums.told()


def _add(sums: _Sums, values: np.ndarray, lengths: np.ndarray, weights: np.ndarray) -> None:
    """values: [rows, tokens, width], of which the first `lengths` are prompts'. weights: [rows]."""
    there = np.arange(values.shape[1]) < lengths[:, None]
    sums.add(values.reshape(-1, values.shape[-1]), (there * weights[:, None]).ravel())


def of_model(family: Family, work: Work, place: Place, positions: str) -> Activations:
    """The same of the questions of `work`, by running the model as far as the site."""
    sums = _Sums()
    for _, asked in load_ahead(work, family, range(len(work.batches))):
        with _watched(family, place) as seen_there:
            started = start(family, asked, place[1] + 1, work.shared)
        *_, last = seen_there
        if positions != ALL:
            sums.add(last[:, -1], np.ones(len(last)))
            continue
        suffix = started.suffix.seen.cpu().numpy()
        sums.add(last.reshape(-1, last.shape[-1]), suffix.ravel().astype(float))
        if started.prefix is not None:
            prefix = seen_there[0]
            asked_of = np.bincount(asked.prefix_of, minlength=len(prefix))
            weights = started.prefix.seen.cpu().numpy() * asked_of[:, None]
            sums.add(prefix.reshape(-1, prefix.shape[-1]), weights.ravel().astype(float))
    return sums.told()


@contextmanager
def _watched(family: Family, place: Place) -> Iterator[list[np.ndarray]]:
    """What passes a site in each forward, [rows, columns, width], float32."""
    kept: list[np.ndarray] = []

    def keep(stream: torch.Tensor) -> None:
        kept.append(stream.detach().float().cpu().numpy())

    unhook = hooked(family, place, keep)
    try:
        yield kept
    finally:
        unhook()

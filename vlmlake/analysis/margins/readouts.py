"""What the lens needs of a run, and the lens over its examples and layers: one task a piece of examples and a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask.delayed import Delayed

from vlmlake.analysis.blocks import computed, example_pieces
from vlmlake.analysis.contract import kept_array
from vlmlake.analysis.layer_order import block_number
from vlmlake.analysis.margins.layers import whole_stack
from vlmlake.analysis.margins.lens import COLUMNS, FIELDS, ROWS, lens, normed
from vlmlake.answers.spellings import NONE, Vocabulary, gold_text
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.schema import PROMPT_LAST

LENS_TOLERANCE = 2.0**-5
"""How far the lens at the last block may be from the stored logits, as a share of the example's largest |logit|.

States, logits and the unembedding are rounded when they are stored, and by a model that computes in less than float32.
Largest of the three tiny families: 2^-21 stored as float32, 2^-10 as float16, 2^-7.8 as bfloat16 or computed in it. A
norm left out, or applied twice, is off by a share of about 1.
"""


@dataclass(frozen=True)
class Readouts:
    """The residual stream at prompt_last of a run's distinct (image, question, gold) triples, and what reads it.

    data: those examples of the run's Dataset, lazy. place: [n], for each example of the run where its triple is.
    gold: [m, s], ids of the gold answer's spellings, NONE where there are fewer. words: ids of the spellings of yes and
    of no. yes_or_no: whether every gold answer, as `gold_text` reads it, is one of them. unembedding: [vocab, hidden],
    float32, one task's result that all tasks share. scale: [hidden]; epsilon: of the final norm.
    """

    data: xr.Dataset
    place: np.ndarray
    gold: np.ndarray
    words: tuple[np.ndarray, np.ndarray]
    yes_or_no: bool
    unembedding: Delayed
    scale: np.ndarray
    epsilon: float

    @classmethod
    def of(cls, data: xr.Dataset) -> Readouts:
        """Reads the vocabulary's texts and the norm's scale, nothing else yet.

        Raises VlmlakeError if the run keeps no readout_states at prompt_last, no unembedding, no final norm, or no
        texts of its tokens.
        """
        for name in ("readout_states", "unembedding", "final_norm"):
            kept_array(data, name)
        if PROMPT_LAST not in data["position"].values:
            raise VlmlakeError(f"run {data.attrs['run']} keeps no readout_states at {PROMPT_LAST}")
        if data.attrs.get("final_norm_epsilon") is None or "token_text" not in data.coords:
            raise VlmlakeError(f"run {data.attrs['run']} says no epsilon of its final norm, or no texts of its tokens")
        distinct, place = _distinct(data)
        vocabulary = Vocabulary.of(data["token_text"].values.tolist())
        golds = distinct["gold"].values.tolist()
        return cls(
            data=distinct,
            place=place,
            gold=vocabulary.golds(golds),
            words=(vocabulary.word("yes"), vocabulary.word("no")),
            yes_or_no={gold_text(gold).strip().lower() for gold in golds if isinstance(gold, str)} <= {"yes", "no"},
            unembedding=shared(data["unembedding"]),
            scale=np.asarray(data["final_norm"].values, np.float32),
            epsilon=float(data.attrs["final_norm_epsilon"]),
        )

    @property
    def layers(self) -> list[str]:
        """The layers that the run keeps, in order."""
        return [str(name) for name in self.data["layer"].values]

    def states(self, name: str = "readout_states") -> xr.DataArray:
        """[m, layer, hidden], lazy: the residual stream at prompt_last, of the pass that saw the image or of the blank
        one.
        """
        states = self.data[name]
        return states.sel(position=PROMPT_LAST) if "position" in states.dims else states

    def lens(self, said: np.ndarray, name: str = "readout_states", layers: Sequence[str] | None = None) -> xr.Dataset:
        """FIELDS of these layers, all by default, as variables over m and layer, float64. said: [m], token ids.

        name: `readout_states` or `blank_states`. Raises VlmlakeError if they hold something that is no number.
        """
        layers = self.layers if layers is None else list(layers)
        found = np.full((len(FIELDS), len(self.gold), len(layers)), np.nan)
        tasks, places = [], []
        for number, layer in enumerate(layers):
            for piece, states in example_pieces(self.states(name).sel(layer=layer)):
                norm = (self.scale, self.epsilon)
                named = (self.gold[piece], said[piece], self.words)
                tasks.append(_lens(states.data, *norm, self.unembedding, *named))
                places.append((slice(None), piece, number))
        for place, values in zip(places, computed(tasks), strict=True):
            found[place] = values
        lost = np.isnan(found[FIELDS.index("lens_entropy")])
        if lost.any():
            row, column = np.argwhere(lost)[0]
            raise VlmlakeError(
                f"{name} of example {self.data['example'].values[row]} at {layers[column]} give no logits: they hold "
                f"something that is no number"
            )
        labels = {"layer": layers}
        return xr.Dataset(
            {name: (("row", "layer"), part) for name, part in zip(FIELDS, found, strict=True)}, coords=labels
        )

    def said(self, last_block: str | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """The model's own first answer token, and how far the lens at the last kept layer is from the stored logits.

        The token, [m], int64, is the argmax of the logits at prompt_last, or of the lens at the last layer where the
        plan keeps no logits. The deviations, [m], float64: the largest over the vocabulary; None without logits, or
        where `last_block`, the model's last one, is not kept.

        Raises VlmlakeError if they are beyond LENS_TOLERANCE at the last block: at `last_block`, or where nothing is
        said of it and the plan has chosen no layers, at the last one that is kept; and for a `last_block` that comes
        before it.
        """
        last = self.layers[-1]
        if last_block and block_number(last_block) < block_number(last):
            raise VlmlakeError(
                f"margins.last_block is {last_block}, expected {last}, which the run keeps, or a later one"
            )
        if "logits" not in self.data:
            found = self.lens(np.full(len(self.gold), NONE), layers=[last]).isel(layer=0)
            ahead = found["margin_gold"].values > 0
            return np.where(ahead, found["gold_token"], found["other_token"]).astype(np.int64), None
        states = self.states().sel(layer=last).data
        logits = self.data["logits"].sel(position=PROMPT_LAST)
        pieces = example_pieces(logits)
        tasks = [
            _compared(states[piece], self.scale, self.epsilon, self.unembedding, part.data) for piece, part in pieces
        ]
        token, deviation, largest = np.concatenate(computed(tasks), axis=1)
        share = deviation / largest
        if last_block not in (None, last):
            return token.astype(np.int64), None
        if (last_block or whole_stack(self.layers)) and not share.max() <= LENS_TOLERANCE:
            worst = self.data["example"].values[int(np.argmax(share))]
            raise VlmlakeError(
                f"the lens at {last} is off the stored logits of example {worst} by {deviation.max():.3g}, "
                f"{share.max():.2g} of the largest, expected at most {LENS_TOLERANCE:.2g}: the store is damaged, or "
                f"its plan leaves out the model's last block, which the parameter last_block then names"
            )
        return token.astype(np.int64), deviation


def stored_lead(logits: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """[2, g], float64: logit(gold) - logit(runner-up) out of the stored logits, and the largest |logit|.

    logits: [g, vocab], at prompt_last. pairs: [g, 2], ids of gold and runner-up; NaN where there is no gold, as is then
    the lead.
    """
    told = np.isfinite(pairs).all(axis=1)
    values = np.take_along_axis(logits, np.where(told[:, None], pairs, 0).astype(np.int64), axis=1).astype(np.float64)
    return np.stack([np.where(told, values[:, 0] - values[:, 1], np.nan), np.abs(logits).max(axis=1)])


def require_last_block(layer: str, lead: np.ndarray, stored: np.ndarray) -> None:
    """Raises VlmlakeError unless a layer is the model's last block, whose residual stream sets the final norm's scale:
    the gold answer's lead, read there, must be that of the stored logits within twice LENS_TOLERANCE.

    lead: [g], logits, NaN where there is no gold. stored: [2, g], of `stored_lead`.
    """
    told = np.isfinite(lead)
    off = np.abs(lead - stored[0])[told] / stored[1][told]
    if not (off <= 2 * LENS_TOLERANCE).all():
        raise VlmlakeError(
            f"the gold answer's lead at {layer} is off that of the stored logits by {off.max():.2g} of the largest "
            f"logit, expected at most {2 * LENS_TOLERANCE:.2g}: the store is damaged, or its plan leaves out the "
            f"model's last block, whose residual stream sets the scale of the final norm"
        )


def shared(array: xr.DataArray) -> Delayed:
    """A whole array, float32, as one task's result."""
    values = array.data
    lazy = values if isinstance(values, da.Array) else da.from_array(values, chunks=-1, name=False)  # type: ignore[no-untyped-call]
    whole: Delayed = lazy.rechunk(-1).astype(np.float32).to_delayed().item()
    return whole


def _distinct(data: xr.Dataset) -> tuple[xr.Dataset, np.ndarray]:
    """One example for each row and gold answer, rows ascending, and for every example the place of its own."""
    _, gold = np.unique(data["gold"].values.astype(str), return_inverse=True)
    keys = np.stack([data["row"].values, gold.ravel()], axis=1)
    _, first, place = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    place = place.ravel()
    needed = [name for name in ("readout_states", "blank_states", "logits", "attn_write", "mlp_write") if name in data]
    data = data[needed]
    whole = len(first) == len(place) and bool((first == np.arange(len(first))).all())
    return data if whole else data.isel(example=first), place


@dask.delayed  # type: ignore[attr-defined, untyped-decorator]
def _lens(states: np.ndarray, *settings: Any) -> np.ndarray:
    return lens(states, *settings)


@dask.delayed  # type: ignore[attr-defined, untyped-decorator]
def _compared(
    states: np.ndarray, scale: np.ndarray, epsilon: float, unembedding: np.ndarray, logits: np.ndarray
) -> np.ndarray:
    """[3, g], float64: argmax of the stored logits; largest |lens - logits|; largest |logit|."""
    deviation = np.zeros(len(states))
    for start in range(0, len(states), ROWS):
        rows = slice(start, start + ROWS)
        hidden = normed(states[rows], scale, epsilon)
        for first in range(0, len(unembedding), COLUMNS):
            columns = slice(first, first + COLUMNS)
            apart = np.abs(hidden @ unembedding[columns].T - logits[rows, columns]).max(axis=1)
            deviation[rows] = np.maximum(deviation[rows], apart)
    return np.stack([logits.argmax(axis=1), deviation, np.abs(logits).max(axis=1)])

"""Self-consistency: how far the answers drawn for a question agree, and whether that tells right answers from wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from vlmlake.analysis.contract import Analysis, NoParameters, Source, dataset_of
from vlmlake.analysis.drawing import draw_by_split, new_axes
from vlmlake.analysis.population import Population, populations
from vlmlake.analysis.result import Result, result_table
from vlmlake.analysis.statistics.correlation import point_biserial
from vlmlake.analysis.statistics.paired import paired_drop
from vlmlake.analysis.statistics.proportions import proportion
from vlmlake.analysis.statistics.roc import auroc
from vlmlake.answers.rules import DEFAULT_RULE, correctness
from vlmlake.errors import NotKeptError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWN = "sampled_answer"
LEAST_DRAWS = 2
NONE = NoParameters()


class ConsistencyResult(Result):
    """`examples` has `self_consistency`, `modal_agrees` and `answer_entropy`."""

    def plot(self, ax: Axes | None = None) -> Axes:
        """AUROC of self-consistency with its interval, by split: of the greedy answer, and of the modal one."""
        axes = new_axes(ax)
        metrics = {"greedy answer": "self_consistency", "modal answer": "self_consistency_of_modal"}
        draw_by_split(axes, {label: self.rows(metric=one, statistic="auroc") for label, one in metrics.items()})
        axes.axhline(0.5, color="gray", linewidth=0.5)
        axes.set_ylabel("AUROC of self-consistency")
        axes.legend()
        return axes


def consistency(
    source: Source, *, rule: str = DEFAULT_RULE, seed: int = 0, parameters: NoParameters = NONE
) -> ConsistencyResult:
    """Self-consistency of the drawn answers (Wang et al. 2023) as a confidence.

    Drawn answers are compared after `normalised`. Per example, float64, NaN with fewer than two draws:
    `self_consistency`, the share of the most frequent one, the mode; where several are as frequent, the one that was
    drawn first; `modal_agrees`, 1 where the mode equals the greedy answer, normalised too; `answer_entropy`, of the
    shares of the answers, in nats.

    Rows per split: point-biserial correlation and AUROC of `self_consistency` with correctness of the greedy answer;
    the same with correctness of the modal answer as `self_consistency_of_modal`; the correlation of `answer_entropy`
    with correctness of the greedy answer; `modal_agrees` and `modal_accuracy` as proportions; `modal_gain`, the
    accuracy of the modal answer less that of the greedy one, as a paired difference. The number of draws is in the
    note.

    Raises NotKeptError for a run without drawn answers or with fewer than two for every example, VlmlakeError for one
    without labels.
    """
    data: xr.Dataset = dataset_of(source)
    if DRAWN not in data.coords:
        raise NotKeptError(f"run {data.attrs['run']} has no drawn answers: run `vlmlake extract --samples 10`")
    drawn = data[DRAWN].transpose("example", "sample").values
    draws = data[DRAWN].notnull().sum("sample").values
    if (draws < LEAST_DRAWS).all():
        raise NotKeptError(
            f"run {data.attrs['run']} has {draws.max(initial=0)} drawn answers a question, expected at least "
            f"{LEAST_DRAWS}: run `vlmlake extract --samples 10`"
        )
    modal, numbers = agreement(drawn, data["answer"].values)
    examples = xr.Dataset(
        {name: ("example", values) for name, values in numbers.items()}, {"example": data["example"].values}
    )
    golds = data["gold"].values.astype(object)
    golds[draws < LEAST_DRAWS] = None
    right = correctness(modal, golds, rule)
    rows = [row for answered in populations(data, rule) for row in _rows(answered, numbers, right, draws, seed)]
    return ConsistencyResult(result_table(rows), examples)


def normalised(answer: str) -> str:
    """An answer in lower case, of letters a to z, digits and single spaces only."""
    return " ".join(re.sub(r"[^a-z0-9 ]", "", answer.lower()).split())


def agreement(drawn: np.ndarray, greedy: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Of each example the text of its modal answer as it was first drawn, and the three numbers of `consistency`.

    drawn: [n, K] of texts, None or NaN where an example has fewer draws. greedy: [n], the greedy answers. Returns
    [n], no text where nothing was drawn, and arrays [n], float64.
    """
    texts = {text: normalised(text) for text in {*drawn.flat, *greedy} if isinstance(text, str)}
    codes = {text: code for code, text in enumerate(dict.fromkeys(texts.values()))}
    code_of = {text: codes[as_compared] for text, as_compared in texts.items()}
    told: np.ndarray = np.array([code_of.get(text, -1) for text in drawn.flat], np.int64).reshape(drawn.shape)
    there = told >= 0
    # How often each draw's answer was drawn, its own draw included.
    counts = np.stack([(told == told[:, [draw]]).sum(axis=1) for draw in range(told.shape[1])], axis=1) * there
    draws = there.sum(axis=1)
    mode = counts.argmax(axis=1)[:, None]
    modal = np.take_along_axis(drawn, mode, 1)[:, 0]
    enough = draws >= LEAST_DRAWS
    share = np.divide(counts, draws[:, None], out=np.ones(counts.shape), where=there)
    entropy = -np.log(share).sum(axis=1) / np.maximum(draws, 1)
    same = np.take_along_axis(told, mode, 1)[:, 0] == np.array([code_of[text] for text in greedy])
    numbers = {
        "self_consistency": np.take_along_axis(share, mode, 1)[:, 0],
        "modal_agrees": same.astype(np.float64),
        "answer_entropy": np.maximum(entropy, 0.0),
    }
    return modal, {name: np.where(enough, values, np.nan) for name, values in numbers.items()}


def _rows(
    answered: Population, numbers: dict[str, np.ndarray], right: np.ndarray, draws: np.ndarray, seed: int
) -> Iterator[dict[str, Any]]:
    """right: [examples of the Dataset], correctness of the modal answer, NaN where the rule cannot read it."""
    chosen = answered.where(draws[answered.places] >= LEAST_DRAWS, f"with fewer than {LEAST_DRAWS} drawn answers")
    note = f"{_spread(draws[chosen.places])} drawn answers"
    agreed = numbers["self_consistency"][chosen.places]
    yield from _confidence(chosen, "self_consistency", agreed, chosen.correct, seed, note)
    yield chosen.estimated(
        "answer_entropy",
        "point_biserial",
        lambda: point_biserial(
            numbers["answer_entropy"][chosen.places], chosen.correct, chosen.images, "answer_entropy"
        ),
        note,
    )
    same = numbers["modal_agrees"][chosen.places]
    yield chosen.estimated("modal_agrees", "proportion", lambda: proportion(same, chosen.images), note)
    both = chosen.where(~np.isnan(right[chosen.places]), "whose modal answer is unparsed")
    modal = right[both.places]
    labelled = replace(both, correct=modal)
    of_modal = "self_consistency_of_modal"
    yield from _confidence(labelled, of_modal, numbers["self_consistency"][both.places], modal, seed, note)
    yield labelled.estimated("modal_accuracy", "proportion", lambda: proportion(modal, both.images), note)
    yield both.estimated("modal_gain", "paired_difference", lambda: paired_drop(modal, both.correct, both.images), note)


def _confidence(
    chosen: Population, metric: str, agreed: np.ndarray, correct: np.ndarray, seed: int, note: str
) -> Iterator[dict[str, Any]]:
    images = chosen.images
    yield chosen.estimated(
        metric, "point_biserial", lambda: point_biserial(agreed, correct, images, "self_consistency"), note
    )
    yield chosen.estimated(metric, "auroc", lambda: auroc(agreed, correct, images, seed), note)


def _spread(draws: np.ndarray) -> str:
    told = [str(number) for number in sorted({*draws.tolist()})]
    return " to ".join(dict.fromkeys((told[0], told[-1]))) if told else "no"


CONSISTENCY = Analysis("consistency", "self-consistency of drawn answers as a confidence", consistency)

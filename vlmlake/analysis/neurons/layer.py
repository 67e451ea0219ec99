"""All that is found of one site and layer: its coordinates' scores on the ranking half, and how the best one fares on
the images kept for ablation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlmlake.analysis.neurons.directions import Directions
from vlmlake.analysis.neurons.rankings import attribution, d_act, univariate_auroc

ATTRIBUTION = "attribution"


@dataclass(frozen=True)
class Halves:
    """correct: [n] of 0 and 1. ranking: [n], bool, examples on whose images neurons are ranked. first: [n], bool, those
    in the first of two halves of them. top: how many neurons the stability compares.
    """

    correct: np.ndarray
    ranking: np.ndarray
    first: np.ndarray
    top: int


@dataclass(frozen=True)
class Ranked:
    """scores: of each ranking, [d]; neurons are ranked by absolute value. best: the coordinate of the largest
    univariate AUROC. kept_values: [kept], its values on the kept half, signed so that higher means more likely right.
    overlap: of each ranking that both halves of the ranking images have, the share of its top neurons that they agree
    on.
    """

    scores: dict[str, np.ndarray]
    best: int
    kept_values: np.ndarray
    overlap: dict[str, float]


def ranked_layer(values: np.ndarray, halves: Halves, towards: Directions | None) -> Ranked | None:
    """Rankings that need no fit; none where no coordinate varies in the ranking half.

    values: [n, d], at both halves. towards: of the ranking half.
    """
    ranking = values[halves.ranking]
    if (ranking == ranking[0]).all():
        return None
    correct, first = halves.correct[halves.ranking], halves.first[halves.ranking]
    areas = univariate_auroc(ranking, correct)
    best = int(abs(areas - 0.5).argmax())
    kept = values[~halves.ranking, best].astype(np.float64) * (1 if areas[best] >= 0.5 else -1)
    scores = _scores(ranking, correct, towards, np.ones(len(ranking), bool))
    parts = [_scores(ranking, correct, towards, part) for part in (first, ~first) if _both(correct[part])]
    both = [name for name in scores if len(parts) == 2 and all(name in part for part in parts)]
    overlap = {name: _overlap(parts[0][name], parts[1][name], halves.top) for name in both}
    return Ranked(scores, best, kept, overlap)


def _both(correct: np.ndarray) -> bool:
    return 0 < int(correct.sum()) < len(correct)


def _scores(
    values: np.ndarray, correct: np.ndarray, towards: Directions | None, part: np.ndarray
) -> dict[str, np.ndarray]:
    """On the examples of `part`."""
    scores = {
        "d_act": d_act(values[part], correct[part]),
        "auroc": abs(univariate_auroc(values[part], correct[part]) - 0.5),
    }
    if towards is not None:
        chosen = part[towards.told]
        if chosen.any():
            of_told = values[towards.told][chosen]
            scores[ATTRIBUTION] = attribution(of_told, towards.rms[chosen], towards.scale, towards.towards[chosen])
    return scores


def _overlap(one: np.ndarray, other: np.ndarray, top: int) -> float:
    leading = [set(np.argsort(-abs(scores), kind="stable")[:top].tolist()) for scores in (one, other)]
    return len(leading[0] & leading[1]) / top

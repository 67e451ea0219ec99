"""Rankings of the coordinates of one site: scores, higher for a neuron that says more about correctness."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from vlmlake.answers.spellings import NONE


def d_act(values: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """mean(right) - mean(wrong) of every coordinate, in its own unit.

    values: [n, d]. correct: [n] of 0 and 1. Returns [d], float64; neurons are ranked by its absolute value.
    """
    right = correct.astype(bool)
    difference: np.ndarray = values[right].mean(axis=0, dtype=np.float64) - values[~right].mean(
        axis=0, dtype=np.float64
    )
    return difference


def univariate_auroc(values: np.ndarray, correct: np.ndarray, columns: int = 512) -> np.ndarray:
    """AUROC of every coordinate on its own, ties counted half, by the rank sum (Mann and Whitney 1947).

    values: [n, d]. correct: [n] of 0 and 1. Returns [d], float64.
    """
    right = correct.astype(bool)
    positives, negatives = int(right.sum()), int((~right).sum())
    sums = [
        rankdata(values[:, start : start + columns], axis=0)[right].sum(axis=0)
        for start in range(0, values.shape[1], columns)
    ]
    areas: np.ndarray = (np.concatenate(sums) - positives * (positives + 1) / 2) / (positives * negatives)
    return areas


def attribution(values: np.ndarray, rms: np.ndarray, scale: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Direct logit attribution: the mean over examples of what each coordinate adds to logit(gold) - logit(runner-up).

    values: [n, d]. rms: [n], of the residual stream that the final norm sees, held fixed. scale: [d], of that norm.
    towards: [n, d], the unembedding of the gold token less that of its runner-up. Returns [d], float64, in logits.
    """
    total: np.ndarray = np.einsum("nd,nd,n->d", values, towards, 1 / rms, dtype=np.float64) * scale
    return total / len(values)


def gold_and_runner_up(logits: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Of each example the most likely spelling of its gold answer, and the most likely token that is none.

    logits: [n, vocab], at prompt_last. gold: [n, s], ids of the gold answer's spellings, NONE beyond their number.
    Returns [n, 2], token ids; NONE where the gold answer has no spelling.
    """
    there, others = gold != NONE, np.array(logits)
    of_gold = np.where(there, np.take_along_axis(others, np.where(there, gold, 0), axis=1), -np.inf)
    rows, columns = np.nonzero(there)
    others[rows, gold[rows, columns]] = -np.inf
    best = np.take_along_axis(gold, of_gold.argmax(axis=1)[:, None], axis=1)
    pairs = np.concatenate([best, others.argmax(axis=1)[:, None]], axis=1)
    return np.where(there.any(axis=1)[:, None], pairs, NONE)

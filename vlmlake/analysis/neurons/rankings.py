"""Rankings of the coordinates of one site: scores, higher for a neuron that says more about correctness."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata


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


def gold_tokens(texts: np.ndarray, gold: str) -> np.ndarray:
    """Ids of all spellings of a gold answer: tokens whose text, stripped and lower-cased, equals it.

    texts: [vocab], strings. SentencePiece's word mark counts as a space.
    """
    plain = np.array([str(text).replace("▁", " ").replace("Ġ", " ").strip().lower() for text in texts])
    return np.flatnonzero(plain == gold.strip().lower())


def gold_and_runner_up(logits: np.ndarray, golds: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Of each example the most likely spelling of its gold answer, and the most likely token that is none.

    logits: [n, vocab], at prompt_last. golds: [n]. texts: [vocab]. Returns [n, 2], token ids; -1 where no token of the
    vocabulary spells the gold answer.
    """
    found = np.full((len(golds), 2), -1)
    for gold in dict.fromkeys(golds.tolist()):
        spellings, rows = gold_tokens(texts, gold), np.flatnonzero(golds == gold)
        if len(spellings):
            others = np.array(logits[rows])
            found[rows, 0] = spellings[others[:, spellings].argmax(axis=1)]
            others[:, spellings] = -np.inf
            found[rows, 1] = others.argmax(axis=1)
    return found

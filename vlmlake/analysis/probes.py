"""Linear probes of correctness on the readout states: is the answer's fate readable inside the model, and where?"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vlmlake.analysis.labels import DEFAULT_RULE
from vlmlake.analysis.samples import Sample, joined, kept_array, sample
from vlmlake.analysis.statistics import auroc, require_two_classes, weighted_auroc
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.schema import PROMPT_LAST, position_names

FOLDS = 5
INNER_FOLDS = 4
BASELINES = {"first_log_prob": 1.0, "first_gap": 1.0, "first_entropy": -1.0}
"""Scores that the output alone gives, with the sign that makes higher mean surer."""

FIRST_ANSWER = position_names(1)[1]

Fold = tuple[np.ndarray, np.ndarray]


def correctness_probes(data: xr.Dataset, rule: str = DEFAULT_RULE, seed: int = 0) -> list[dict[str, Any]]:
    """AUROC of correctness out of fold, per layer, at prompt_last and at the answer's first token.

    Features are standardised inside the fold, the classifier is an L2 logistic regression, folds are grouped by image,
    pairs of one fold are compared, intervals resample images. Metrics: `probe` per layer; `probe_nested`, its layer
    chosen on inner folds; `probe_shuffled` per layer, the same on permuted labels; and, at prompt_last, the output-side
    BASELINES, which need no training, on the same folds. Returns rows of tables.RESULTS.

    Method: methods of arXiv 2605.08200, made leak-free by grouping.

    Raises VlmlakeError for a single class, fewer images than folds, or too few errors.
    """
    asked = sample(data, rule=rule)
    told = asked.where(asked.data["answer_tokens"].values > 0, "without an answer token")
    folds = grouped_folds(asked.correct, asked.images, FOLDS, seed)
    rows = _probe_position(asked, PROMPT_LAST, folds, None, seed)
    strata = fold_numbers(folds)
    for name, sign in BASELINES.items():
        estimate = auroc(sign * asked.data[name].values, asked.correct, asked.images, seed, strata)
        rows.append(asked.row(name, "auroc", estimate, position=PROMPT_LAST))
    try:
        folds = grouped_folds(told.correct, told.images, FOLDS, seed)
        return rows + _probe_position(told, FIRST_ANSWER, folds, "can read the answer itself", seed)
    except VlmlakeError as error:
        return [*rows, asked.refusal("probe", "auroc", error, position=FIRST_ANSWER)]


def _probe_position(
    chosen: Sample, position: str, folds: list[Fold], note: str | None, seed: int
) -> list[dict[str, Any]]:
    strata = fold_numbers(folds)
    shuffled = np.random.default_rng(seed).permutation(chosen.correct)
    shuffled_folds = grouped_folds(shuffled, chosen.images, FOLDS, seed)
    shuffled_strata = fold_numbers(shuffled_folds)
    kept_array(chosen.data, "readout_states")
    if position not in chosen.data["position"].values:
        raise VlmlakeError(f"run {chosen.data.attrs['run']} keeps no position {position}")
    states = chosen.data["readout_states"].sel(position=position)
    features = {str(name): states.sel(layer=name).values for name in states["layer"].values}
    constant = [name for name, values in features.items() if np.ptp(values, axis=0).max() == 0]
    features = {name: values for name, values in features.items() if name not in constant}
    if not features:
        raise VlmlakeError(f"readout states at {position} are the same for all {len(chosen)} examples in every layer")
    scores = {name: out_of_fold(values, chosen.correct, folds) for name, values in features.items()}

    def row(metric: str, scored: np.ndarray, layer: str, more: str | None = None) -> dict[str, Any]:
        estimate = auroc(scored, chosen.correct, chosen.images, seed, strata)
        return chosen.row(metric, "auroc", estimate, joined(note, more), position=position, layer=layer)

    def nested_row() -> dict[str, Any]:
        try:
            nested, picked = _nested(features, scores, chosen, folds, seed)
        except VlmlakeError as error:
            return chosen.refusal("probe_nested", "auroc", error, position=position, layer="chosen")
        return row("probe_nested", nested, "chosen", f"layers {picked}")

    def shuffled_row(values: np.ndarray, layer: str) -> dict[str, Any]:
        noise = out_of_fold(values, shuffled, shuffled_folds)
        estimate = auroc(noise, shuffled, chosen.images, seed, shuffled_strata)
        return chosen.row("probe_shuffled", "auroc", estimate, position=position, layer=layer)

    return [
        *(_refusal(chosen, name, position) for name in constant),
        *(row("probe", values, name) for name, values in scores.items()),
        nested_row(),
        *(shuffled_row(values, name) for name, values in features.items()),
    ]


def grouped_folds(correct: np.ndarray, images: np.ndarray, folds: int, seed: int) -> list[Fold]:
    """Train and test indices; all examples of an image fall into one fold, classes are balanced as far as that allows.

    Raises VlmlakeError if a class has fewer members than folds, if there are fewer images than folds, or if a training
    part is left with one class.
    """
    require_two_classes(correct)
    rarest = int(min(correct.sum(), len(correct) - correct.sum()))
    if rarest < folds:
        raise VlmlakeError(
            f"{rarest} answers of one class cannot be spread over {folds} folds: too few errors to probe"
        )
    there = len(set(images))
    if there < folds:
        raise VlmlakeError(f"{there} images cannot be cut into {folds} folds: expected at least one image a fold")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    cut = list(splitter.split(np.zeros(len(correct)), correct, images))
    for train, _ in cut:
        if len(set(correct[train])) == 1:
            raise VlmlakeError(f"{folds} folds of {there} images leave a training part with one class: too few errors")
    return cut


def out_of_fold(features: np.ndarray, correct: np.ndarray, folds: list[Fold]) -> np.ndarray:
    """Probability of being right for every example from the fold that did not train on it.

    features: [n, d]; correct: [n] of 0 and 1. Returns [n], float64.
    """
    scores = np.empty(len(correct))
    for train, test in folds:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        model.fit(features[train], correct[train])
        scores[test] = model.predict_proba(features[test])[:, 1]
    return scores


def fold_numbers(folds: list[Fold]) -> np.ndarray:
    """For every example the number of the fold that tests it. Returns [n], int."""
    numbers = np.empty(sum(len(test) for _, test in folds), int)
    for number, (_, test) in enumerate(folds):
        numbers[test] = number
    return numbers


def _nested(
    features: dict[str, np.ndarray], scores: dict[str, np.ndarray], chosen: Sample, folds: list[Fold], seed: int
) -> tuple[np.ndarray, str]:
    """Out-of-fold scores of the layer that inner folds of each training part prefer, and which layers those were."""
    nested = np.empty(len(chosen))
    picked = []
    for train, test in folds:
        correct = chosen.correct[train]
        inner = grouped_folds(correct, chosen.images[train], INNER_FOLDS, seed)
        even = np.ones((1, len(train)))
        where = fold_numbers(inner)
        quality = {
            name: weighted_auroc(out_of_fold(values[train], correct, inner), correct, even, where)[0]
            for name, values in features.items()
        }
        if any(np.isnan(value) for value in quality.values()):
            raise VlmlakeError("no inner fold holds right and wrong answers together: too few errors to choose a layer")
        best = max(quality, key=lambda name: quality[name])
        nested[test] = scores[best][test]
        picked.append(best)
    return nested, ", ".join(picked)


def _refusal(chosen: Sample, layer: str, position: str) -> dict[str, Any]:
    error = VlmlakeError(f"readout states at {layer} are the same for all {len(chosen)} examples")
    return chosen.refusal("probe", "auroc", error, layer=layer, position=position)

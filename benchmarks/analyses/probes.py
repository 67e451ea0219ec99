"""1: probes of every layer, beside the plain loop over scikit-learn's."""

from __future__ import annotations

from collections.abc import Sequence

import dask
import numpy as np
import xarray as xr
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from analyses.findings import numbers_of
from analyses.process import Clock, Numbers, Subject
from analyses.table import Row, show
from analyses.threads import best_blas_threads, told
from vlmlake.analysis.blocks import computed
from vlmlake.analysis.population import Population, population
from vlmlake.analysis.probes.logistic import logistic
from vlmlake.analysis.probes.probes import probes
from vlmlake.analysis.statistics.estimate import Estimate
from vlmlake.analysis.statistics.roc import auroc, aurocs
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.schema import PROMPT_LAST

TIMES_FASTER, LARGEST_DIFFERENCE = 5.0, 0.002
"""The targets."""
FOLDS, SEED = 5, 0


def loop(data: xr.Dataset, clock: Clock) -> Numbers:
    """What one writes first: layer by layer, fold by fold, a pipeline of scikit-learn; then the interval."""
    return _looped(data, clock, np.float32, LogisticRegression(max_iter=2000))


def converged(data: xr.Dataset, clock: Clock) -> Numbers:
    """The same loop in float64, until it stands still."""
    return _looped(data, clock, np.float64, LogisticRegression(max_iter=20_000, tol=1e-8))


def _looped(data: xr.Dataset, clock: Clock, dtype: type, classifier: LogisticRegression) -> Numbers:
    chosen = population(data)
    training, strata = _parts(chosen)

    def states(layer: str) -> np.ndarray:
        values = data["readout_states"].sel(layer=layer, position=PROMPT_LAST).values
        return values[chosen.places].astype(dtype, copy=False)

    def fitted(features: np.ndarray, train: np.ndarray) -> Pipeline:
        return make_pipeline(StandardScaler(), clone(classifier)).fit(features[train], chosen.correct[train])

    layers = data["layer"].values
    middle = states(layers[len(layers) // 2])
    threads = best_blas_threads(lambda: fitted(middle, training[0]))
    found = []
    with threadpool_limits(threads), clock.running():
        for layer in layers:
            features, scores = states(layer), np.empty(len(chosen))
            for fold, train in enumerate(training):
                test = strata == fold
                scores[test] = fitted(features, train).predict_proba(features[test])[:, 1]
            found.append(auroc(scores, chosen.correct, chosen.images, SEED, strata))
    return {"auroc": _table(found), "threads": np.array(threads)}


def ours(data: xr.Dataset, clock: Clock) -> Numbers:
    """The same models of the same folds, all layers as tasks, and the same intervals."""
    chosen = population(data)
    training, strata = _parts(chosen)
    with clock.running():
        layers = data["readout_states"].sel(position=PROMPT_LAST).transpose("layer", ...)
        scores = computed([_scored(layer.data, chosen.places, chosen.correct, training, strata) for layer in layers])
        found = aurocs(np.array(scores), chosen.correct, chosen.images, SEED, strata)
    return {"auroc": _table(found)}


def whole(data: xr.Dataset, clock: Clock) -> Numbers:
    """The whole analysis, with its table."""
    with clock.running():
        result = probes(data)
    return numbers_of(result)


def rows(subject: Subject) -> tuple[list[Row], list[str]]:
    """The table's rows, and what must be known about them."""
    found, plain, everything = (subject.measured(f"probes.{way}") for way in ("ours", "loop", "whole"))
    areas, expected = found.numbers["auroc"], plain.numbers["auroc"]
    difference = np.abs(areas - expected)[:, 0]
    faster, worst = plain.seconds / found.seconds, int(difference.argmax())
    exact = subject.measured("probes.converged", layer=worst)
    off = [float(abs(one[worst, 0] - exact.numbers["auroc"][0, 0])) for one in (areas, expected)]
    fast, close = f">= {TIMES_FASTER:g} x", f"<= {LARGEST_DIFFERENCE:g}"
    met = bool(difference[worst] <= LARGEST_DIFFERENCE)
    return [
        show("1a", "probes: outer folds, intervals", found, f"{faster:.1f} x faster", fast, faster >= TIMES_FASTER),
        Row("1b", "probes: AUROC in every layer", "", "", f"differs by {difference[worst]:.1e}", close, met),
        show("1c", "the plain loop over scikit-learn, the same intervals", plain),
        show(
            "1d", "the loop until it stands still, the layer that differs most", exact, f"ours differs by {off[0]:.1e}"
        ),
        show("1e", "the whole analysis", everything, f"{everything.seconds / found.seconds:.1f} x 1a"),
    ], [
        f"1: {FOLDS} folds grouped by image in {len(areas)} layers; AUROC from {expected[0, 0]:.2f} in the first to "
        f"{expected[-1, 0]:.2f} in the last, bounds at most {np.abs(areas - expected)[:, 1:].max():.1e} apart.",
        f"1c: StandardScaler and LogisticRegression(max_iter=2000) on float32 as the lake gives it, "
        f"{told(int(plain.numbers['threads']))}, the faster for it.",
        f"1d: LogisticRegression(max_iter=20000, tol=1e-8) on float64, of layer {worst}; the plain loop differs from "
        f"it by {off[1]:.1e}. 1e: with inner folds, shuffled",
        "labels, calibration, the choice of a layer, and every split.",
    ]


def _table(found: Sequence[Estimate | VlmlakeError]) -> np.ndarray:
    """[layer, 3]: value and bounds. Raises the error of a layer that has one."""
    for one in found:
        if isinstance(one, VlmlakeError):
            raise one
    return np.array([[one.value, one.low, one.high] for one in found])


def _parts(chosen: Population) -> tuple[np.ndarray, np.ndarray]:
    """[fold, n], which examples train each fold's model; [n], the fold that tests each example."""
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    strata = np.empty(len(chosen), int)
    for number, (_, test) in enumerate(splitter.split(np.zeros(len(chosen)), chosen.correct, chosen.images)):
        strata[test] = number
    return strata != np.arange(FOLDS)[:, None], strata


@dask.delayed
def _scored(
    states: np.ndarray, places: np.ndarray, correct: np.ndarray, training: np.ndarray, strata: np.ndarray
) -> np.ndarray:
    """[n], of each example the logit of the fold that tests it."""
    labels = np.repeat(correct[None], len(training), axis=0)
    logits = logistic(states[places], labels, training).logits
    return logits[strata, np.arange(len(places))]

"""1: probes of every layer, beside the plain loop over scikit-learn's."""

from __future__ import annotations

import numpy as np
import xarray as xr
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from analyses.process import Clock, Numbers, Subject
from analyses.table import Row, show
from analyses.threads import best_blas_threads
from vlmlake.analysis.population import Population, population
from vlmlake.analysis.statistics.roc import auroc
from vlmlake.store_schema.schema import PROMPT_LAST

TIMES_FASTER, LARGEST_DIFFERENCE = 5.0, 0.002
"""The targets."""
FOLDS, SEED = 5, 0


def loop(data: xr.Dataset, clock: Clock) -> Numbers:
    """What one writes first: layer by layer, fold by fold, a pipeline of scikit-learn; then the interval."""
    chosen = population(data)
    folds = _folds(chosen)
    strata = np.empty(len(chosen), int)
    for number, (_, test) in enumerate(folds):
        strata[test] = number

    def states(layer: str) -> np.ndarray:
        return data["readout_states"].sel(layer=layer, position=PROMPT_LAST).values[chosen.places]

    def fitted(features: np.ndarray, train: np.ndarray) -> Pipeline:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        return model.fit(features[train], chosen.correct[train])

    layers = data["layer"].values
    middle = states(layers[len(layers) // 2])
    threads = best_blas_threads(lambda: fitted(middle, folds[0][0]))
    found = []
    with threadpool_limits(threads), clock.running():
        for layer in layers:
            features, scores = states(layer), np.empty(len(chosen))
            for train, test in folds:
                scores[test] = fitted(features, train).predict_proba(features[test])[:, 1]
            found.append(auroc(scores, chosen.correct, chosen.images, SEED, strata))
    return {"auroc": np.array([[one.value, one.low, one.high] for one in found]), "threads": np.array(threads)}


def _folds(chosen: Population) -> list[tuple[np.ndarray, np.ndarray]]:
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    return list(splitter.split(np.zeros(len(chosen)), chosen.correct, chosen.images))

"""What all analyses have in common, on a real lake: a run or its Dataset goes in, a typed result comes out."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib import pyplot

import vlmlake.analysis
from vlmlake import open_lake
from vlmlake.analysis.analyses import ANALYSES
from vlmlake.analysis.contract import Analysis
from vlmlake.analysis.findings import Shelf, together
from vlmlake.analysis.result import Result
from vlmlake.errors import VlmlakeError

PAGE = (Path(__file__).parents[2] / "docs" / "analyses.md").read_text()
PASSPORT = ("run", "dataset", "split", "rule", "metric", "statistic", "n", "n_items", "n_images")


@pytest.fixture(scope="module")
def run(lake_url):
    return open_lake(lake_url).run("tiny-llava")


@pytest.fixture(scope="module", params=ANALYSES)
def analysis(request) -> Analysis:
    return ANALYSES[request.param]


@pytest.fixture(scope="module")
def found(analysis, run) -> Result:
    shelves = [
        Shelf(run.storage, name, run.name, "pope_official", None, ANALYSES[name].labelled) for name in analysis.after
    ]
    metrics = {"metrics": together([shelf.metrics() for shelf in shelves])} if shelves else {}
    function = getattr(vlmlake.analysis, analysis.name)
    assert function is analysis.compute
    return function(run, seed=0, **metrics)


def test_every_row_carries_its_passport(found):
    assert found.table.height > 0
    assert found.table.select(PASSPORT).null_count().sum_horizontal().item() == 0
    bounded = found.table.drop_nulls(["low", "high"])
    assert bounded["interval"].null_count() == 0
    assert bounded.filter(pl.col("low") > pl.col("high")).is_empty()
    untold = found.table.filter(pl.col("value").is_null())
    assert untold["note"].null_count() == 0


def test_a_result_is_also_an_xarray_dataset(found):
    arrays = found.to_xarray()
    assert set(found.examples.data_vars) <= set(arrays.data_vars)
    row = found.table.drop_nulls("value").row(0, named=True)
    told = arrays[f"{row['metric']}_{row['statistic']}"].sel(bound="value", split=row["split"])
    assert row["value"] in told.values


def test_a_result_draws_itself(found):
    figure, given = pyplot.subplots()
    axes = found.plot(given)
    assert axes is given
    assert axes.has_data()
    figure.canvas.draw()
    pyplot.close(figure)


def test_the_lake_has_what_the_function_finds(found, analysis, lake_url):
    kept = open_lake(lake_url).table("results").filter(pl.col("analysis") == analysis.name)
    keys = ["intervention", "metric", "statistic", "split", "gold", "position", "layer", "head", "at"]
    both = found.table.join(kept, on=keys, how="left", nulls_equal=True, suffix="_kept")
    assert both.height == found.table.height
    np.testing.assert_allclose(
        both["value"].fill_null(np.nan), both["value_kept"].fill_null(np.nan), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_is_documented(name):
    assert f"| `{name}` |" in PAGE
    told = inspect.getdoc(ANALYSES[name].compute)
    assert re.search(r"Raises .*VlmlakeError", told, re.DOTALL)


@pytest.mark.parametrize("name", ANALYSES)
def test_no_examples_are_refused(name, run):
    with pytest.raises(VlmlakeError, match=r"no example of run tiny-llava-.* is left to analyze"):
        getattr(vlmlake.analysis, name)(run.dataset().isel(example=slice(0)))


@pytest.mark.parametrize("name", ["labels", "margins", "consistency"])
def test_a_dataset_gives_what_its_run_gives(name, run):
    function = getattr(vlmlake.analysis, name)
    assert function(run).table.equals(function(run.dataset()).table)


def test_a_selection_of_examples_is_analyzed_alone(run):
    data = run.dataset()
    part = data.isel(example=np.flatnonzero(data["split"].values == "random"))
    found = vlmlake.analysis.margins(part)
    assert set(found.table["n"]) == {160}
    assert found.examples.sizes["example"] == 160

"""Per-example numbers in long form and back, and a result's table as xarray."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.analysis.planted import planted_run
from vlmlake.analysis.findings import examples_of, metric_rows, together
from vlmlake.analysis.labels import labels
from vlmlake.analysis.population import population
from vlmlake.analysis.result import Result, result_table
from vlmlake.analysis.statistics.estimate import Estimate
from vlmlake.analysis.statistics.multiple import holm
from vlmlake.errors import VlmlakeError

NUMBERS = st.floats(allow_nan=True, allow_infinity=False, width=64)
DIMENSIONS = (("example",), ("example", "layer"), ("example", "position", "layer"))


class Plain(Result):
    def plot(self, ax=None):
        raise NotImplementedError


@given(st.data(), st.sampled_from(DIMENSIONS))
def test_numbers_of_examples_survive_the_long_form(data, dimensions):
    shape = tuple(data.draw(st.integers(1, 4)) for _ in dimensions)
    values = data.draw(hnp.arrays(np.float64, shape, elements=NUMBERS))
    prefixes = {"example": "x", "position": "answer_", "layer": "block_"}
    sizes = zip(dimensions, shape, strict=True)
    names = {name: [f"{prefixes[name]}{number}" for number in range(size)] for name, size in sizes}
    examples = xr.Dataset({"number": (dimensions, values), "other": (dimensions, -values)}, names)
    back = examples_of(metric_rows(examples))
    told = np.isfinite(values)
    if not told.any():
        assert not back.data_vars
        return
    for name in examples.data_vars:
        again = back[name].reindex(names).transpose(*dimensions)
        np.testing.assert_array_equal(again.values, examples[name].values)


def test_metrics_of_different_dimensions_stand_side_by_side():
    examples = xr.Dataset(
        {"a": ("example", [1.0, np.nan]), "b": (("example", "layer"), [[1.0, 2.0], [3.0, 4.0]])},
        {"example": ["x", "y"], "layer": ["block_0", "block_1"]},
    )
    rows = metric_rows(examples)
    assert rows.filter(pl.col("metric") == "a").rows() == [("x", "a", None, None, 1.0)]
    assert examples_of(rows)["b"].sel(example="y", layer="block_1") == 4


def test_layers_keep_the_models_order():
    layers = ["embed", *(f"block_{number}" for number in range(12))]
    values = np.arange(26.0).reshape(2, 13)
    values[0, 3] = np.nan
    examples = xr.Dataset({"a": (("example", "layer"), values)}, {"example": ["x", "y"], "layer": layers})
    blocks = examples.isel(layer=slice(1, None)).rename(a="b")
    assert examples_of(metric_rows(examples))["layer"].values.tolist() == layers
    both = together([blocks, examples])
    assert both["layer"].values.tolist() == layers
    assert both["b"].sel(example="y").values[-1] == 25


def test_layers_of_a_result_keep_the_models_order_before_means():
    chosen = population(planted_run(images=20))
    layers = ["mean", "embed", *(f"block_{number}" for number in range(12))]
    rows = [
        chosen.row("m", "mean", Estimate(float(place), 0.0, 1.0, "test"), layer=layer)
        for place, layer in enumerate(layers)
    ]
    examples = xr.Dataset(
        {"each": (("example", "layer"), np.ones((1, 2)))}, {"example": ["x"], "layer": ["block_0", "block_10"]}
    )
    told = Plain(result_table(rows), examples).to_xarray()
    assert told["layer"].values.tolist() == [*layers[1:], "mean"]
    assert told["m_mean"].sel(bound="value", split="all").values.tolist() == [*range(1, 14), 0]


def test_a_table_becomes_arrays_over_what_tells_its_rows_apart():
    data = planted_run(images=20)
    chosen = population(data)
    estimate = Estimate(0.5, 0.4, 0.6, "test", 0.01)
    rows = [chosen.row("m", "mean", estimate, layer=layer) for layer in ("block_0", "block_1")]
    rows.append(chosen.refusal("m", "mean", VlmlakeError("constant"), layer="block_2"))
    arrays = Plain(result_table(rows), xr.Dataset({"each": ("example", np.ones(3))}, {"example": ["a", "b", "c"]}))
    told = arrays.to_xarray()
    assert told["m_mean"].sel(bound="high", layer="block_1", split="all") == 0.6
    assert np.isnan(told["m_mean"].sel(bound="value", layer="block_2"))
    assert told["each"].sum() == 3


def test_rows_with_and_without_a_label_stand_side_by_side():
    chosen = population(planted_run(images=20))
    rows = [chosen.row("m", "mean", Estimate(value, 0, 1, "test"), at=at) for at, value in ((None, 0.1), (3, 0.3))]
    told = Plain(result_table(rows)).to_xarray()["m_mean"].sel(bound="value", split="all")
    assert told.sel(at=3) == 0.3
    assert told.sel(at=-1) == 0.1


def test_single_heads_have_a_variable_of_their_own_and_are_corrected_apart():
    chosen = population(planted_run(images=20))
    rows = [
        chosen.row("m", "mean", Estimate(value, 0, 1, "test", value), head=head)
        for head, value in ((None, 0.01), (0, 0.01), (3, 0.02))
    ]
    found = Plain(result_table(rows))
    assert found.table["p_holm"].to_list() == [0.01, 0.02, 0.02]
    told = found.to_xarray().sel(bound="value", split="all")
    assert told["m_mean"] == 0.01
    assert told["m_mean_of_heads"].sel(head=3) == 0.02


def test_a_refused_statistic_is_a_row_without_a_value_that_says_why():
    chosen = population(planted_run(images=20))
    row = result_table([chosen.refusal("m", "mean", VlmlakeError("m is constant"))]).row(0, named=True)
    assert row["value"] is None
    assert row["note"] == "m is constant"
    assert (row["n"], row["n_images"]) == (120, 20)


def test_p_values_are_corrected_within_each_split():
    data = planted_run(images=20)
    p_values = [0.01, 0.04, 0.03]
    rows = [
        population(data, split).row(f"m{number}", "mean", Estimate(0, 0, 0, "test", p))
        for split in ("all", "random")
        for number, p in enumerate(p_values)
    ]
    rows.append(population(data).row("untested", "mean", Estimate(0, 0, 0, "test")))
    table = result_table(rows)
    for split in ("all", "random"):
        corrected = table.filter(pl.col("split") == split)["p_holm"].drop_nulls()
        np.testing.assert_allclose(corrected, holm(np.array(p_values)))
    assert table.filter(pl.col("metric") == "untested")["p_holm"].to_list() == [None]


def test_one_row_is_asked_for_by_its_columns():
    found = labels(planted_run(images=20))
    assert found.row(metric="accuracy", split="random")["n"] == 60
    with pytest.raises(VlmlakeError, match="0 rows fit"):
        found.row(metric="accuracy", split="none")

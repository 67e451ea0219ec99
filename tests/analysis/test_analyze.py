"""What `analyze` does around the analyses: order, incremental runs, conditions, refusals, what it writes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pytest
import xarray as xr

from vlmlake import open_lake
from vlmlake.analysis import analyze as module
from vlmlake.analysis.analyze import Condition, analyze, with_needed
from vlmlake.analysis.contract import Analysis, dataset_of
from vlmlake.analysis.population import population
from vlmlake.analysis.result import Result, result_table
from vlmlake.analysis.statistics.proportions import proportion
from vlmlake.errors import VlmlakeError


@dataclass(frozen=True)
class Settings:
    """added: to every number."""

    added: float = 0.0


class Lengths(Result):
    def plot(self, ax=None):
        raise NotImplementedError


def lengths(source, *, rule, seed, parameters):
    data = dataset_of(source)
    values = np.array([float(len(question)) for question in data["question"].values]) + parameters.added
    chosen = population(data, rule=rule)
    rows = [chosen.row("length", "proportion", proportion(chosen.correct, chosen.images))]
    examples = xr.Dataset({"length": ("example", values)}, {"example": data["example"].values})
    return Lengths(result_table(rows), examples)


def doubled(source, *, rule, seed, parameters, metrics):
    data = dataset_of(source)
    chosen = population(data, rule=rule)
    ids = data["example"].values
    twice = 2 * metrics["length"].sel(example=ids) if "length" in metrics else xr.zeros_like(data["row"], np.float64)
    rows = [chosen.row("doubled", "proportion", proportion(chosen.correct, chosen.images), note=str(twice.values[0]))]
    return Lengths(result_table(rows), xr.Dataset({"doubled": ("example", twice.values)}, {"example": ids}))


def refused(source, *, rule, seed, parameters):
    raise VlmlakeError("there is nothing to see")


FAKES = (
    Analysis("lengths", "", lengths, reads=("readout_states",), parameters=Settings()),
    Analysis("refused", "", refused),
    Analysis("picky", "", lengths, reads=("prefix_logits|token_logits",)),
    Analysis("doubled", "", doubled, after=("lengths",), labelled=True),
)


@pytest.fixture
def fakes(monkeypatch):
    table = {analysis.name: analysis for analysis in FAKES}
    monkeypatch.setattr(module, "ANALYSES", table)
    return table


def states(found):
    return [(step.analysis, step.state) for step in found.steps if step.state != "started"]


def test_what_an_analysis_builds_on_runs_before_it(fakes, lake_copy):
    assert with_needed(["doubled"]) == ["lengths", "doubled"]
    found = analyze(str(lake_copy), ["doubled"])
    assert states(found) == [("lengths", "done"), ("doubled", "done")]
    assert set(found.table["analysis"]) == {"doubled"}
    first = open_lake(str(lake_copy))["tiny-llava"]["question"].values[0]
    assert found.table["note"].to_list() == [str(2.0 * len(first))]


def test_what_has_not_changed_is_not_computed_again(fakes, lake_copy):
    names, url = ["lengths", "doubled"], str(lake_copy)
    first = analyze(url, names)
    second = analyze(url, names)
    assert states(second) == [("lengths", "unchanged"), ("doubled", "unchanged")]
    assert first.table.equals(second.table)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"parameters": {"lengths": Settings(added=1.0)}}, {"rule": "exact"}],
    ids=["seed", "parameters", "rule"],
)
def test_a_change_of_settings_computes_again(fakes, lake_copy, change):
    url = str(lake_copy)
    analyze(url, ["doubled"])
    assert states(analyze(url, ["doubled"], **change)) == [("lengths", "done"), ("doubled", "done")]


def test_changed_code_computes_again(fakes, lake_copy, monkeypatch):
    analyze(str(lake_copy), ["lengths"])
    monkeypatch.setattr(module, "CODE", "other code")
    found = analyze(str(lake_copy), ["lengths"])
    assert states(found) == [("lengths", "done")]
    assert found.table["code"].to_list() == ["other code"]


def test_new_content_computes_again(fakes, lake_copy):
    analyze(str(lake_copy), ["lengths"])
    lake = open_lake(str(lake_copy))
    run = lake.run("tiny-llava")
    withdrawn = next(iter(sorted(lake_copy.glob("runs/*/batches/*.parquet"))))
    withdrawn.unlink()
    (lake_copy / "runs" / run.name / "batches.parquet").unlink()
    found = analyze(str(lake_copy), ["lengths"])
    assert states(found) == [("lengths", "done")]
    assert found.table["note"][0].endswith("9 of 10 batches")


def test_what_a_user_deleted_is_computed_again(fakes, lake_copy):
    url = str(lake_copy)
    first = analyze(url, ["doubled"]).table
    next(lake_copy.glob("metrics/lengths/*/*.parquet")).unlink()
    found = analyze(url, ["doubled"])
    assert states(found) == [("lengths", "done"), ("doubled", "unchanged")]
    assert found.table.equals(first)


def test_numbers_of_other_settings_under_settled_results_are_computed_again(fakes, lake_copy):
    """As two at once, or one that was stopped between its files, leave them."""
    url = str(lake_copy)
    good = analyze(url, ["lengths"]).table
    (results,) = lake_copy.glob("results/lengths/*/*.parquet")
    (metrics,) = lake_copy.glob("metrics/lengths/*/*.parquet")
    settled, numbers = results.read_bytes(), metrics.read_bytes()
    analyze(url, ["lengths"], parameters={"lengths": Settings(added=1.0)})
    assert metrics.read_bytes() != numbers
    results.write_bytes(settled)
    again = analyze(url, ["lengths"])
    assert states(again) == [("lengths", "done")]
    assert metrics.read_bytes() == numbers
    assert again.table.equals(good)


@pytest.mark.parametrize("table", ["results", "metrics"])
def test_damaged_findings_are_computed_again(fakes, lake_copy, table):
    url = str(lake_copy)
    good = analyze(url, ["doubled"]).table
    (path,) = lake_copy.glob(f"{table}/lengths/*/*.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20] + bytes(20))
    assert states(analyze(url, ["doubled"])) == [("lengths", "done"), ("doubled", "unchanged")]
    assert path.read_bytes() == whole
    path.write_bytes(whole[:40] + bytes(20) + whole[60:])
    next(lake_copy.glob("results/doubled/*/*.parquet")).unlink()
    found = analyze(url, ["doubled"])
    if table == "results":
        assert found.table.equals(good)
        assert path.read_bytes() == whole
    else:
        assert "is damaged: its checksum does not hold; delete it and analyze again" in found.refusals[0]


def test_results_say_with_what_they_were_made(fakes, lake_copy):
    url = str(lake_copy)
    assert analyze(url, ["doubled"]).table["settings"].to_list() == [None]
    found = analyze(url, ["doubled"], seed=3, parameters={"lengths": Settings(added=2.0)}).table
    assert found["settings"].to_list() == ["seed=3; lengths.added=2.0"]
    assert found["content"][0] == open_lake(url).run("tiny-llava").content()[:8]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"parameters": {"length": Settings()}}, "parameters of an unknown analysis length: expected lengths"),
        ({"parameters": {"lengths": {"added": 1}}}, "parameters of lengths are .*, expected a Settings"),
        ({"seed": -1}, "seed is -1, expected 0 to 4294967295"),
        ({"seed": 2**32}, "expected 0 to 4294967295"),
    ],
)
def test_settings_of_another_kind_are_refused(fakes, lake_copy, given, told):
    with pytest.raises(VlmlakeError, match=told):
        analyze(str(lake_copy), ["lengths"], **given)


def test_numbers_of_an_analysis_that_now_refuses_are_not_built_upon(fakes, lake_copy, monkeypatch):
    url = str(lake_copy)
    told = analyze(url, ["doubled"]).table["note"].to_list()
    with monkeypatch.context() as patched:
        patched.setitem(fakes, "lengths", replace(fakes["lengths"], compute=refused))
        patched.setattr(module, "CODE", "other code")
        for again in ("done", "unchanged"):
            found = analyze(url, ["doubled"])
            assert states(found) == [("lengths", "refused"), ("doubled", again)]
            assert found.table["note"].to_list() == ["0.0; without lengths"] != told
        patched.setitem(fakes, "lengths", FAKES[0])
        found = analyze(url, ["doubled"])
        assert states(found) == [("lengths", "done"), ("doubled", "done")]
        assert found.table["note"].to_list() == told


def test_a_condition_has_findings_of_its_own(fakes, lake_copy):
    url = str(lake_copy)
    lake = open_lake(url)
    data = lake["tiny-llava"]
    ids = data["example"].values[data["split"].values == "random"]
    whole = analyze(url, ["lengths"]).table
    part = analyze(url, ["lengths"], condition=Condition("split = 'random'", {data.attrs["run"]: ids})).table
    assert part["n"][0] == 160 < whole["n"][0]
    results = lake.table("results").filter(pl.col("analysis") == "lengths")
    assert sorted(results["condition"].to_list(), key=str) == [None, "split = 'random'"]
    metrics = lake.table("metrics").filter(pl.col("analysis") == "lengths")
    assert metrics.filter(pl.col("condition").is_null()).height == 480
    assert set(metrics.filter(pl.col("condition").is_not_null())["example"]) == set(ids)


def test_numbers_that_hang_on_no_label_are_kept_once_for_all_rules(fakes, lake_copy):
    for rule in ("exact", "yes_xor_no"):
        analyze(str(lake_copy), ["lengths", "doubled"], rule=rule)
    metrics = open_lake(str(lake_copy)).table("metrics").filter(pl.col("metric").is_in(["length", "doubled"]))
    counted = {key: part.height for key, part in metrics.group_by("metric", "rule")}
    assert counted == {("length", None): 480, ("doubled", "exact"): 480, ("doubled", "yes_xor_no"): 480}


def test_a_refusal_stops_no_other_analysis(fakes, lake_copy):
    found = analyze(str(lake_copy))
    run = open_lake(str(lake_copy)).runs[0]
    assert dict(states(found)) == {"lengths": "done", "refused": "refused", "picky": "impossible", "doubled": "done"}
    assert found.refusals == (f"refused of {run}: there is nothing to see",)
    assert found.impossible == (
        f"picky of {run}: run {run} keeps no prefix_logits and no token_logits: run `vlmlake extract` with a plan that "
        "has it",
    )
    with pytest.raises(VlmlakeError, match="there is nothing to see"):
        found.raise_refusals()
    named = analyze(str(lake_copy), ["picky"])
    assert len(named.refusals) == 1
    assert not named.impossible


def test_a_condition_that_is_true_of_nothing_is_refused(fakes, lake_copy):
    run = open_lake(str(lake_copy)).runs[0]
    found = analyze(str(lake_copy), ["lengths"], condition=Condition("false", {run: ()}))
    assert found.refusals == (f"{run} has no example where false",)


def test_a_second_rule_leaves_the_first_ones_results(fakes, lake_copy):
    url = str(lake_copy)
    analyze(url, ["lengths"])
    analyze(url, ["lengths"], rule="exact")
    rules = open_lake(url).table("results").filter(pl.col("analysis") == "lengths")["rule"]
    assert sorted(rules) == ["exact", "pope_official"]


def test_every_analysis_comes_after_those_it_builds_on():
    seen = []
    for name, analysis in module.ANALYSES.items():
        assert name == analysis.name
        assert set(analysis.after) <= set(seen)
        seen.append(name)

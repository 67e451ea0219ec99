"""Analyses on runs of other plans: what is kept suffices or is asked for by name."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from vlmlake import open_lake
from vlmlake.analysis.analyze import analyze
from vlmlake.analysis.population import population
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.extract import extract
from vlmlake.ingest.job import Job
from vlmlake.ingest.model_source import ModelSource
from vlmlake.store_schema.capture_plan import CapturePlan, read_plan


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_llava):
    """One model and data under three plans: suffix, readout, and readout states at prompt_last alone."""
    url = str(tmp_path_factory.mktemp("plans"))
    bare = CapturePlan("bare", ("readout_states",), layers=("block_1", "block_3"), positions=("prompt_last",))
    names = {}
    for plan in (read_plan("suffix", "float32"), read_plan("readout", "float32"), bare):
        job = Job(ModelSource(str(tiny_llava)), ("shapes:40@3",), url, plan=plan, decoding=Decoding(answer_tokens=3))
        names[plan.name] = extract(job).run
    return url, names


def test_an_array_that_the_plan_left_out_is_named(runs):
    url, names = runs
    found = analyze(url, ["attention", "margins", "attribution", "probes"], run=names["bare"])
    assert [refusal.partition(" of ")[0] for refusal in found.refusals] == ["attention", "attribution"]
    assert (
        f"run {names['bare']} keeps no attention and no readout_attention: run `vlmlake extract`" in found.refusals[0]
    )
    assert f"run {names['bare']} keeps no attn_write" in found.refusals[1]
    probes = found.table.filter(pl.col("metric") == "probe", pl.col("split") == "all")
    assert set(probes["layer"].drop_nulls()) == {"block_1", "block_3"}
    told = found.table.filter(pl.col("metric") == "lens_deviation")["note"]
    assert told.str.contains("the plan keeps no logits").all()


def test_plans_that_keep_the_same_states_find_the_same(runs):
    url, names = runs
    found = {plan: analyze(url, ["attention", "margins"], run=names[plan]).table for plan in ("suffix", "readout")}
    keys = ["metric", "statistic", "split", "position", "layer", "head"]
    both = found["suffix"].join(found["readout"], on=keys, how="full", nulls_equal=True, suffix="_readout")
    assert both.height == found["suffix"].height == found["readout"].height
    for name in ("value", "low", "high"):
        far = both.filter((pl.col(name) - pl.col(f"{name}_readout")).abs() > 1e-4 * (1 + pl.col(name).abs()))
        assert far.is_empty(), far


def test_examples_without_a_gold_answer_are_left_out_and_counted(runs):
    url, names = runs
    data = open_lake(url)[names["bare"]]
    gold = data["gold"].values.copy()
    gold[data["question"].values == data["question"].values[0]] = None
    chosen = population(data.assign_coords(gold=("example", gold)))
    assert set(chosen.data["gold"].values) == {"yes", "no"}
    left_out = len(population(data)) - len(chosen)
    assert left_out > 0
    assert chosen.note == f"{left_out} without a gold answer"
    with pytest.raises(VlmlakeError, match="has no labelled examples of split all"):
        population(data.assign_coords(gold=("example", np.full(len(gold), None))))

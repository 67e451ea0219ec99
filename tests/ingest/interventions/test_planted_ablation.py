"""Ablation from end to end on two models of one function: rank, ablate, estimate. The one answers through a single
coordinate, the other through all.
"""

from __future__ import annotations

import polars as pl
import pytest

from tests.ingest.jobs import job_of, run_job
from tests.ingest.planted_circuit import NEURON, save_bottleneck, save_distributed
from vlmlake import open_lake
from vlmlake.analysis.analyze import analyze
from vlmlake.ingest.interventions.intervene import intervene
from vlmlake.ingest.interventions.requests.ablation import Ablation

CONTROLS = 100
SPLITS = ("adversarial", "popular", "random")
REQUEST = Ablation("attribution", layer="block_3", top=(1, 5), controls=CONTROLS, positions="prompt_last")


def estimated(save, folder, checkpoint, request) -> tuple[str, pl.DataFrame]:
    """URL, and the rows of `causal` over all gold answers."""
    job = job_of(save(folder / "model", checkpoint), "shapes:40@1", folder / "lake", plan="readout")
    run = run_job(job)
    analyze(job.lake, ["neurons"])
    came = intervene(job.lake, run.name, request)
    assert (came.missing, came.differing) == (0, 0)
    assert came.compared > 0
    analyze(job.lake, ["causal"])
    rows = open_lake(job.lake).table("results").filter(pl.col("analysis") == "causal", pl.col("gold").is_null())
    return job.lake, rows


@pytest.fixture(scope="module")
def bottleneck(checkpoints, tmp_path_factory):
    return estimated(save_bottleneck, tmp_path_factory.mktemp("bottleneck"), checkpoints["llava"], REQUEST)


@pytest.fixture(scope="module")
def distributed(checkpoints, tmp_path_factory):
    request = Ablation("attribution", layer="block_3", top=(5, 0.5), controls=20, positions="prompt_last")
    return estimated(save_distributed, tmp_path_factory.mktemp("distributed"), checkpoints["llava"], request)


def row(rows: pl.DataFrame, metric: str, statistic: str, at: int, split: str = "all") -> dict[str, float]:
    layer = "block_0" if metric == "null" else "block_3"
    found = rows.filter(metric=metric, statistic=statistic, at=at, split=split, layer=layer)
    return found.row(0, named=True) if found.height == 1 else pytest.fail(f"{found.height} rows of {metric} at {at}")


def test_the_bottleneck_is_the_first_neuron_and_the_answers_fall_to_one(bottleneck):
    lake, rows = bottleneck
    conditions = open_lake(lake).table("interventions").filter(set="top", k=1)
    assert conditions["edits"].item()[0]["neurons"] == [NEURON]
    for split in SPLITS:
        before, after = (row(rows, "top", f"accuracy_{when}", 1, split)["value"] for when in ("before", "after"))
        assert before > 0.75
        assert after == pytest.approx(0.5, abs=0.05)
    said = open_lake(lake).table("outcomes").filter(pl.col("condition") == conditions["condition"].item())
    assert said["answer"].n_unique() == 1


def test_no_control_of_the_bottleneck_costs_anything(bottleneck):
    rows = bottleneck[1]
    for size in (1, 5):
        control, rank = row(rows, "control", "drop", size), row(rows, "top", "rank_among_controls", size)
        assert -0.02 < control["low"] <= control["value"] <= control["high"] < 0.02
        assert (rank["value"], rank["p_value"]) == (1, pytest.approx(1 / (CONTROLS + 1)))
        assert row(rows, "top", "drop", size)["low"] > 0
        assert abs(row(rows, "bottom", "drop", size)["value"]) < 0.02
        assert abs(row(rows, "null", "drop", size)["value"]) < 0.03


def test_controls_are_as_many_as_were_asked_for(bottleneck):
    table = open_lake(bottleneck[0]).table("interventions").filter(set="control")
    for size in (1, 5):
        sets = [sorted(edits[0]["neurons"]) for edits in table.filter(k=size)["edits"]]
        assert len({tuple(one) for one in sets}) == CONTROLS
        assert not any(NEURON in one for one in sets)


def test_in_the_distributed_model_neither_five_nor_half_of_the_layer_cost_much(distributed):
    rows = distributed[1]
    five, half = (row(rows, "top", "drop", size) for size in (5, 64))
    assert abs(five["value"]) < 0.02
    assert five["low"] <= 0 <= five["high"]
    assert abs(half["value"]) < 0.05
    assert half["low"] <= 0.02
    assert row(rows, "top", "rank_among_controls", 5)["p_value"] > 0.05

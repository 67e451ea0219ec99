"""Attention structure on runs of a real model, whatever the plan kept of its attention."""

from __future__ import annotations

import numpy as np
import pytest

from vlmlake import open_lake
from vlmlake.analysis.attention import AttentionParameters, attention
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.extract import extract
from vlmlake.ingest.job import Job
from vlmlake.ingest.model_source import ModelSource
from vlmlake.store_schema.capture_plan import CapturePlan, read_plan
from vlmlake.store_schema.schema import IMAGE


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_llava):
    """One model and data under four plans: suffix, readout, prompt_last of some blocks, and no attention at all."""
    url = str(tmp_path_factory.mktemp("plans"))
    layers = ("block_1", "block_3")
    plans = (
        read_plan("suffix", "float32"),
        read_plan("readout", "float32"),
        CapturePlan("few", ("readout_attention",), layers=layers, positions=("prompt_last",), dtype="float32"),
        CapturePlan("bare", ("readout_states",), layers=layers),
    )
    names = {}
    for plan in plans:
        job = Job(ModelSource(str(tiny_llava)), ("shapes:40@3",), url, plan=plan, decoding=Decoding(answer_tokens=3))
        names[plan.name] = extract(job).run
    lake = open_lake(url)
    return {plan: lake[name] for plan, name in names.items()}


def test_numbers_are_the_same_from_the_readout_plan(runs):
    whole, readout = (attention(runs[plan]) for plan in ("suffix", "readout"))
    assert set(readout.examples) == set(whole.examples)
    for metric in set(whole.examples) - {"clusters_dbscan_p90", "clusters_components_mass30"}:
        np.testing.assert_allclose(readout.examples[metric], whole.examples[metric], atol=2e-5, err_msg=metric)


def test_entropy_is_that_of_the_models_own_rows(runs):
    data = runs["suffix"]
    found = attention(data).examples["entropy"].sel(position="prompt_last", layer="block_2").values
    rows = data["attention"].sel(layer="block_2").values
    roles = data["prefix_token_role"].sel(prefix=data["prefix_of"]).values
    for example in range(0, data.sizes["example"], 7):
        row = rows[example, :, int(data["suffix_tokens"][example]) - 1, : roles.shape[1]].mean(0)
        shares = row[roles[example] == IMAGE].astype(float)
        shares /= shares.sum()
        assert found[example] == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-5)


def test_a_plan_of_some_blocks_at_prompt_last_has_those_alone_and_no_change_between_them(runs):
    found = attention(runs["few"])
    whole = attention(runs["suffix"])
    assert found.examples["position"].values.tolist() == ["prompt_last"]
    assert found.examples["layer"].values.tolist() == ["block_1", "block_3"]
    wanted = whole.examples["gini"].sel(position=["prompt_last"], layer=["block_1", "block_3"])
    np.testing.assert_allclose(found.examples["gini"], wanted, atol=1e-5)
    assert found.examples["entropy_change"].isnull().all()
    assert found.rows(metric="entropy_change").is_empty()
    assert found.row(metric="lock_layer")["note"] == "the run keeps no two neighbouring blocks"


def test_a_run_without_attention_is_named(runs):
    with pytest.raises(VlmlakeError, match="keeps no attention and no readout_attention: run `vlmlake extract`"):
        attention(runs["bare"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"row_sum_tolerance": 0.0}, "row_sum_tolerance is 0.0, expected above 0 and below 1"),
        ({"row_sum_tolerance": float("nan")}, "row_sum_tolerance is nan, expected above 0"),
        ({"plateau_threshold": -0.1}, "plateau_threshold is -0.1, expected nats, 0 or more"),
        ({"plateau_threshold": float("nan")}, "plateau_threshold is nan, expected nats"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(given, said):
    with pytest.raises(VlmlakeError, match=said):
        AttentionParameters(**given)

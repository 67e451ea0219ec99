"""Outcomes are known by run, condition and example: what is there is not made again, whoever asked for it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.ingest.interventions.told import Drawn
from tests.ingest.jobs import job_of, run_job
from vlmlake import open_lake
from vlmlake.ingest.interventions import intervention as interventions
from vlmlake.ingest.interventions.edited.edits import Edit
from vlmlake.ingest.interventions.intervene import intervene, plan_intervention
from vlmlake.ingest.interventions.intervention import Intervention, Settings
from vlmlake.ingest.interventions.requests.ablation import Ablation
from vlmlake.ingest.interventions.requests.bypass import Bypass
from vlmlake.ingest.interventions.requests.calibration import Activations
from vlmlake.ingest.interventions.requests.conditions import ABLATE, Condition, unchanged
from vlmlake.ingest.interventions.requests.heads import HeadAblation
from vlmlake.ingest.interventions.requests.patching import Patching

GIVEN = Ablation(layer="block_3", neurons=(3, 1, 7), controls=2)


@pytest.fixture(scope="module")
def original(checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "lake"
    return folder, run_job(job_of(checkpoints["llava"], "shapes:3@3", folder, batch_size=10)).name


@pytest.fixture
def lake(original, tmp_path) -> tuple[str, str]:
    """URL of a copy, and the run's name."""
    shutil.copytree(original[0], tmp_path / "lake")
    return str(tmp_path / "lake"), original[1]


@pytest.fixture
def no_model(monkeypatch):
    def load(*arguments):
        raise AssertionError("a model was loaded")

    return lambda: monkeypatch.setattr(interventions, "load_same_model", load)


def conditions(lake) -> pl.DataFrame:
    return open_lake(lake[0]).table("interventions")


def files(lake) -> dict[str, bytes]:
    """Of the whole lake."""
    return {str(path): path.read_bytes() for path in Path(lake[0]).rglob("*") if path.is_file()}


def fresh(lake, request, examples=None, settings=Settings()) -> Intervention:  # noqa: B008 - it is frozen
    return Intervention.of(open_lake(lake[0]).run(lake[1]), request, examples, settings)


@pytest.mark.parametrize("request_", [Bypass(layers=("block_1",)), HeadAblation("block_1", mode="mean"), GIVEN])
def test_asking_again_computes_nothing_and_loads_no_model(lake, no_model, request_):
    first = intervene(*lake, request_)
    before = files(lake)
    no_model()
    again = intervene(*lake, request_)
    assert first.computed > 0
    assert (again.computed, again.missing, again.plan.groups) == (0, 0, ())
    assert again.intervention == first.intervention
    assert (again.differing, again.compared) == (first.differing, first.compared)
    assert files(lake) == before


def test_an_intervention_that_shares_conditions_makes_only_the_others(lake):
    asked = open_lake(lake[0]).run(lake[1]).examples().height
    first = intervene(*lake, Bypass(layers=("block_1",)))
    assert first.computed == 4 * asked
    second = intervene(*lake, Bypass(layers=("block_1", "block_2")))
    assert second.intervention != first.intervention
    assert second.computed == 3 * asked
    assert second.plan.done == 4 * asked
    assert len(conditions(lake).filter(intervention=second.intervention)) == 7
    some = open_lake(lake[0]).run(lake[1]).examples()["example"].to_list()[:5]
    assert intervene(*lake, Bypass(("mlp",), ("block_2",)), some).computed == 0
    heads = intervene(*lake, HeadAblation("block_0", (2,)), some)
    assert heads.computed == 5


def test_more_controls_are_the_same_and_more(lake):
    first = intervene(*lake, GIVEN)
    more = intervene(*lake, replace(GIVEN, controls=4))
    assert first.computed % 4 == 0
    assert more.computed == first.computed // 4 * 2
    told = conditions(lake).sort("member")
    few, many = (
        told.filter(intervention=one.intervention, set="control")["condition"].to_list() for one in (first, more)
    )
    assert many[:2] == few
    assert len(set(many)) == 4


def test_every_parameter_that_changes_the_model_makes_other_conditions(lake):
    variants = [
        GIVEN,
        replace(GIVEN, mode="zero"),
        replace(GIVEN, layer="block_2"),
        replace(GIVEN, site="mlp_out"),
        replace(GIVEN, positions="prompt_last"),
        replace(GIVEN, neurons=(1, 7, 8)),
    ]
    found = [intervene(*lake, one) for one in variants]
    table = conditions(lake)
    given = [table.filter(intervention=one.intervention, set="given")["condition"].item() for one in found]
    assert len(set(given)) == len(variants) == len({one.intervention for one in found})
    other_seed = intervene(*lake, replace(GIVEN, seed=1), settings=Settings(2))
    assert other_seed.computed > 0
    table = conditions(lake).filter(set="control")
    drawn = {
        one.intervention: [
            edits[0]["neurons"] for edits in table.filter(intervention=one.intervention).sort("member")["edits"]
        ]
        for one in (found[0], other_seed)
    }
    assert drawn[found[0].intervention] != drawn[other_seed.intervention]
    shorter = intervene(*lake, GIVEN, settings=Settings(1))
    assert shorter.computed == found[0].computed
    some = open_lake(lake[0]).run(lake[1]).examples()["example"].to_list()[:4]
    fewer = intervene(*lake, Bypass(("mlp",), ("block_0",)), some)
    assert fewer.intervention != intervene(*lake, Bypass(("mlp",), ("block_0",)), some[:3]).intervention


def test_ids_know_the_change_and_nothing_else():
    """They are written out: an id that changes makes all outcomes that are kept be made again."""
    rng = np.random.default_rng(0)
    neurons, values = rng.permutation(64)[:9], rng.normal(size=9)
    order = rng.permutation(9)

    def condition(edit, **more):
        return Condition(ABLATE, "top", 3, positions="all", edits=(edit,), **more)

    one = condition(Edit("resid", 3, neurons, values), member=1, ranking="l1", seed=4)
    same = condition(Edit("resid", 3, neurons[order], values[order]), ranking="d_act")
    assert one.id == same.id
    assert condition(Edit("resid", 3, neurons, values[order])).id != one.id
    assert unchanged(3).id != unchanged(4).id
    assert [unchanged(3).id, condition(Edit("resid", 3, np.arange(2), np.ones(2))).id] == [
        "none-f094a4bd0dcb",
        "ablate-0edf33489b9f",
    ]


def test_conditions_come_back_from_the_lake_as_they_were_written(lake):
    for request in (GIVEN, HeadAblation("block_1"), Bypass(), Patching(rule="exact"), Drawn("mlp_out", "block_2")):
        made = fresh(lake, request)
        made.settle()
        wanted = made._made(replace(made._subject, measure=made._measured))
        assert [one.id for one in fresh(lake, request).conditions] == [one.id for one in wanted]


def test_values_that_are_measured_are_settled_once(lake, monkeypatch):
    """Another store's means, or another machine's, do not change what was asked."""
    first = intervene(*lake, GIVEN)
    before = conditions(lake)
    monkeypatch.setattr(interventions, "of_store", lambda *_: Activations(np.full(64, 9.0), np.arange(64.0)))
    assert intervene(*lake, GIVEN).computed == 0
    assert conditions(lake).equals(before)
    assert intervene(*lake, replace(GIVEN, controls=1)).computed > 0
    assert first.computed > 0


def test_who_settles_first_decides(lake, monkeypatch):
    """A pass that measured something else meanwhile takes what is there."""
    others = []

    def late(*_):
        monkeypatch.setattr(interventions, "of_store", of_store)
        others.append(intervene(*lake, GIVEN))
        return Activations(np.full(64, 9.0), np.arange(64.0))

    of_store = interventions.of_store
    monkeypatch.setattr(interventions, "of_store", late)
    came = intervene(*lake, GIVEN)
    (other,) = others
    assert other.computed > 0
    assert (came.computed, came.missing, came.intervention) == (0, 0, other.intervention)
    assert conditions(lake)["edits"].explode().struct.field("values").explode().max() != 9


def test_a_plan_loads_no_model_and_writes_nothing(lake, no_model):
    before = files(lake)
    no_model()
    for request in (GIVEN, Bypass(), HeadAblation("block_0", mode="mean"), Patching(rule="exact")):
        planned = plan_intervention(*lake, request)
        assert planned.pairs > 0
        assert planned.done == 0
    assert files(lake) == before


def test_a_plan_is_what_comes(lake):
    """Also before anything is settled, and where two draws are the same set."""
    repeated = (
        Bypass(layers=("block_1", "block_1")),
        HeadAblation("block_0", (1, 1)),
        Ablation(layer="block_3", neurons=(3,), controls=30, site="mlp_out"),
        GIVEN,
    )
    for number, request in enumerate(repeated, start=1):
        planned, told = plan_intervention(*lake, request, settings=Settings(number)), []
        intervene(*lake, request, settings=Settings(number), tell=told.append)
        assert (planned.conditions, planned.pairs) == (told[0].conditions, told[0].pairs)
        assert [group.route for group in planned.groups] == [group.route for group in told[0].groups]
    assert told[0].conditions == 4

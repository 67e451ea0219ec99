from __future__ import annotations

from dataclasses import dataclass

import pytest

from vlmlake.analysis import parameters as module
from vlmlake.analysis.contract import Analysis
from vlmlake.analysis.parameters import parameters_of
from vlmlake.errors import VlmlakeError


@dataclass(frozen=True)
class Settings:
    folds: int = 5
    threshold: float = 0.1
    positions: tuple[str, ...] = ("prompt_last",)
    site: str = "resid"
    wide: bool = False
    layers: tuple[str, ...] | None = None
    shares: tuple[float, ...] = (0.5,)
    blocks: str | tuple[str, ...] = "best"


@pytest.fixture(autouse=True)
def analyses(monkeypatch):
    monkeypatch.setattr(module, "ANALYSES", {"probes": Analysis("probes", "", print, parameters=Settings())})


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ("probes.folds=10", "folds", 10),
        ("probes.threshold=1", "threshold", 1.0),
        ("probes.positions=prompt_last,answer_0", "positions", ("prompt_last", "answer_0")),
        ('probes.positions=["answer_0"]', "positions", ("answer_0",)),
        ("probes.site=3", "site", "3"),
        ("probes.wide=true", "wide", True),
        ("probes.shares=0.5,1", "shares", (0.5, 1.0)),
        ("probes.shares=2", "shares", (2.0,)),
        ("probes.shares=[0.5, 1]", "shares", (0.5, 1.0)),
        ("probes.layers=null", "layers", None),
        ("probes.layers=block_1", "layers", ("block_1",)),
        ("probes.blocks=best", "blocks", "best"),
        ("probes.blocks=block_1,block_2", "blocks", ("block_1", "block_2")),
        ('probes.blocks=["block_1"]', "blocks", ("block_1",)),
    ],
)
def test_a_value_becomes_one_of_the_defaults_kind(given, name, value):
    found = parameters_of([given])["probes"]
    assert getattr(found, name) == value
    assert type(getattr(found, name)) is type(value)


def test_what_is_not_given_keeps_its_default():
    assert parameters_of([])["probes"] == Settings()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("folds=3", "expected ANALYSIS.PARAMETER=VALUE"),
        ("probes.folds", "expected ANALYSIS.PARAMETER=VALUE"),
        ("magic.folds=3", "unknown analysis magic"),
        ("probes.fold=3", "probes has no parameter fold; there are: folds, threshold"),
        ("probes.folds=many", "many is no int"),
        ("probes.folds=true", "true is no int"),
        ("probes.threshold=NaN", "NaN is no float"),
        ('probes.shares=[0.5, "a"]', "is no list of float"),
        ("probes.shares=0.5,half", "is no list of float"),
        ("probes.positions=[", r"\[ is no list of str"),
        ("probes.folds=2.5", "2.5 is no int"),
        ("probes.wide=1", "1 is no bool"),
    ],
)
def test_what_is_no_parameter_is_refused_by_name(given, told):
    with pytest.raises(VlmlakeError, match=told):
        parameters_of([given])

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
        ("probes.folds=many", "many is no int, as 5 is"),
        ("probes.folds=2.5", "2.5 is no int"),
        ("probes.wide=1", "1 is no bool"),
    ],
)
def test_what_is_no_parameter_is_refused_by_name(given, told):
    with pytest.raises(VlmlakeError, match=told):
        parameters_of([given])

"""The page on adding an analysis: its file does what an analysis must."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from vlmlake import open_lake
from vlmlake.analysis import analyze as module

PAGE = (Path(__file__).parents[2] / "docs" / "adding-an-analysis.md").read_text()


@pytest.fixture
def added(monkeypatch, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "an_analysis.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "an_analysis", raising=False)
    page = importlib.import_module("an_analysis")
    monkeypatch.setattr(module, "ANALYSES", {"residual_norm": page.RESIDUAL_NORM})
    return page


def test_the_pages_analysis_runs_and_is_kept(added, lake_copy):
    url = str(lake_copy)
    table = module.analyze(url).table
    assert set(table["metric"]) == {"residual_norm"}
    assert set(table["split"]) == {"all", "adversarial", "popular", "random"}
    assert table.filter(table["layer"] == "embed")["note"].str.contains("constant").all()
    (again,) = [step.state for step in module.analyze(url).steps if step.state != "started"]
    assert again == "unchanged"


def test_its_numbers_are_the_norms(added, lake_url):
    data = open_lake(lake_url)["tiny-llava"]
    found = added.residual_norm(data)
    wanted = np.linalg.norm(data["readout_states"].sel(layer="block_2", position="prompt_last").values, axis=-1)
    np.testing.assert_allclose(found.examples["residual_norm"].sel(layer="block_2"), wanted, rtol=1e-5)
    assert found.plot().lines

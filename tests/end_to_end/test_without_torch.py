"""Everything but ingest works where torch was never installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vlmlake

BLOCKED = ("torch", "transformers", "tokenizers", "safetensors", "PIL", "torchvision")

SITE = f"""
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
"""


def run_without_torch(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", SITE + code, *arguments], capture_output=True, text=True)


def test_the_block_works():
    assert run_without_torch("import torch").returncode != 0


def test_every_module_outside_ingest_imports():
    root = Path(vlmlake.__file__).parent
    modules = [
        ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(root.rglob("*.py"))
        if path.relative_to(root).parts[0] != "ingest"
    ]
    expected = {"vlmlake", "vlmlake.cli", "vlmlake.console.extraction", "vlmlake.demo", "vlmlake.analysis.probes"}
    assert expected | {"vlmlake.cli_options", "vlmlake.queries.connect"} <= set(modules)
    done = run_without_torch("import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)", *modules)
    assert done.returncode == 0, done.stderr


def test_a_lake_is_read_analyzed_and_queried(lake_url):
    code = """
import vlmlake
from vlmlake.analysis.analyze import analyze
from vlmlake.queries import sql

lake = vlmlake.open_lake(sys.argv[1])
assert 0 < abs(lake[lake.runs[0]]["hidden_states"].sel(layer="block_1")).mean().compute() < 100
assert analyze(sys.argv[1]).table.height > 0
assert sql(sys.argv[1], "select count(*) as n from examples").to_pydict() == {"n": [480]}
assert not {"torch", "transformers"} & set(sys.modules)
"""
    done = run_without_torch(code, lake_url)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", ["extract", "plan"])
def test_a_verb_that_needs_a_model_says_what_to_install(tmp_path, verb):
    code = "from vlmlake.cli import main\nsys.argv[0] = 'vlmlake'\nmain()"
    done = run_without_torch(code, verb, "--model", "x", "--dataset", "y", "--lake", str(tmp_path))
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .endswith("this verb needs the extra `ingest`, as in pip install '.[ingest]'")
    )
    assert "Traceback" not in done.stderr

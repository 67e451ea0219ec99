"""A pickle runs whatever code it holds: nothing in the package reads one."""

from __future__ import annotations

import ast
from importlib.resources import files
from pathlib import Path

import pytest

SOURCES = sorted(Path(str(files("vlmlake"))).rglob("*.py"))
PICKLING = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
SAFE = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False", "numpy.load": "allow_pickle=False"}


def unsafe(source: str) -> list[str]:
    """What in a source reads pickles."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [name for name in names if name.partition(".")[0] in PICKLING or name == "load"]
        elif isinstance(node, ast.Attribute) and "pickle" in node.attr.lower():
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in SAFE:
            keywords = [ast.unparse(keyword) for keyword in node.keywords]
            found += [] if SAFE[ast.unparse(node.func)] in keywords else [ast.unparse(node)]
    return found


def test_no_source_of_the_package_reads_pickles():
    assert len(SOURCES) > 50
    found = {str(path): unsafe(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert not any(found.values()), found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import dump",
        "from torch import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "numcodecs.Pickle()",
        "frame = pd.read_pickle(path)",
    ],
)
def test_each_way_of_reading_one_is_found(source):
    assert unsafe(source)


@pytest.mark.parametrize(
    "source", ["torch.load(path, weights_only=True)", "np.load(path, allow_pickle=False)", "json.load(file)"]
)
def test_safe_ways_are_not(source):
    assert unsafe(source) == []

"""Scenes, tiny models and lakes that the tests share; everything is made below pytest's own temporary folder."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

TINY_LLAVA = Path(str(files("vlmlake.ingest") / "checkpoints" / "tiny-llava"))


@pytest.fixture(scope="session")
def tiny_llava() -> Path:
    """The checkpoint that the package carries."""
    return TINY_LLAVA


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight scenes with twelve questions each, in POPE's form."""
    from vlmlake.ingest.datasets.shapes import write_benchmark

    folder = tmp_path_factory.mktemp("scenes")
    write_benchmark(folder, images=8, seed=11)
    return folder


@pytest.fixture(scope="session")
def lake_url(tmp_path_factory: pytest.TempPathFactory, tiny_llava: Path) -> str:
    """A finished lake of forty scenes, float16, analyzed; tests read it and leave it as it is."""
    from vlmlake.analysis.analyze import analyze
    from vlmlake.ingest.datasets.shapes import write_benchmark
    from vlmlake.ingest.extract import extract
    from vlmlake.ingest.job import Job

    folder = tmp_path_factory.mktemp("lake")
    write_benchmark(folder / "scenes", images=40, seed=5)
    url = str(folder / "lake")
    extract(Job(str(tiny_llava), f"pope:{folder / 'scenes'}", url, answer_tokens=3))
    analyze(url)
    return url

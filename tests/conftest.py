"""Scenes, tiny models and lakes that the tests share; everything is made below pytest's own temporary folder."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from tests.servers.s3 import CREDENTIALS, S3Server

os.environ["HF_HUB_OFFLINE"] = "1"
for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")  # threads that wait for one another cost tiny models more than they give

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
    """A finished lake of forty scenes, float16, with made-up interventions, analyzed; tests leave it as it is."""
    from tests.analysis.planted_outcomes import plant
    from vlmlake.analysis.analyze import analyze
    from vlmlake.ingest.datasets.shapes import write_benchmark
    from vlmlake.ingest.decoding import Decoding
    from vlmlake.ingest.extract import extract
    from vlmlake.ingest.job import Job
    from vlmlake.ingest.model_source import ModelSource

    folder = tmp_path_factory.mktemp("lake")
    write_benchmark(folder / "scenes", images=40, seed=5)
    url = str(folder / "lake")
    decoding = Decoding(answer_tokens=3, samples=2, seed=1)
    extract(Job(ModelSource(str(tiny_llava)), (f"pope:{folder / 'scenes'}",), url, decoding=decoding))
    plant(url)
    analyze(url)
    return url


@pytest.fixture
def lake_copy(lake_url: str, tmp_path: Path) -> Path:
    """A copy of the shared lake, to be changed."""
    shutil.copytree(lake_url, tmp_path / "lake")
    return tmp_path / "lake"


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 server, and the environment in which this process and its children reach it."""
    with pytest.MonkeyPatch.context() as patch, S3Server() as server:
        patch.delenv("AWS_PROFILE", raising=False)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def s3_url(s3: S3Server) -> str:
    """Where a lake may go that no other test has seen."""
    return s3.bucket(f"lake-{uuid.uuid4().hex}") + "/lake"

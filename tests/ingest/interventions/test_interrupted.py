"""Passes that are cut off, shared by workers, or made twice at the same time: the outcomes are those of one pass."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import polars as pl
import pytest

from tests.ingest.interventions.told import Drawn, Together, outcomes, require_same
from tests.ingest.jobs import job_of, run_job
from vlmlake import open_lake
from vlmlake.ingest.interventions import intervention as interventions
from vlmlake.ingest.interventions.intervene import intervene
from vlmlake.ingest.interventions.intervention import Settings
from vlmlake.ingest.interventions.requests.ablation import Ablation
from vlmlake.ingest.interventions.requests.heads import HeadAblation
from vlmlake.store_schema import tables
from vlmlake.store_schema.index import listed_index
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.workers import Worker

REQUEST = Together(
    (Drawn("resid", "block_3", strengths=(0.0, 60.0)), HeadAblation("block_2", (1,)), HeadAblation("block_3", (0,)))
)
"""On both routes: what the store tells at once, and what it begins and the model ends."""


@pytest.fixture(scope="module")
def original(checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "lake"
    return folder, run_job(job_of(checkpoints["llava"], "shapes:3@3", folder, batch_size=3)).name


@pytest.fixture(scope="module")
def whole(original, tmp_path_factory) -> pl.DataFrame:
    """Outcomes of one pass, in a lake of its own."""
    copy = tmp_path_factory.mktemp("whole") / "lake"
    shutil.copytree(original[0], copy)
    came = intervene(str(copy), original[1], REQUEST)
    assert came.missing == 0
    found = outcomes(copy, original[1])
    assert set(found["route"]) == {"algebra", "suffix"}
    assert came.computed == found.height
    return found


@pytest.fixture
def lake(original, tmp_path) -> tuple[str, str]:
    """URL of a copy, and the run's name."""
    shutil.copytree(original[0], tmp_path / "lake")
    return str(tmp_path / "lake"), original[1]


def require_once(lake, whole: pl.DataFrame) -> None:
    """The same outcomes, each in one file."""
    require_same(outcomes(*lake), whole)
    storage = open_lake(lake[0]).run(lake[1]).storage
    rows = tables.frame(tables.read(storage, listed_index(storage).of("outcomes"), tables.OUTCOMES))
    assert rows.height == whole.height


class CutOffError(Exception):
    pass


@pytest.mark.parametrize("parts", [0, 3, 12])
def test_a_pass_that_was_cut_off_goes_on_where_it_was(lake, whole, monkeypatch, parts):
    """Before the first part is kept, among those of the store, and among those of the model."""
    left, write = [parts], Storage.write

    def breaks(storage, path, content):
        if path.startswith("outcomes/"):
            if not left[0]:
                raise CutOffError
            left[0] -= 1
        write(storage, path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "write", breaks)
        with pytest.raises(CutOffError):
            intervene(*lake, REQUEST)
    storage = open_lake(lake[0]).run(lake[1]).storage
    assert len(listed_index(storage).of("outcomes")) == parts
    kept = outcomes(*lake).height if parts else 0
    again = intervene(*lake, REQUEST)
    assert (again.computed, again.missing) == (whole.height - kept, 0)
    require_once(lake, whole)


KILLED = """
import os, signal, sys
from tests.ingest.interventions.test_interrupted import REQUEST
from vlmlake.ingest.interventions.intervene import intervene

def report(progress):
    if progress.done > {done}:
        os.kill(os.getpid(), signal.SIGKILL)

intervene({url!r}, {run!r}, REQUEST, report=report)
"""


def test_a_pass_that_was_killed_goes_on_where_it_was(lake, whole):
    """In another process, whose hashes of text are others."""
    program = KILLED.format(done=whole.height // 2, url=lake[0], run=lake[1])
    killed = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": "7"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    kept = outcomes(*lake).height
    assert whole.height // 2 < kept < whole.height
    assert intervene(*lake, REQUEST).computed == whole.height - kept
    require_once(lake, whole)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_workers_share_the_batches(lake, whole, order):
    came = [intervene(*lake, REQUEST, settings=Settings(worker=Worker(number, 3))) for number in order]
    assert sum(one.computed for one in came) == whole.height
    assert min(one.computed for one in came) > 0
    assert [one.missing for one in came] == [came[1].computed + came[2].computed, came[2].computed, 0]
    require_once(lake, whole)


@pytest.mark.parametrize("route", ["auto", "full"])
def test_two_passes_at_the_same_time_do_no_harm(lake, whole, route):
    """The second begins once the first has planned everything, and is done before the first has kept anything."""
    came = intervene(*lake, REQUEST, tell=lambda plan: intervene(*lake, REQUEST, settings=Settings(route=route)))
    assert came.missing == 0
    require_same(outcomes(*lake), whole)


def test_a_pass_without_the_index_finds_what_is_there(lake, whole):
    """What was kept before a crash is in no index file yet."""
    intervene(*lake, REQUEST)
    (open_lake(lake[0]).run(lake[1]).storage).delete("index.json")
    assert intervene(*lake, REQUEST).computed == 0


def test_the_store_alone_needs_no_model_whoever_shares_it(lake, monkeypatch):
    """Means, sizes, answers and their texts are all in the store."""

    def load(*arguments):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(interventions, "load_same_model", load)
    request = Ablation(layer="block_3", neurons=(1, 5, 9), controls=5, positions="prompt_last")
    came = [intervene(*lake, request, settings=Settings(worker=Worker(number, 3))) for number in range(3)]
    assert came[-1].missing == 0
    assert sum(one.computed for one in came) == outcomes(*lake).height
    assert set(outcomes(*lake)["route"]) == {"algebra"}

"""Three workers, killed at random: no reader ever sees a bad example, and in the end nothing is missing."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from tests.end_to_end.workers import Pass, start
from tests.servers.s3 import CREDENTIALS, S3Server
from vlmlake import open_lake
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets.shapes import write_benchmark
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.extract import extract
from vlmlake.ingest.job import Job
from vlmlake.ingest.model_source import ModelSource
from vlmlake.store_schema import paths
from vlmlake.store_schema.arrays import shard_file
from vlmlake.store_schema.commits import look
from vlmlake.store_schema.finish import is_finished
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.workers import Worker

KILLS = {"local": 35, "s3": 15}
"""Fifty in all; those on an object store take longer."""
WORKERS = 3
BATCHES = 30
LONGEST_LIFE = 0.8
"""Seconds from a worker's first commit; one in EARLY is killed as long after its start."""
EARLY = 5


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_benchmark(folder, images=BATCHES, seed=21)
    return folder


def job_at(url: str, model: Path, scenes: Path, options: Mapping[str, str] | None = None) -> Job:
    decoding = Decoding(answer_tokens=2, samples=2)
    return Job(
        ModelSource(str(model)), (f"pope:{scenes}",), url, decoding=decoding, batch_size=8, storage_options=options
    )


@dataclass(frozen=True)
class Truth:
    """The same job, done by one worker whom nobody disturbed."""

    run: Run
    data: xr.Dataset
    files: Mapping[str, bytes]


@pytest.fixture(scope="module")
def truth(tiny_llava, scenes, tmp_path_factory) -> Truth:
    url = str(tmp_path_factory.mktemp("whole") / "lake")
    outcome = extract(job_at(url, tiny_llava, scenes))
    run = open_lake(url).run(outcome.run)
    return Truth(run, run.dataset().compute(), contents(run.storage))


def contents(storage: Storage) -> dict[str, bytes]:
    """Every file of a lake but those that say who made it, and what a killed writer left half-written."""
    files = [path for path in storage.files("") if not path.endswith("run.json") and "/.writing-" not in path]
    return dict(zip(files, storage.read_all(files), strict=True))


@pytest.fixture(params=["local", "s3"])
def places(request, tmp_path) -> tuple[Iterator[tuple[str, dict[str, str] | None]], int]:
    """Ever new URLs for lakes, and their options; and how many kills there are to be."""

    def local() -> Iterator[tuple[str, None]]:
        for number in range(1000):
            yield str(tmp_path / f"lake{number}"), None

    def remote(s3: S3Server) -> Iterator[tuple[str, dict[str, str]]]:
        for number in range(1000):
            yield s3.bucket(f"kills-{number}") + "/lake", s3.options

    there = local() if request.param == "local" else remote(request.getfixturevalue("s3"))
    return there, KILLS[request.param]


class Poller:
    """Reads what is visible, again and again, and what a reader would see who did not know of commits."""

    def __init__(self, truth: Truth, seed: int) -> None:
        self.truth, self.random = truth, random.Random(seed)
        self.examples, self.half_written = 0, 0

    def poll(self, url: str, options: Mapping[str, str] | None) -> None:
        try:
            lake = open_lake(url, options)
        except VlmlakeError:
            return  # nobody has begun
        for name in lake.runs:
            data = lake[name]
            if data.sizes["example"]:
                self.check(data)
            self.look_naively(lake.run(name))

    def check(self, data: xr.Dataset) -> None:
        """One batch's visible examples, every array of them, against the truth."""
        chosen = self.random.choice(np.unique(data["image_sha256"].values))
        examples = data["example"].values[data["image_sha256"].values == chosen]
        seen = data.sel(example=examples)
        seen = seen.sel(prefix=np.unique(seen["prefix_of"].values)).compute()
        whole = self.truth.data.sel(example=examples, prefix=seen["prefix"].values)
        xr.testing.assert_equal(seen, whole)
        self.examples += len(examples)

    def look_naively(self, run: Run) -> None:
        """A batch whose tokens are there and whose hidden states or logits are not, as zarr shows it: NaN."""
        storage, record = run.storage, run.record
        if not storage.local:
            begun = look(storage, record).begun
            self.half_written += sum(not complete(run, number) for number in begun)
            return
        group = zarr.open_group(f"{storage.root}/{paths.arrays(run.name)}", mode="r", use_consolidated=False)
        rows = record.extents.example_rows
        for number in look(storage, record).begun:
            first = [
                np.asarray(group[name][number * rows]) for name in ("hidden_states", "readout_states", "attn_write")
            ]
            empty = [not np.isfinite(values).any() for values in first]
            self.half_written += any(empty) and not all(empty)


def complete(run: Run, number: int) -> bool:
    return all(run.storage.exists(shard_file(run.record, spec, number)) for spec in run.record.batch_specs)


def killed(worker: Pass, when: float, early: bool) -> None:
    """Kill a worker `when` (0 to 1) of the way through its longest life."""
    while not early and worker.process.is_alive() and not worker.committing.wait(0.05):
        pass
    time.sleep(when * LONGEST_LIFE)
    worker.process.kill()


@pytest.mark.slow
def test_kills_of_three_workers_leave_no_bad_example(places, truth, tiny_llava, scenes):
    chance = random.Random(7)
    (urls, wanted), poller, kills, lakes = places, Poller(truth, seed=3), 0, 0
    while kills < wanted:
        url, options = next(urls)
        lakes += 1
        job = job_at(url, tiny_llava, scenes, options)
        storage = Storage.at(url, options)
        begun = time.monotonic()
        codes = [-1]
        while any(codes):  # a pass of which nobody was killed has finished the run
            assert time.monotonic() - begun < 240, "the workers do not get on"
            workers = [
                start(replace(job, worker=Worker(number, WORKERS)), CREDENTIALS if options else {})
                for number in range(WORKERS)
            ]
            killers = [
                threading.Thread(target=killed, args=(worker, chance.random(), chance.randrange(EARLY) == 0))
                for worker in workers[: wanted - kills]
            ]
            for killer in killers:
                killer.start()
            while any(worker.process.is_alive() for worker in workers):
                poller.poll(url, options)
            for killer in killers:
                killer.join()
            poller.poll(url, options)
            codes = [worker.process.exitcode for worker in workers]
            assert set(codes) <= {0, -signal.SIGKILL}
            kills += codes.count(-signal.SIGKILL)
        assert is_finished(storage, truth.run.name)
        assert contents(storage) == truth.files
    assert poller.examples > 0
    assert poller.half_written > 0, "nothing was ever half-written: these kills prove nothing"
    print(
        f"{kills} kills over {lakes} lakes, {poller.examples} examples polled, {poller.half_written} half-written seen"
    )


def test_workers_share_a_run_and_the_last_finishes_it(truth, tiny_llava, scenes, tmp_path):
    job = job_at(str(tmp_path / "lake"), tiny_llava, scenes)
    outcomes = [extract(replace(job, worker=Worker(number, WORKERS))) for number in range(WORKERS)]
    assert [outcome.missing for outcome in outcomes] == [20, 10, 0]
    assert sum(outcome.computed for outcome in outcomes) == outcomes[0].rows
    assert contents(Storage.at(job.lake)) == truth.files


def test_a_dead_workers_batches_are_taken_by_whoever_runs_next(truth, tiny_llava, scenes, tmp_path):
    job = job_at(str(tmp_path / "lake"), tiny_llava, scenes)
    extract(replace(job, worker=Worker(1, WORKERS)))
    extract(job)
    assert contents(Storage.at(job.lake)) == truth.files


@pytest.mark.slow
@pytest.mark.parametrize("where", ["local", "s3"])
def test_the_same_job_started_three_times_at_once_ends_with_the_same_bytes(
    where, request, truth, tiny_llava, scenes, tmp_path
):
    """With clocks that are a day apart."""
    url, options, environment = str(tmp_path / "lake"), None, {}
    if where == "s3":
        s3 = request.getfixturevalue("s3")
        url, options, environment = s3.bucket("at-once") + "/lake", s3.options, CREDENTIALS
    job = job_at(url, tiny_llava, scenes, options)
    workers = [start(job, environment, clock) for clock in (0.0, 86_400.0, -86_400.0)]
    for worker in workers:
        worker.process.join(120)
        assert worker.process.exitcode == 0
    assert contents(Storage.at(url, options)) == truth.files

"""A pass on a disk of a known size."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.ingest.jobs import job_of
from tests.ingest.pope_files import scene, write_pope
from vlmlake import open_lake
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.extract import extract
from vlmlake.ingest.forecast import forecast
from vlmlake.ingest.job import Job
from vlmlake.store_schema import paths
from vlmlake.store_schema.capture_plan import read_plan
from vlmlake.store_schema.sizes import size_in_words
from vlmlake.store_schema.storage import Storage

WORDS = ("circle", "square")
ROWS = 8


@pytest.fixture
def job(tiny_llava, tmp_path) -> Job:
    """Four batches of two questions about one image each."""
    images = {f"{number}.png": scene(number) for number in range(4)}
    spec = write_pope(tmp_path / "data", images, [(name, f"Is there a {word}?") for name in images for word in WORDS])
    return job_of(tiny_llava, spec, tmp_path / "lake", batch_size=2)


@pytest.fixture
def disk(monkeypatch):
    """Sets how many bytes are free; none is what an object store says."""

    def set_free(count: int | None) -> None:
        monkeypatch.setattr(Storage, "free", lambda storage: count)

    return set_free


def needed(job: Job, plan: str = "suffix") -> int:
    return forecast(replace(job, plan=read_plan(plan, "float32"))).budget.bytes


def refusal_of(job: Job) -> str:
    with pytest.raises(VlmlakeError) as refusal:
        extract(job)
    return str(refusal.value)


def test_a_disk_too_small_by_a_byte_is_refused_before_anything_is_written(job, disk, tmp_path):
    disk(needed(job) - 1)
    assert refusal_of(job).startswith(f"{job.lake} has {size_in_words(needed(job) - 1)} free, plan suffix needs up to ")
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize("spare", [0, 10**9])
def test_room_enough_runs(job, disk, spare):
    disk(needed(job) + spare)
    assert extract(job).computed == ROWS


def test_where_nothing_is_known_of_the_room_it_runs(job, disk):
    disk(None)
    assert extract(job).computed == ROWS


def test_the_plan_that_would_fit_is_named_and_fits(job, disk):
    assert needed(job, "readout") < needed(job) < needed(job, "full")
    disk(needed(job, "readout"))
    message = refusal_of(job)
    assert f"plan readout needs {size_in_words(needed(job, 'readout'))}. " in message
    assert "plan full needs" not in message
    assert extract(replace(job, plan=read_plan("readout", "float32"))).computed == ROWS


def test_both_smaller_plans_are_named_for_full(job, disk):
    disk(needed(job))
    message = refusal_of(replace(job, plan=read_plan("full", "float32")))
    sizes = [f"plan {name} needs {size_in_words(needed(job, name))}" for name in ("suffix", "readout")]
    assert " and ".join(sizes) in message


def test_no_plan_fits_a_disk_that_is_full(job, disk):
    disk(0)
    assert refusal_of(job).endswith("that holds 0 of 8 questions; no plan fits whole. `vlmlake plan` shows the arrays")


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_the_questions_that_would_fit_are_whole_batches(job, disk, batches):
    work = forecast(job).work
    disk(work.budget(range(batches)).bytes)
    assert f"that holds {2 * batches} of 8 questions" in refusal_of(job)
    disk(work.budget(range(batches)).bytes - 1)
    assert f"that holds {2 * (batches - 1)} of 8 questions" in refusal_of(job)


def uncommit(job: Job, *numbers: int) -> None:
    """As if the pass had been cut off before these batches."""
    (run,) = open_lake(job.lake).runs
    storage = Storage.at(job.lake)
    for number in numbers:
        storage.delete(paths.batch(run, number))


def test_a_resumed_run_needs_room_for_what_is_missing_alone(job, disk):
    extract(job)
    uncommit(job, 1, 3)
    missing = forecast(job).work.budget((1, 3), begun=True).bytes
    assert missing < needed(job)
    disk(missing)
    assert extract(job).computed == 4


def test_a_resumed_run_without_room_is_refused_and_what_is_there_stays(job, disk):
    extract(job)
    uncommit(job, 1, 3)
    disk(forecast(job).work.budget((1, 3), begun=True).bytes - 1)
    assert re.search(r"holds 2 of 4 questions", refusal_of(job))
    (run,) = open_lake(job.lake).runs
    assert open_lake(job.lake).run(run).batches_done == 2


def test_a_finished_run_needs_no_room(job, disk):
    extract(job)
    disk(0)
    assert extract(job).computed == 0


def test_layers_and_dtype_of_the_plan_count(job, disk, tmp_path):
    plan = tmp_path / "late.toml"
    plan.write_text('layers = ["block_3"]\npositions = ["prompt_last"]\n')
    small = replace(job, plan=read_plan(str(plan), "float16"))
    disk(forecast(small).budget.bytes)
    assert forecast(small).budget.bytes < needed(job) / 4
    refusal_of(job)
    assert extract(small).computed == ROWS


def test_the_plans_named_beside_an_own_one_have_all_their_layers_and_positions(job, disk, tmp_path):
    plan = tmp_path / "large.toml"
    plan.write_text('arrays = ["token_logits", "prefix_logits"]\nlayers = ["block_3"]\npositions = ["prompt_last"]\n')
    own = replace(job, plan=read_plan(str(plan), "float32"))
    disk(max(needed(job, "readout"), forecast(own).budget.bytes - 1))
    assert f"plan readout needs {size_in_words(needed(job, 'readout'))}" in refusal_of(own)
    disk(needed(job, "readout") - 1)
    assert "plan readout needs" not in refusal_of(own)

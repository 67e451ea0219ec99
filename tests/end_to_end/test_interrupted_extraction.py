"""A pass that is killed, fails or is run again: nothing half-written is seen, and in the end nothing is missing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from vlmlake import open_lake
from vlmlake.analysis.analyze import analyze
from vlmlake.errors import VlmlakeError
from vlmlake.ingest import extract as extract_module
from vlmlake.ingest.datasets.shapes import write_benchmark
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.extract import extract
from vlmlake.ingest.job import Job
from vlmlake.ingest.model_source import ModelSource
from vlmlake.store_schema import paths
from vlmlake.store_schema.capture_plan import read_plan
from vlmlake.store_schema.commits import visible

BATCHES = 40
EXAMPLES_A_BATCH = 12


@pytest.fixture(scope="module")
def many_scenes(tmp_path_factory) -> Path:
    """Forty scenes of twelve questions, six to eight of them different: forty batches of one image."""
    folder = tmp_path_factory.mktemp("many")
    write_benchmark(folder, images=BATCHES, seed=21)
    return folder


@pytest.fixture
def job(tiny_llava, many_scenes, tmp_path) -> Job:
    return job_at(str(tmp_path / "lake"), tiny_llava, many_scenes)


@pytest.fixture(scope="module")
def uninterrupted(tiny_llava, many_scenes, tmp_path_factory) -> str:
    url = str(tmp_path_factory.mktemp("whole") / "lake")
    extract(job_at(url, tiny_llava, many_scenes))
    return url


def job_at(url: str, model: Path, scenes: Path) -> Job:
    return Job(
        ModelSource(str(model)), (f"pope:{scenes}",), url, decoding=Decoding(answer_tokens=2, samples=2), batch_size=8
    )


def rows_in(url: str, batches: Iterable[int]) -> int:
    """How many different questions these batches of a finished lake hold."""
    lake = open_lake(url)
    examples = lake.run(lake.runs[0]).examples()
    return examples.filter(examples["batch"].is_in(list(batches)))["row"].n_unique()


def files_below(folder: Path) -> dict[str, bytes]:
    """Content by path; temporary files that a kill left behind are no part of a lake."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".writing-") and not path.name.endswith(".partial")
    }


def assert_same_lake(url: str, other: str) -> None:
    ours, theirs = files_below(Path(url)), files_below(Path(other))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name] and not name.endswith("run.json")] == []


def signalled_half_way(job: Job, number: signal.Signals) -> tuple[int, str]:
    """Start the job as a user would, send it a signal once a quarter is committed; its exit code and standard error."""
    command = [sys.executable, "-m", "vlmlake.cli", "extract", "--model", job.model.name, "--lake", job.lake]
    command += ["--dataset", *job.datasets, "--batch-size", "8", "--answer-tokens", "2", "--samples", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=_listen_to_interrupts
    )
    try:
        deadline = time.monotonic() + 120
        while len(list(Path(job.lake).glob("runs/*/batches/*.parquet"))) < BATCHES // 4:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "no batch was committed within two minutes"
            time.sleep(0.005)
        process.send_signal(number)
        _, printed = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, printed


def _listen_to_interrupts() -> None:
    """A suite that runs in the background inherits an ignored SIGINT; a user's shell does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupted_pass_says_that_it_can_go_on(job):
    code, printed = signalled_half_way(job, signal.SIGINT)
    assert code == 130
    assert printed == "vlmlake: interrupted; committed batches are kept, run the same command to go on\n"
    lake = open_lake(job.lake)
    assert 0 < lake.run(lake.runs[0]).batches_done < BATCHES


def test_a_killed_pass_goes_on_where_it_was(job, uninterrupted):
    code, _ = signalled_half_way(job, signal.SIGKILL)
    assert code == -signal.SIGKILL

    lake = open_lake(job.lake)
    (name,) = lake.runs
    done = visible(lake.storage, lake.run(name).record)
    assert 0 < len(done) < BATCHES
    seen, whole = lake[name].compute(), open_lake(uninterrupted)[name]
    assert seen.sizes["example"] == EXAMPLES_A_BATCH * len(done)
    xr.testing.assert_equal(seen, whole.sel(example=seen["example"], prefix=seen["prefix"]).compute())

    outcome = extract(job)
    assert outcome.computed == rows_in(uninterrupted, set(range(BATCHES)) - set(done))
    assert_same_lake(job.lake, uninterrupted)


def test_a_finished_pass_has_nothing_to_do(job):
    first = extract(job)
    before = files_below(Path(job.lake))
    again = extract(job)
    assert (first.computed, again.computed, again.written) == (first.rows, 0, 0)
    assert first.rows == rows_in(job.lake, range(BATCHES)) < first.examples == EXAMPLES_A_BATCH * BATCHES
    assert again.run == first.run
    assert files_below(Path(job.lake)) == before


def test_an_error_half_way_keeps_what_was_committed(job, uninterrupted, monkeypatch):
    real, calls = extract_module.run_batch, []

    def fails_at_the_tenth(*arguments):
        calls.append(1)
        if len(calls) == 10:
            raise VlmlakeError("out of memory, say")
        return real(*arguments)

    monkeypatch.setattr(extract_module, "run_batch", fails_at_the_tenth)
    with pytest.raises(VlmlakeError, match="out of memory"):
        extract(job)
    lake = open_lake(job.lake)
    assert list(visible(lake.storage, lake.run(lake.runs[0]).record)) == list(range(9))
    monkeypatch.undo()
    extract(job)
    assert_same_lake(job.lake, uninterrupted)


def test_leftovers_of_an_uncommitted_batch_are_invisible_and_overwritten(job, uninterrupted):
    run = extract(job).run
    folder = Path(job.lake) / "runs" / run
    (folder / "batches" / "000003.parquet").unlink()
    shards = folder / "arrays.zarr" / "readout_states"
    (shards / "c.3.0.0.0").write_bytes((shards / "c.4.0.0.0").read_bytes())
    assert open_lake(job.lake)[run].sizes["example"] == EXAMPLES_A_BATCH * (BATCHES - 1)
    assert extract(job).computed == rows_in(uninterrupted, [3])
    assert_same_lake(job.lake, uninterrupted)


def test_a_longer_answer_of_a_killed_attempt_does_not_show_through(job, uninterrupted, monkeypatch):
    """The first attempt runs every answer to the limit, as another device might; only its shards are left."""
    real = extract_module.load_family

    def never_ending(*arguments):
        family = real(*arguments)
        monkeypatch.setattr(type(family), "end_tokens", frozenset({-1}), raising=True)
        return family

    monkeypatch.setattr(extract_module, "load_family", never_ending)
    run = extract(job).run
    monkeypatch.undo()
    assert open_lake(job.lake)[run]["answer_tokens"].min() == 2
    for commit in (Path(job.lake) / "runs" / run / "batches").iterdir():
        commit.unlink()
    assert extract(job).computed == rows_in(uninterrupted, range(BATCHES))
    ours, wanted = open_lake(job.lake)[run].compute(), open_lake(uninterrupted)[run].compute()
    xr.testing.assert_equal(ours, wanted)


@pytest.mark.parametrize("array", ["hidden_states", "token_role", "prefix_states", "image_update"])
def test_a_batch_that_lost_a_shard_is_not_seen_and_is_written_again(job, uninterrupted, array):
    run = extract(job).run
    (shard,) = (Path(job.lake) / "runs" / run / "arrays.zarr" / array).glob("c.3.*")
    shard.unlink()
    lake = open_lake(job.lake)
    assert lake.run(run).batches_done == BATCHES - 1
    assert lake[run].sizes["example"] == lake.table("examples").height == EXAMPLES_A_BATCH * (BATCHES - 1)
    assert lake.table("samples").height == 2 * lake.table("examples").height
    assert extract(job).computed == rows_in(uninterrupted, [3])
    assert_same_lake(job.lake, uninterrupted)


def test_results_of_an_unfinished_run_say_so(job):
    run = extract(job).run
    (Path(job.lake) / "runs" / run / "batches" / "000003.parquet").unlink()
    notes = analyze(job.lake, ["labels"]).table["note"]
    assert set(notes) == {f"{BATCHES - 1} of {BATCHES} batches"}


def test_a_run_planned_otherwise_is_refused(job):
    run = extract(job).run
    lake = open_lake(job.lake)
    record = lake.run(run).record
    other = replace(record, extents=replace(record.extents, tokens=record.extents.tokens + 1))
    lake.storage.write(paths.run_record(run), other.to_json())
    with pytest.raises(VlmlakeError, match=rf"run {run} of .* was planned otherwise"):
        extract(job)


def test_a_creation_that_was_cut_off_is_made_whole(job, uninterrupted):
    run = extract(job).run
    folder = Path(job.lake) / "runs" / run
    (folder / "run.json").unlink()
    assert open_lake(job.lake).runs == ()
    extract(job)
    assert_same_lake(job.lake, uninterrupted)


def test_other_content_is_another_run(job, scenes):
    job = replace(job, datasets=(f"pope:{scenes}",))
    names = {extract(job).run}
    file = scenes / "shapes_pope_random.json"
    for change in (
        {"plan": read_plan("suffix", "float32")},
        {"plan": read_plan("readout")},
        {"decoding": Decoding(answer_tokens=1, samples=2)},
        {"decoding": Decoding(answer_tokens=2, samples=2, seed=1)},
        {"batch_size": 24},
        {"datasets": (f"pope:{file}",)},
    ):
        names.add(extract(replace(job, **change)).run)
    assert len(names) == 7
    lake = open_lake(job.lake)
    assert set(lake.runs) == names
    with pytest.raises(VlmlakeError, match=r"no single run named tiny-llava .* all fit"):
        lake.run("tiny-llava")


def test_memory_and_disk_hold_the_same(job, uninterrupted, tmp_path):
    url = f"memory://{tmp_path.name}"
    run = extract(replace(job, lake=url)).run
    xr.testing.assert_equal(open_lake(url)[run].compute(), open_lake(uninterrupted)[run].compute())
    assert np.isfinite(open_lake(url)[run]["unembedding"].values).all()


def test_a_batch_of_ones_own_that_is_not_visible_in_the_end_is_an_error(job, monkeypatch):
    real = extract_module.commit_batch

    def forgetful(storage, record, number, *rest):
        written = real(storage, record, number, *rest)
        if number == 3:
            storage.delete(f"runs/{record.name}/batches/000003.parquet")
        return written

    monkeypatch.setattr(extract_module, "commit_batch", forgetful)
    with pytest.raises(VlmlakeError, match="has 39 of 40 batches"):
        extract(job)


def test_a_question_that_looks_like_a_checksum_is_a_question(tiny_llava, scenes, tmp_path):
    table = tmp_path / "asked.csv"
    texts = ["Is vlmlake-crc32c=deadbeef there?", "Is vlmlake-crc32c=00000000 there?"]
    table.write_text("question,image\n" + "".join(f"{text},scene_000000.png\n" for text in texts))
    job = Job(ModelSource(str(tiny_llava)), (f"table:{table}",), str(tmp_path / "lake"), str(scenes / "images"))
    run = extract(job).run
    assert sorted(open_lake(job.lake).run(run).examples()["question"]) == sorted(texts)

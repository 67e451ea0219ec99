"""Some examples through the model again: the same model agrees with its lake, and what was changed since is found."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.ingest.jobs import job_of, run_job
from tests.ingest.pope_files import scene, write_pope
from tests.ingest.tiny_models import save_random_llava
from vlmlake import open_lake
from vlmlake.errors import VlmlakeError
from vlmlake.ingest import replay_job
from vlmlake.ingest.datasets import load_dataset
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.replay import replay
from vlmlake.ingest.replay_job import Sources
from vlmlake.store_schema import paths
from vlmlake.store_schema.arrays import shard_file, shard_format
from vlmlake.store_schema.capture_plan import CHOOSABLE
from vlmlake.store_schema.commit import Commit
from vlmlake.store_schema.commits import commit_batch, withdraw
from vlmlake.store_schema.finish import finish
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.shards import encode_shard
from vlmlake.store_schema.verify import verify_run

IMAGES = {"a.png": scene(0), "b.png": scene(1, (60, 40)), "c.png": scene(2)}
QUESTIONS = (
    ("a.png", "Is there a red circle in the image?"),
    ("a.png", "Circle?"),
    ("b.png", "Is there a dog?"),
    ("a.png", "Circle?"),
    ("b.png", "Look closely at every corner of the picture: is there an orange cross in the image?"),
    ("c.png", "What is in the image?"),
)
DECODING = Decoding(answer_tokens=3, samples=2, temperature=2.0)


def run_of(model: Path, folder: Path, plan: str = "full", **more) -> Run:
    spec = write_pope(folder, IMAGES, QUESTIONS)
    return run_job(job_of(model, spec, folder / "lake", plan, decoding=DECODING, batch_size=3, **more))


@pytest.fixture(scope="module")
def model(tmp_path_factory, checkpoints) -> Path:
    """Long answers, and none of them sure."""
    return save_random_llava(tmp_path_factory.mktemp("models") / "random-llava", checkpoints["llava"])


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory) -> Path:
    """A lake of every array, and its data."""
    folder = tmp_path_factory.mktemp("finished")
    plan = folder / "every.toml"
    plan.write_text(f"arrays = {json.dumps(CHOOSABLE)}\n")
    run_of(model, folder, str(plan), blank=True)
    return folder


@pytest.fixture
def run(finished, tmp_path) -> Run:
    """In a copy of the lake."""
    return open_lake(str(shutil.copytree(finished / "lake", tmp_path / "lake"))).run("random-llava")


def rewrite(run: Run, number: int, change) -> None:
    """Commit a batch again after a change of its arrays and its rows."""
    storage, record = run.storage, run.record
    path = paths.batch(record.name, number)
    rows = Commit.decode(storage.read(path), record.name, number, path).rows.to_pylist()
    arrays = {}
    for spec in record.batch_specs:
        whole = shard_format(record, spec).whole(storage.read(shard_file(record, spec, number)))
        lengths = (record.extents.shard(dimension) for dimension in spec.dimensions)
        arrays[spec.name] = whole[tuple(slice(length) for length in lengths)].copy()
    change(arrays, rows)
    withdraw(storage, record, [number])
    commit_batch(storage, record, number, arrays, rows)
    finish(storage, record)


@pytest.mark.parametrize("family", ["llava", "paligemma", "qwen2_vl"])
@pytest.mark.parametrize(
    ("plan", "dtype", "more"),
    [("full", "float16", {"blank": True}), ("suffix", "bfloat16", {}), ("readout", "float32", {"share_prefix": False})],
    ids=["full-float16", "suffix-bfloat16", "unshared-readout-float32"],
)
def test_the_same_model_agrees_with_its_lake(checkpoints, tmp_path, family, plan, dtype, more):
    run = run_of(checkpoints[family], tmp_path, plan, dtype=dtype, **more)
    told = replay(run, count=4, seed=1)
    assert told.problems == ()
    assert len(told.examples) == 4
    assert told.values > 1000
    assert verify_run(run).problems == ()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_in_half_precision_agrees_too(checkpoints, tmp_path, dtype):
    job = job_of(checkpoints["llava"], write_pope(tmp_path, IMAGES, QUESTIONS), tmp_path / "lake", decoding=DECODING)
    run = run_job(replace(job, model=replace(job.model, dtype=dtype)))
    assert replay(run, count=6).problems == ()


def test_a_plan_of_some_layers_and_positions_is_replayed(checkpoints, tmp_path):
    plan = tmp_path / "some.toml"
    arrays = json.dumps(["readout_states", "attention"])
    plan.write_text(f'arrays = {arrays}\nlayers = ["block_1", "block_3"]\npositions = ["prompt_last", "answer_1"]\n')
    assert replay(run_of(checkpoints["llava"], tmp_path, str(plan)), count=6).problems == ()


def test_the_same_seed_chooses_the_same_and_all_are_chosen_where_more_are_wanted(run):
    first, again, other = (replay(run, 2, seed).examples for seed in (1, 1, 2))
    assert first == again != other
    everything = replay(run, 99)
    assert everything.examples == tuple(sorted(run.examples()["example"]))
    assert everything.problems == ()
    with pytest.raises(VlmlakeError, match="0 examples to replay"):
        replay(run, 0)


def test_a_changed_value_is_found_in_every_array(run):
    """One in the middle of the first row's values, by so much as no rounding does."""
    specs = [spec for spec in run.record.batch_specs if spec.is_float]
    moved = {}

    def change(arrays, rows):
        for spec in specs:
            values = arrays[spec.name][0]
            there = np.argwhere(~np.isnan(values) & (values != 0))
            at = tuple(there[len(there) // 2])
            values[at] += 0.3 if spec.kind == "weight" else 1 + abs(values[at])
            moved[spec.name] = f", {run.record.layers[at[0]]}" if "layer" in spec.dimensions else ""

    rewrite(run, 1, change)
    found = replay(run, 99).problems
    assert {problem.batch for problem in found} == {1}
    assert {problem.array for problem in found} == {*CHOOSABLE, "blank_states", "blank_logits"} == set(moved)
    for problem in found:
        assert problem.what.startswith("example tiny_pope/random/")
        assert f"{moved[problem.array]}: 1 value differs" in problem.what


def test_a_changed_token_is_found(run):
    names = ("token_id", "token_role", "prefix_token_id", "prefix_token_role", "image_row", "image_column")

    def change(arrays, rows):
        for name in names:
            arrays[name][0, 3] += 1

    rewrite(run, 0, change)
    found = replay(run, 99).problems
    assert {(problem.batch, problem.array) for problem in found} == {(0, name) for name in names}
    assert all(problem.what.endswith(": 1 value is another") for problem in found)


def test_a_changed_answer_is_found(run):
    def other_token(arrays, rows):
        for row in rows:
            row["token_ids"][-1] += 1

    rewrite(run, 0, other_token)
    assert any("the answer's tokens are" in problem.what for problem in replay(run, 99).problems)


def test_a_changed_log_prob_and_prompt_are_found(run):
    def change(arrays, rows):
        rows[0]["log_probs"][0] -= 1
        rows[-1]["prompt"] += "?"

    rewrite(run, 0, change)
    found = [problem.what for problem in replay(run, 99).problems]
    assert any("log-probs differ by 1" in what for what in found)
    assert any("the prompt is" in what for what in found)


def test_changed_weights_of_the_store_are_found(run):
    spec = next(spec for spec in run.record.specs if spec.name == "final_norm")
    path = Path(run.storage.full(shard_file(run.record, spec, 0)))
    form = shard_format(run.record, spec)
    values = form.whole(path.read_bytes()) + 1
    path.write_bytes(b"".join(encode_shard(values, form.shape, form.chunks, form.fill_value).parts))
    (found,) = replay(run, 1).problems
    assert (found.array, found.what) == ("final_norm", "it is not the model's")


def test_a_damaged_shard_is_named_and_the_rest_is_compared(run):
    spec = next(spec for spec in run.record.specs if spec.name == "hidden_states")
    path = Path(run.storage.full(shard_file(run.record, spec, 0)))
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(bytes(content))
    found = replay(run, 99).problems
    assert {(problem.batch, problem.array) for problem in found} == {(0, "hidden_states")}


def test_another_model_under_the_same_name_is_refused(run, checkpoints, tmp_path):
    other = save_random_llava(tmp_path / "random-llava", checkpoints["llava"], seed=8)
    with pytest.raises(VlmlakeError, match=r"random-llava is not that of random-llava-\w+: its sha256 is"):
        replay(run, 1, sources=Sources(model=str(other)))
    moved = shutil.copytree(run.record.versions["model"], tmp_path / "elsewhere")
    assert replay(run, 1, sources=Sources(model=str(moved))).problems == ()
    with pytest.raises(VlmlakeError, match="no model folder at"):
        replay(run, 1, sources=Sources(model=str(tmp_path / "nowhere")))


def test_a_changed_image_is_refused(run, tmp_path):
    spec = write_pope(tmp_path, {**IMAGES, "b.png": scene(3)}, QUESTIONS)
    with pytest.raises(VlmlakeError, match=r"the image .*b\.png of example .* is not that of random-llava"):
        replay(run, 99, sources=Sources(datasets=(spec,)))


def test_changed_and_missing_data_are_refused(run, tmp_path):
    changed = write_pope(tmp_path / "other", IMAGES, [(image, f"{text}?") for image, text in QUESTIONS])
    with pytest.raises(VlmlakeError, match=r"now, random-llava-.* was asked"):
        replay(run, 1, sources=Sources(datasets=(changed,)))
    fewer = write_pope(tmp_path / "fewer", IMAGES, QUESTIONS[:1])
    with pytest.raises(VlmlakeError, match=r"the data have no example .*; --dataset says where they are"):
        replay(run, 99, sources=Sources(datasets=(fewer,)))
    same = write_pope(tmp_path / "same", IMAGES, QUESTIONS)
    assert replay(run, 2, sources=Sources(datasets=(same,))).problems == ()


@pytest.mark.parametrize(
    ("versions", "what"),
    [
        ({"model": "org/name"}, "--model says where"),
        ({"model": None}, "--model says where"),
        ({"dataset": ["hub:org/name"]}, "--dataset says where"),
        ({"dataset": ["table:s3://bucket/table.csv"]}, "--dataset says where"),
        ({"dataset": "pope"}, "--dataset says where"),
    ],
)
def test_nothing_is_fetched_from_where_the_lake_says(run, versions, what):
    record = replace(run.record, versions={**run.record.versions, **versions})
    with pytest.raises(VlmlakeError, match=what):
        replay(replace(run, record=record), 1)


def test_the_lakes_storage_options_are_for_data_that_the_user_names(run, monkeypatch):
    given = []
    monkeypatch.setattr(replay_job, "load_dataset", lambda *args: given.append(args[-1]) or load_dataset(*args))
    run = replace(run, storage=replace(run.storage, options={"key": "secret"}))
    for datasets in ((), tuple(run.record.versions["dataset"])):
        replay(run, 1, sources=Sources(datasets=datasets))
    assert given == [{}, {"key": "secret"}]


def test_the_store_is_not_written_to(run):
    before = {path: run.storage.modified(path) for path in run.storage.files("")}
    replay(run, 3)
    assert {path: run.storage.modified(path) for path in run.storage.files("")} == before

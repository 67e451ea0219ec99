"""Questions asked twice are computed once; images that cannot be read are named, or left out and listed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tests.ingest.jobs import job_of, run_job
from tests.ingest.pope_files import scene, write_pope
from vlmlake import open_lake
from vlmlake.analysis.analyze import analyze
from vlmlake.analysis.population import population
from vlmlake.cli import app
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.extract import extract
from vlmlake.ingest.job import Job
from vlmlake.queries import sql

CIRCLE, CROSS = "Is there a red circle in the image?", "Is there an orange cross in the image?"
FIRST = (("a.png", CIRCLE), ("a.png", CROSS), ("b.png", CIRCLE))
SECOND = (("copy of a.png", CIRCLE), ("a.png", CROSS), ("b.png", CROSS), ("b.png", CIRCLE))
TWINS = {
    "tiny_pope/popular/1": "tiny_pope/random/1",
    "tiny_pope/popular/2": "tiny_pope/random/2",
    "other_pope/adversarial/1": "tiny_pope/random/1",
}
"""Examples, and those that ask the same of the same image; `b.png` of the second folder is another image."""


@pytest.fixture(scope="module")
def specs(tmp_path_factory) -> tuple[str, ...]:
    """Three files in two folders: the same bytes under other names, other bytes under the same name."""
    here, there = (tmp_path_factory.mktemp(name) for name in ("here", "there"))
    first = write_pope(here, {"a.png": scene(0), "b.png": scene(1)}, FIRST)
    second = write_pope(there, {"b.png": scene(2)}, SECOND, split="popular")
    for name in ("a.png", "copy of a.png"):
        shutil.copy(here / "images" / "a.png", there / "images" / name)
    third = write_pope(there, {}, [("copy of a.png", CIRCLE)], split="adversarial", dataset="other")
    return first, second, third


@pytest.fixture(scope="module")
def job(specs, tiny_llava, tmp_path_factory) -> Job:
    return job_of(tiny_llava, specs, tmp_path_factory.mktemp("lake") / "lake", batch_size=3)


@pytest.fixture(scope="module")
def run(job):
    return run_job(job)


def test_the_outcome_counts_examples_and_what_was_computed(job, tmp_path):
    outcome = extract(replace(job, lake=str(tmp_path)))
    assert (outcome.examples, outcome.rows, outcome.computed, outcome.skipped) == (8, 5, 5, 0)


def test_each_example_is_in_the_table_under_its_own_name(run, job):
    examples = open_lake(job.lake).table("examples").sort("example")
    assert examples["example"].to_list() == sorted(
        [f"tiny_pope/random/{number}" for number in (1, 2, 3)]
        + [f"tiny_pope/popular/{number}" for number in (1, 2, 3, 4)]
        + ["other_pope/adversarial/1"]
    )
    asked = {
        row["example"]: (row["dataset"], row["split"], row["image"], row["question"]) for row in examples.to_dicts()
    }
    assert asked["tiny_pope/popular/1"] == ("tiny_pope", "popular", "copy of a.png", CIRCLE)
    assert asked["tiny_pope/random/1"] == ("tiny_pope", "random", "a.png", CIRCLE)
    assert asked["other_pope/adversarial/1"] == ("other_pope", "adversarial", "copy of a.png", CIRCLE)
    assert run.record.examples == 8
    assert run.record.rows == 5


def test_equal_pairs_share_a_row_and_only_they(run):
    rows = dict(run.examples().select("example", "row").iter_rows())
    assert len(set(rows.values())) == 5
    assert all(rows[example] == rows[twin] for example, twin in TWINS.items())
    assert rows["tiny_pope/popular/4"] != rows["tiny_pope/random/3"]


def test_the_dataset_gives_twins_the_same_values_and_others_their_own(run):
    data = run.dataset()
    assert data.sizes["example"] == 8
    for example, twin in TWINS.items():
        for name in ("hidden_states", "attention", "readout_states", "logits", "attn_write", "token_id"):
            np.testing.assert_array_equal(data[name].sel(example=example), data[name].sel(example=twin))
        for column in ("answer", "image_sha256", "prefix_of", "first_gap"):
            assert data[column].sel(example=example).item() == data[column].sel(example=twin).item()
        assert run.tokens(example).equals(run.tokens(twin))
    ours, others = (data["logits"].sel(example=name) for name in ("tiny_pope/popular/4", "tiny_pope/random/3"))
    assert not np.allclose(ours[0], others[0])


def test_a_pair_is_computed_as_if_it_were_asked_once(run, job, specs, tmp_path):
    alone = run_job(replace(job, datasets=specs[:1], lake=str(tmp_path))).dataset()
    together = run.dataset().sel(example=alone["example"])
    for name in ("hidden_states", "readout_states", "logits", "attn_write"):
        ours, theirs = together[name].values, alone[name].values
        width = min(ours.shape[2], theirs.shape[2]) if name == "hidden_states" else None
        np.testing.assert_allclose(ours[:, :, :width], theirs[:, :, :width], atol=1e-5)


def test_answers_and_samples_are_there_for_every_example(job, tmp_path):
    drawing = replace(job, lake=str(tmp_path), decoding=replace(job.decoding, samples=3, temperature=3.0))
    run = run_job(drawing)
    lake = open_lake(str(tmp_path))
    assert lake.table("answers").height == 8
    samples = {name: rows["token_ids"].to_list() for (name,), rows in run.samples().sort("sample").group_by("example")}
    assert len(samples) == 8
    assert all(len(drawn) == 3 for drawn in samples.values())
    assert all(samples[example] == samples[twin] for example, twin in TWINS.items())


def test_analyses_count_a_pair_once(run, job):
    data = run.dataset()
    assert (len(population(data)), len(population(data, "popular"))) == (5, 4)
    rows = {row["split"]: row for row in analyze(job.lake, ("labels",)).table.to_dicts()}
    counted = {split: (row["n"], row["n_items"], row["n_images"]) for split, row in rows.items()}
    assert counted == {"all": (5, 5, 3), "random": (3, 3, 2), "popular": (4, 4, 2), "adversarial": (1, 1, 1)}


def extract_by_command(job: Job, lake: Path, *more: str):
    named = [argument for spec in job.datasets for argument in ("--dataset", spec)]
    arguments = ["extract", "--model", job.model.name, *named, "--lake", str(lake), "--answer-tokens", "1", *more]
    return CliRunner().invoke(app, arguments)


def test_the_command_says_how_many_ask_what_others_ask(job, tmp_path):
    said = extract_by_command(job, tmp_path)
    assert said.exit_code == 0, said.output
    assert "5 of 5 questions computed in" in said.stdout
    assert "3 of 8 examples ask what another asks of the same image: computed once" in said.stdout
    again = extract_by_command(job, tmp_path)
    assert "all 5 questions are there, nothing to do" in again.stdout


def test_the_command_says_nothing_of_twins_where_there_are_none(job, specs, tmp_path):
    said = extract_by_command(replace(job, datasets=specs[:1]), tmp_path)
    assert "computed once" not in said.stdout
    assert "left out" not in said.stdout


# Broken images -------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path, tiny_llava) -> Job:
    """Five questions; two about an image that is no image, one about one that is not there."""
    asked = [("a.png", CIRCLE), ("torn.png", CIRCLE), ("torn.png", CROSS), ("gone.png", CIRCLE), ("a.png", CROSS)]
    spec = write_pope(tmp_path / "data", {"a.png": scene(0), "torn.png": scene(1)}, asked)
    torn = tmp_path / "data" / "images" / "torn.png"
    torn.write_bytes(torn.read_bytes()[:60])
    return job_of(tiny_llava, spec, tmp_path / "lake")


def test_a_run_refuses_broken_images_by_name_before_anything_is_written(broken, tmp_path):
    images = tmp_path / "data" / "images"
    with pytest.raises(VlmlakeError) as refusal:
        extract(broken)
    message = str(refusal.value)
    assert message.startswith("2 images are missing or broken: ")
    assert f"{images / 'torn.png'} (cannot be decoded: " in message
    assert f"{images / 'gone.png'} (No such file or directory)" in message
    assert message.endswith("; --skip-bad leaves out the examples that ask about them")
    assert not (tmp_path / "lake").exists()


def test_skipped_examples_are_listed_with_the_reason(broken):
    skipping = replace(broken, skip_bad=True)
    outcome = extract(skipping)
    assert (outcome.examples, outcome.rows, outcome.skipped) == (2, 2, 3)
    lake = open_lake(broken.lake)
    assert sorted(lake.table("examples")["example"]) == ["tiny_pope/random/1", "tiny_pope/random/5"]
    skipped = lake.table("skipped").sort("example")
    assert skipped["example"].to_list() == [f"tiny_pope/random/{number}" for number in (2, 3, 4)]
    assert skipped["run"].unique().to_list() == [outcome.run]
    assert skipped.select("image", "question", "gold", "split", "question_id").rows() == [
        ("torn.png", CIRCLE, "yes", "random", "2"),
        ("torn.png", CROSS, "yes", "random", "3"),
        ("gone.png", CIRCLE, "yes", "random", "4"),
    ]
    assert skipped["reason"][2] == "No such file or directory"
    assert skipped["reason"][0].startswith("cannot be decoded: ")
    assert lake.run(outcome.run).skipped().sort("example").equals(skipped)


def test_sql_shows_the_skipped_ones(broken):
    extract(replace(broken, skip_bad=True))
    answer = pl.from_arrow(sql(broken.lake, "select image, count(*) as n from skipped group by image order by image"))
    assert answer.rows() == [("gone.png", 1), ("torn.png", 2)]


def test_the_last_pass_says_what_was_skipped(run, job, tmp_path):
    """A run's good examples decide its name; what else was asked and broken is told anew by every pass."""
    extra = tmp_path / "extra"
    (extra / "images").mkdir(parents=True)
    (extra / "images" / "torn.png").write_bytes(b"torn")
    row = {"question_id": 1, "image": "torn.png", "text": "Is there a dog?", "label": "yes"}
    (extra / "extra_pope_random.json").write_text(json.dumps(row))
    more = replace(job, datasets=(*job.datasets, f"pope:{extra}"), skip_bad=True)
    outcome = extract(more)
    assert (outcome.run, outcome.computed, outcome.skipped) == (run.name, 0, 1)
    assert run.skipped()["example"].to_list() == ["extra_pope/random/1"]
    assert extract(job).skipped == 0
    assert run.skipped().is_empty()


def test_a_run_with_nothing_to_skip_has_an_empty_table(run, job):
    assert open_lake(job.lake).table("skipped").height == run.skipped().height == 0
    assert sql(job.lake, "select * from skipped").num_rows == 0


def test_a_run_without_its_skipped_examples_is_another(broken, tmp_path):
    skipped = extract(replace(broken, skip_bad=True)).run
    shutil.copy(tmp_path / "data" / "images" / "a.png", tmp_path / "data" / "images" / "gone.png")
    mended = extract(replace(broken, skip_bad=True))
    assert mended.run != skipped
    assert (mended.skipped, mended.examples, mended.rows) == (2, 3, 2)


def test_nothing_left_is_refused_even_when_skipping(broken, tmp_path):
    (tmp_path / "data" / "images" / "a.png").unlink()
    with pytest.raises(VlmlakeError, match="no example remains: 3 images are missing or broken"):
        extract(replace(broken, skip_bad=True))
    assert not (tmp_path / "lake").exists()


def test_the_command_takes_skip_bad(broken, tmp_path):
    refused = extract_by_command(broken, tmp_path / "lake")
    assert isinstance(refused.exception, VlmlakeError)
    said = extract_by_command(broken, tmp_path / "lake", "--skip-bad")
    assert said.exit_code == 0, said.output
    assert "3 examples were left out for a broken image: table `skipped`" in said.stdout

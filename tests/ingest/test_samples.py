"""Drawn answers against plain eager forwards, and that they disturb nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from tests.ingest.jobs import ending_at, job_of, run_job
from tests.ingest.plain import CHECKPOINTS, PlainModel, nucleus, token_at
from tests.ingest.pope_files import scene, write_pope
from vlmlake.ingest.decoding import Decoding
from vlmlake.store_schema.capture_plan import CHOOSABLE
from vlmlake.store_schema.run import Run

IMAGES = {"a.png": scene(0), "b.png": scene(1, (60, 40)), "c.png": scene(2)}
QUESTIONS = (
    ("a.png", "Is there a red circle in the image?"),
    ("a.png", "Circle?"),
    ("a.png", "Look closely at every corner of the picture: is there an orange cross in the image?"),
    ("b.png", "Is there a dog?"),
    ("b.png", "Is there a red circle in the image?"),
    ("c.png", "What is in the image?"),
)
LIVELY = Decoding(answer_tokens=5, samples=4, temperature=5.0, top_p=0.95, seed=7)
"""So hot that most draws differ."""
ENDS = (1, *range(4, 300, 4))
"""So many tokens end an answer that draws are of all lengths."""


@pytest.fixture(scope="module", params=["tiny-llava", "tiny-paligemma", "tiny-qwen2-vl"])
def model(request, tmp_path_factory) -> Path:
    return ending_at(CHECKPOINTS / request.param, tmp_path_factory.mktemp("models") / request.param, ENDS)


@pytest.fixture(scope="module")
def plain(model) -> PlainModel:
    return PlainModel(model)


def run_of(
    model: Path,
    folder: Path,
    decoding: Decoding = LIVELY,
    questions: Sequence[tuple[str, str]] = QUESTIONS,
    plan: str = "readout",
    **more,
) -> Run:
    spec = write_pope(folder, IMAGES, questions)
    return run_job(job_of(model, spec, folder / "lake", plan=plan, decoding=decoding, **more))


@pytest.fixture(scope="module")
def run(model, tmp_path_factory) -> Run:
    return run_of(model, tmp_path_factory.mktemp("run"))


def samples_of(run: Run) -> dict[tuple[str, str], list[list[int]]]:
    """Token ids of the samples, in their order, by image and question."""
    asked = run.samples().join(run.examples().select("example", "image", "question"), on="example")
    rows = asked.sort("sample").group_by("image", "question", maintain_order=True).agg("token_ids")
    return {(image, question): drawn for image, question, drawn in rows.iter_rows()}


def greedy_of(run: Run) -> dict[tuple[str, str], list[int]]:
    return {(row["image"], row["question"]): row["token_ids"] for row in run.examples().iter_rows(named=True)}


def test_the_settings_make_samples_that_differ_and_end_at_different_lengths(run):
    drawn = samples_of(run)
    assert set(drawn) == set(QUESTIONS)
    assert all(len(answers) == LIVELY.samples for answers in drawn.values())
    assert len({tuple(answer) for answers in drawn.values() for answer in answers}) > len(QUESTIONS)
    assert len({len(answer) for answers in drawn.values() for answer in answers}) > 2
    assert set(run.samples()["finish"]) == {"stop", "length"}


def test_the_table_tells_what_the_tokens_are(run, plain):
    for row in run.samples().iter_rows(named=True):
        ended = row["token_ids"][-1] in plain.ends
        assert plain.ends.isdisjoint(row["token_ids"][:-1])
        assert row["finish"] == ("stop" if ended else "length")
        assert row["answer_tokens"] == len(row["token_ids"]) - ended
        assert len(row["token_ids"]) == LIVELY.answer_tokens or ended
        assert row["answer"] == plain.tokenizer.decode(row["token_ids"], skip_special_tokens=True)


@pytest.mark.parametrize("more", [{"batch_size": 1}, {"batch_size": 2}, {"share_prefix": False}], ids=str)
def test_samples_are_the_same_whatever_the_batches(model, run, tmp_path, more):
    other = run_of(model, tmp_path, **more)
    assert other.record.extents.example_rows != run.record.extents.example_rows or "share_prefix" in more
    assert samples_of(other) == samples_of(run)


@pytest.mark.parametrize(
    "questions",
    [QUESTIONS[3:4], QUESTIONS[::-1], (*QUESTIONS[1:], ("c.png", "Square?"))],
    ids=["alone", "turned", "other"],
)
def test_samples_are_the_same_whatever_else_is_asked(model, run, tmp_path, questions):
    others, ours = samples_of(run_of(model, tmp_path, questions=questions)), samples_of(run)
    for asked in questions:
        assert asked == ("c.png", "Square?") or others[asked] == ours[asked]


def test_another_seed_draws_others_and_the_greedy_answers_stay(model, run, tmp_path):
    other = run_of(model, tmp_path, replace(LIVELY, seed=8))
    assert other.name != run.name
    assert all(samples_of(other)[asked] != samples_of(run)[asked] for asked in QUESTIONS)
    assert greedy_of(other) == greedy_of(run)


@pytest.mark.parametrize("cold", [{"temperature": 1e-4, "top_p": 1.0}, {"temperature": 2.0, "top_p": 1e-4}], ids=str)
def test_next_to_no_temperature_or_nucleus_makes_every_sample_the_greedy_answer(model, tmp_path, cold):
    run = run_of(model, tmp_path, Decoding(answer_tokens=5, samples=4, **cold))
    greedy = greedy_of(run)
    assert all(drawn == [greedy[asked]] * 4 for asked, drawn in samples_of(run).items())


def test_log_probs_are_those_of_a_plain_forward_over_prompt_and_answer(run, plain):
    rows = run.samples().join(run.examples().select("example", "image", "question"), on="example")
    for row in rows.iter_rows(named=True):
        forward = plain(IMAGES[row["image"]], row["question"], row["token_ids"])
        told = forward.logits[forward.asked - 1 : -1].log_softmax(-1)
        chosen = told[torch.arange(len(told)), torch.tensor(row["token_ids"])]
        np.testing.assert_allclose(row["log_probs"], chosen, atol=1e-4)


def test_samples_are_those_decoded_one_at_a_time_from_plain_forwards(run, plain, tmp_path):
    write_pope(tmp_path, IMAGES, QUESTIONS)
    for (image, question), drawn in samples_of(run).items():
        digest = hashlib.sha256((tmp_path / "images" / image).read_bytes()).hexdigest()
        uniforms = LIVELY.uniforms(f"{digest}\n{question}")
        for sample in range(LIVELY.samples):
            answer: list[int] = []
            while len(answer) < LIVELY.answer_tokens and plain.ends.isdisjoint(answer):
                logits = plain.next_logits(IMAGES[image], question, answer)
                (shares,) = nucleus(logits[None], LIVELY.temperature, LIVELY.top_p)
                answer.append(token_at(shares, float(uniforms[sample, len(answer)])))
            assert drawn[sample] == answer, (image, question, sample)


def test_with_and_without_samples_all_else_is_the_same(model, tmp_path, every_array):
    lively, alone = (
        run_of(model, tmp_path, decoding, plan=every_array)
        for decoding in (LIVELY, Decoding(answer_tokens=LIVELY.answer_tokens))
    )
    assert lively.samples().height == len(QUESTIONS) * LIVELY.samples
    assert alone.samples().height == 0
    columns = pl.exclude("run", "log_probs", "first_log_prob", "first_gap", "first_entropy")
    assert lively.examples().select(columns).equals(alone.examples().select(columns))
    for column in ("log_probs", "first_log_prob", "first_gap", "first_entropy"):
        ours, theirs = (run.examples()[column].explode().to_numpy() for run in (lively, alone))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    with_samples, without = lively.dataset(), alone.dataset()
    assert set(with_samples.data_vars) == set(without.data_vars)
    for name in without.data_vars:
        np.testing.assert_allclose(
            with_samples[name].values, without[name].values, rtol=1e-5, atol=1e-5, err_msg=str(name)
        )


@pytest.fixture
def every_array(tmp_path) -> str:
    path = tmp_path / "everything.toml"
    path.write_text(f"arrays = {list(CHOOSABLE)}")
    return str(path)

"""The gray-image control against plain eager forwards of gray images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.ingest.jobs import job_of, run_job
from tests.ingest.plain import CHECKPOINTS, PlainModel
from tests.ingest.pope_files import scene, write_pope
from vlmlake.ingest.decoding import Decoding
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.schema import BLANK_ARRAYS

IMAGES = {
    "square.png": scene(0),
    "wide.png": scene(1, (72, 32)),
    "tall.png": scene(2, (32, 72)),
    "other.png": scene(3),
    "nearly.png": scene(4, (50, 46)),
    "small.png": scene(5, (40, 40)),
}
"""Of the last five, a model of any resolution makes grids of three shapes and two numbers of tokens."""
QUESTIONS = (
    ("square.png", "Is there a red circle in the image?"),
    ("square.png", "Circle?"),
    ("other.png", "Is there a red circle in the image?"),
    ("wide.png", "Look closely at every corner of the picture: is there an orange cross in the image?"),
    ("wide.png", "Is there a dog?"),
    ("tall.png", "Is there a red circle in the image?"),
    ("nearly.png", "Is there a cross?"),
    ("small.png", "Is there a red circle in the image?"),
)


@pytest.fixture(scope="module", params=["tiny-llava", "tiny-paligemma", "tiny-qwen2-vl"])
def model(request) -> Path:
    return CHECKPOINTS / request.param


def run_of(model: Path, folder: Path, plan: str = "readout", blank: bool = True, **more) -> Run:
    spec = write_pope(folder, IMAGES, QUESTIONS)
    decoding = Decoding(answer_tokens=2)
    return run_job(job_of(model, spec, folder / "lake", plan=plan, blank=blank, decoding=decoding, **more))


@pytest.fixture(scope="module")
def run(model, tmp_path_factory) -> Run:
    return run_of(model, tmp_path_factory.mktemp("run"), batch_size=4)


def test_blank_arrays_are_those_of_a_plain_forward_of_a_gray_image_of_the_same_size(run, model):
    plain, data = PlainModel(model), run.dataset()
    for row in run.examples().iter_rows(named=True):
        gray = Image.new("RGB", IMAGES[row["image"]].size, (128, 128, 128))
        forward = plain(gray, row["question"])
        one = data.sel(example=row["example"])
        np.testing.assert_allclose(one["blank_logits"], forward.logits[-1], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(one["blank_states"], forward.states[:, -1], rtol=1e-4, atol=1e-4)


def test_the_arrays_beside_them_are_those_of_the_image(run, model):
    plain, data = PlainModel(model), run.dataset().sel(position="prompt_last")
    for row in run.examples().iter_rows(named=True):
        forward = plain(IMAGES[row["image"]], row["question"])
        one = data.sel(example=row["example"])
        np.testing.assert_allclose(one["logits"], forward.logits[-1], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(one["readout_states"], forward.states[:, -1], rtol=1e-4, atol=1e-4)
        assert not np.allclose(one["blank_logits"], one["logits"], atol=1e-2)


@pytest.mark.parametrize("more", [{"share_prefix": False}, {"batch_size": 1}, {"plan": "full"}], ids=str)
def test_blank_arrays_are_the_same_however_the_run_is_computed(run, model, tmp_path, more):
    ours = run.dataset()
    theirs = run_of(model, tmp_path, **more).dataset().sel(example=ours["example"])
    for name in BLANK_ARRAYS:
        np.testing.assert_allclose(ours[name].values, theirs[name].values, rtol=1e-5, atol=1e-5, err_msg=name)


def test_questions_alike_about_images_of_one_size_have_one_control(run):
    data = run.dataset().sel(position="prompt_last")
    square, other = (data.sel(example=f"tiny_pope/random/{number}") for number in (1, 3))
    assert square["question"].item() == other["question"].item()
    np.testing.assert_allclose(square["blank_logits"], other["blank_logits"], atol=1e-5)
    assert not np.allclose(square["logits"], other["logits"], atol=1e-2)


def test_asking_for_the_control_changes_nothing_else(run, model, tmp_path):
    ours = run.dataset()
    theirs = run_of(model, tmp_path, blank=False, batch_size=4).dataset()
    assert set(ours.data_vars) - set(theirs.data_vars) == set(BLANK_ARRAYS)
    for name in theirs.data_vars:
        np.testing.assert_allclose(ours[name].values, theirs[name].values, rtol=1e-5, atol=1e-5, err_msg=str(name))


def test_only_the_chosen_layers_are_kept(run, model, tmp_path):
    plan = tmp_path / "two.toml"
    plan.write_text('arrays = ["logits"]\nlayers = ["embed", "block_1"]\n')
    two = run_of(model, tmp_path, plan=str(plan)).dataset()
    wanted = run.dataset().sel(layer=["embed", "block_1"], example=two["example"])
    np.testing.assert_allclose(two["blank_states"].values, wanted["blank_states"].values, rtol=1e-5, atol=1e-5)
    assert two["layer"].values.tolist() == ["embed", "block_1"]

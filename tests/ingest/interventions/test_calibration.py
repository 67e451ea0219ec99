"""Means and sizes of activations, out of the store and from the model, against plain forwards by transformers."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from tests.ingest.jobs import job_of, run_job
from tests.ingest.plain import PlainModel
from vlmlake.ingest.datasets import load_dataset
from vlmlake.ingest.interventions.edited.edits import SITES
from vlmlake.ingest.interventions.requests.calibration import MOST_EXAMPLES, calibration_examples, of_model, of_store
from vlmlake.ingest.replay_job import Sources, load_same_model, plan_again

DATA, BLOCKS = "shapes:2@3", (0, 3)
PLACES = [(site, block) for site in SITES for block in BLOCKS]


@pytest.fixture(scope="module", params=["llava", "paligemma", "qwen2_vl"])
def run(request, checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return run_job(job_of(checkpoints[request.param], DATA, folder / "lake", batch_size=7))


@pytest.fixture(scope="module")
def rows(run) -> pl.DataFrame:
    """Not as many of one image as of the other, so that what the questions of an image share has its weight."""
    once = run.examples().unique("row", keep="first", maintain_order=True)
    return once.filter((pl.col("image_sha256") == once["image_sha256"][0]) | (pl.col("row") % 3 == 0))


@pytest.fixture(scope="module")
def by_hand(run, rows) -> dict[tuple[str, int, str], np.ndarray]:
    """[tokens, width], of all prompts, or of their last tokens alone."""
    plain = PlainModel(run.record.versions["model"])
    passed: list[torch.Tensor] = []
    found = {(*place, positions): [] for place in PLACES for positions in ("all", "prompt_last")}
    examples = {one.id: one for one in load_dataset((DATA,))}
    layers = plain.model.model.language_model.layers

    def after(module, arguments, output):
        passed.append(output[0] if isinstance(output, tuple) else output)

    for name in rows["example"]:
        image = Image.open(BytesIO(examples[name].source.read())).convert("RGB")
        for site, block in PLACES:
            part = layers[block]
            hook = {
                "resid": lambda part=part: part.register_forward_hook(after),
                "mlp_out": lambda part=part: part.mlp.register_forward_hook(after),
                "attn_out": lambda part=part: part.self_attn.register_forward_hook(after),
                "head_out": lambda part=part: part.self_attn.o_proj.register_forward_pre_hook(
                    lambda module, arguments: passed.append(arguments[0])
                ),
            }[site]()
            passed.clear()
            plain.next_logits(image, examples[name].question)
            hook.remove()
            (stream,) = passed
            found[site, block, "all"].append(stream[0].double().numpy())
            found[site, block, "prompt_last"].append(stream[0, -1:].double().numpy())
    return {key: np.concatenate(values) for key, values in found.items()}


def require_as_by_hand(found, tokens: np.ndarray) -> None:
    np.testing.assert_allclose(found.mean, tokens.mean(axis=0), atol=2e-5)
    np.testing.assert_allclose(found.rms, np.sqrt((tokens**2).mean(axis=0)), atol=2e-5)


def test_from_the_model(run, rows, by_hand):
    family = load_same_model(run.record, Sources())
    work = plan_again(run.record, family, rows.to_dicts(), Sources(), None)
    for site, block, positions in by_hand:
        require_as_by_hand(of_model(family, work, (site, block), positions), by_hand[site, block, positions])


def test_out_of_the_store(run, rows, by_hand):
    """What it does not keep is none: heads' outputs, and what the halves write before the last token."""
    there = {
        key: found
        for key in by_hand
        if (found := of_store(run, key[:2], key[2], rows["example"].to_list())) is not None
    }
    wanted = {(site, block, "prompt_last") for site, block in PLACES if site != "head_out"}
    assert set(there) == wanted | {("resid", block, "all") for block in BLOCKS}
    for key, found in there.items():
        require_as_by_hand(found, by_hand[key])


def test_measured_on_so_many_questions_and_no_more():
    rows = pl.DataFrame({"row": [number // 2 for number in range(4 * MOST_EXAMPLES)], "example": "x"})
    some = calibration_examples(rows, 0)
    assert some.height == some["row"].n_unique() == MOST_EXAMPLES
    assert some.equals(calibration_examples(rows, 0))
    assert not some.equals(calibration_examples(rows, 1))
    assert calibration_examples(rows.head(9), 1)["row"].to_list() == [0, 1, 2, 3, 4]

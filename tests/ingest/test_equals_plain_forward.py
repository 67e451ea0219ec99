"""Every stored array of plan `full` against a plain eager forward and `generate` of one example alone.

Three families, each with the shipped model and a random one of another shape; questions of very different lengths;
Qwen2-VL with images of different sizes. Prefixes shared and not, batched and alone, in float32 within 1e-4; the
default way in float16 too.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from tests.ingest import tiny_models
from tests.ingest.plain import PlainModel
from vlmlake import open_lake
from vlmlake.ingest.datasets.shapes import draw, sample_scene
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.extract import extract
from vlmlake.ingest.job import Job
from vlmlake.ingest.model_source import ModelSource
from vlmlake.store_schema.capture_plan import read_plan
from vlmlake.store_schema.schema import ROLES

ANSWER_TOKENS = 5
QUESTIONS = (
    "Is there a red circle in the image?",
    "Is there a dog?",
    "Look closely at every corner of the picture: is there, perhaps, an orange cross in the image?",
    "Circle?",
    "What is in the image?",
    "Is there a snowboard in the image?",
)
SIZES = ((192, 192), (192, 108), (100, 180))
FLOAT16_STEP = 2.0**-11
"""Largest relative error of rounding to float16."""


@dataclass(frozen=True)
class Way:
    """One way to run the same questions."""

    dtype: str = "float32"
    share_prefix: bool = True
    batch_size: int = 12
    attention: str = "sdpa"


WAYS = {
    "shared": Way(),
    "unshared": Way(share_prefix=False),
    "alone": Way(batch_size=1),
    "float16": Way(dtype="float16"),
    "eager": Way(attention="eager"),
}
MODELS = [f"{kind}_{family}" for family in ("llava", "paligemma", "qwen2_vl") for kind in ("tiny", "random")]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """Three images of different shapes with six questions of very different lengths each, in one POPE file."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "images").mkdir()
    rng = random.Random(11)
    rows = []
    for number, size in enumerate(SIZES):
        draw(sample_scene(rng)).resize(size).save(folder / "images" / f"scene_{number}.png")
        for place, text in enumerate(QUESTIONS):
            rows.append(
                {"question_id": number * 10 + place, "image": f"scene_{number}.png", "text": text, "label": "yes"}
            )
    (folder / "mixed_pope_random.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module", params=MODELS)
def model_folder(request, tmp_path_factory, checkpoints) -> Path:
    kind, _, family = request.param.partition("_")
    tiny = checkpoints[family]
    if kind == "tiny":
        return tiny
    save = getattr(tiny_models, f"save_random_{family}")
    return save(tmp_path_factory.mktemp("random") / f"random-{family}", tiny)


@pytest.fixture(scope="module")
def plain(model_folder, mixed) -> dict[str, dict[str, Any]]:
    """What the stock code says of every example, by its id."""
    reference = PlainModel(model_folder)
    found = {}
    for line in (mixed / "mixed_pope_random.json").read_text().splitlines():
        row = json.loads(line)
        image = Image.open(mixed / "images" / row["image"]).convert("RGB")
        answer = reference.generate(image, row["text"], ANSWER_TOKENS)
        forward = reference(image, row["text"], [token for token in answer if token not in reference.ends])
        found[f"mixed_pope/random/{row['question_id']}"] = {
            **vars(forward),
            "logits": forward.logits.numpy(),
            "answer": answer,
        }
    return found


@pytest.fixture(scope="module", params=WAYS)
def run(request, model_folder, mixed, plain, tmp_path_factory):
    way = WAYS[request.param]
    url = str(tmp_path_factory.mktemp("lake"))
    extract(
        Job(
            ModelSource(str(model_folder), attention=way.attention),
            (f"pope:{mixed}",),
            url,
            plan=read_plan("full", way.dtype),
            decoding=Decoding(ANSWER_TOKENS),
            batch_size=way.batch_size,
            share_prefix=way.share_prefix,
        )
    )
    return open_lake(url).run(model_folder.name)


@pytest.fixture(scope="module")
def data(run):
    return run.dataset().load()


def close(stored: np.ndarray, wanted: np.ndarray, dtype: str) -> None:
    """Within 1e-4 in float32; in float16 its rounding comes on top."""
    assert stored.shape == wanted.shape
    rounding = 0.0 if dtype == "float32" else FLOAT16_STEP
    np.testing.assert_allclose(stored, wanted, rtol=rounding, atol=1e-4)


def one(data, name):
    """An example with the number of its prefix tokens."""
    chosen = data.sel(example=name)
    return chosen, int(chosen["prefix_tokens"])


def test_the_lake_holds_every_question(run, plain):
    assert set(run.examples()["example"]) == set(plain)
    assert len(plain) == len(SIZES) * len(QUESTIONS)
    assert len({len(reference["ids"]) for reference in plain.values()}) > 3


def test_images_of_different_sizes_get_different_grids_where_the_family_makes_them(plain, model_folder):
    grids = {tuple(reference["grid"]) for reference in plain.values()}
    assert len(grids) == (3 if "qwen" in model_folder.name else 1)


def test_prefixes_are_shared_where_the_family_is_causal(run):
    shared = run.record.identity["plan"]["shared_prefix"] and run.record.extents.example_rows > 1
    assert run.examples()["prefix"].n_unique() == (len(SIZES) if shared else len(SIZES) * len(QUESTIONS))


def test_greedy_tokens_are_those_of_generate(run, plain):
    for row in run.examples().iter_rows(named=True):
        assert row["token_ids"] == plain[row["example"]]["answer"]


def test_log_probs_are_those_of_the_logits(run, plain):
    for row in run.examples().iter_rows(named=True):
        reference = plain[row["example"]]
        at = np.arange(len(row["token_ids"])) + reference["asked"] - 1
        wanted = torch.from_numpy(reference["logits"][at]).log_softmax(-1)
        chosen = wanted[torch.arange(len(at)), torch.tensor(row["token_ids"])]
        np.testing.assert_allclose(row["log_probs"], chosen, atol=1e-4)
        np.testing.assert_allclose(row["first_entropy"], -(wanted[0].exp() * wanted[0]).sum(), atol=1e-4)
        two = wanted[0].topk(2).values
        np.testing.assert_allclose(row["first_gap"], two[0] - two[1], atol=1e-4)


def test_hidden_states_of_every_layer_and_token(run, data, plain):
    for name, reference in plain.items():
        example, split = one(data, name)
        end = len(reference["ids"])
        close(
            example["hidden_states"].values[:, : end - split], reference["states"][:, split:], run.record.stored_dtype
        )
        assert np.isnan(example["hidden_states"].values[:, end - split :]).all()
        prefix = data["prefix_states"].sel(prefix=example["prefix_of"]).values
        close(prefix[:, :split], reference["states"][:, :split], run.record.stored_dtype)
        assert np.isnan(prefix[:, split:]).all()


def test_attention_rows_of_every_block_and_head(run, data, plain):
    axis = data.sizes["prefix_token"]
    for name, reference in plain.items():
        example, split = one(data, name)
        end = len(reference["ids"])
        rows = example["attention"].values[1:, :, : end - split]
        kept = np.concatenate([rows[..., :split], rows[..., axis : axis + end - split]], axis=-1)
        close(kept, reference["attention"][:, :, split:], run.record.stored_dtype)
        assert np.isnan(rows[..., axis + end - split :]).all()
        assert np.isnan(rows[..., split:axis]).all()
    assert np.isnan(data["attention"].sel(layer="embed").values).all()


def test_attention_rows_of_the_prefix(run, data, plain):
    axis = data.sizes["prefix_token"]
    for name, reference in plain.items():
        example, split = one(data, name)
        asked = int(reference["asked"])
        rows = data["prefix_attention"].sel(prefix=example["prefix_of"]).values[1:, :, :split]
        close(rows[..., :split], reference["attention"][:, :, :split, :split], run.record.stored_dtype)
        after = rows[..., axis : axis + asked - split]
        if run.record.identity["model"]["type"] == "paligemma":
            close(after, reference["attention"][:, :, :split, split:asked], run.record.stored_dtype)
        else:
            assert np.isnan(after).all()
            assert (reference["attention"][:, :, :split, split:asked] == 0).all()


def test_logits_of_every_token(run, data, plain):
    for name, reference in plain.items():
        example, split = one(data, name)
        end = len(reference["ids"])
        close(example["token_logits"].values[: end - split], reference["logits"][split:], run.record.stored_dtype)
        prefix = data["prefix_logits"].sel(prefix=example["prefix_of"]).values
        close(prefix[:split], reference["logits"][:split], run.record.stored_dtype)


def test_logits_and_readout_states_at_every_answer_position(run, data, plain):
    for name, reference in plain.items():
        example, _ = one(data, name)
        told = int(example["answer_tokens"])
        at = slice(int(reference["asked"]) - 1, len(reference["ids"]))
        close(example["logits"].values[: told + 1], reference["logits"][at], run.record.stored_dtype)
        close(example["readout_states"].values[:, : told + 1], reference["states"][:, at], run.record.stored_dtype)
        assert np.isnan(example["logits"].values[told + 1 :]).all()
        assert np.isnan(example["readout_states"].values[:, told + 1 :]).all()


def test_block_writes_at_prompt_last(run, data, plain):
    for name, reference in plain.items():
        example, _ = one(data, name)
        for half, array in enumerate(("attn_write", "mlp_write")):
            close(example[array].values[1:], reference["writes"][half], run.record.stored_dtype)
            assert np.isnan(example[array].values[0]).all()


def test_image_updates_are_mean_norms_over_the_image_tokens(run, data, plain):
    for name, reference in plain.items():
        example, _ = one(data, name)
        states = reference["states"][:, reference["image"]].astype(np.float64)
        wanted = np.linalg.norm(np.diff(states, axis=0), axis=-1).mean(-1)
        stored = data["image_update"].sel(prefix=example["prefix_of"]).values
        close(stored[1:], wanted, run.record.stored_dtype)
        assert np.isnan(stored[0])


def test_margins_need_no_model(run, data):
    """The last residual stream through the stored norm and unembedding gives the stored logits."""
    states = data["readout_states"].isel(layer=-1).sel(position="prompt_last").values.astype(np.float64)
    epsilon = run.record.final_norm["epsilon"]
    normed = states / np.sqrt((states**2).mean(-1, keepdims=True) + epsilon) * data["final_norm"].values
    logits = normed @ data["unembedding"].values.T
    stored = data["logits"].sel(position="prompt_last").values
    tolerance = 1e-4 if run.record.stored_dtype == "float32" else 4e-3 * np.abs(stored).max()
    np.testing.assert_allclose(logits, stored, atol=tolerance)


def test_tokens_carry_text_role_and_place_as_the_stock_processor_has_them(run, plain):
    family = run.record.identity["model"]["type"]
    cue_of = {"llava": "ASSISTANT:", "paligemma": "", "qwen2_vl": "<|im_end|>\n<|im_start|>assistant"}
    prefix_ends = {"llava": ["image"], "paligemma": ["image"], "qwen2_vl": ["image", "system"]}[family]
    for row in run.examples().filter(pl.col("question").is_in(QUESTIONS[1:3])).iter_rows(named=True):
        tokens, reference = run.tokens(row["example"]), plain[row["example"]]
        assert tokens["id"].to_list() == reference["ids"].tolist()
        image = tokens.filter(tokens["role"] == "image")
        rows, columns = reference["grid"]
        assert (tokens["role"] == "image").to_list() == reference["image"].tolist()
        assert image["image_row"].to_list() == [place // columns for place in range(rows * columns)]
        assert image["image_column"].to_list() == [place % columns for place in range(rows * columns)]
        assert tokens.filter(tokens["role"] != "image")["image_row"].is_null().all()
        asked = "".join(tokens.filter(tokens["role"] == "question")["text"])
        assert asked.strip() == row["question"]
        cue = "".join(tokens.filter(tokens["role"] == "cue")["text"])
        assert cue.strip() == cue_of[family]
        order = [ROLES.index(role) for role in tokens["role"].unique(maintain_order=True) if role != "system"]
        assert order == sorted(order)
        assert (tokens["role"] == "answer").sum() == row["answer_tokens"]
        split = row["prefix_tokens"]
        assert tokens["role"][split - len(prefix_ends) : split].to_list() == prefix_ends
        assert "image" not in tokens["role"][split:].to_list()

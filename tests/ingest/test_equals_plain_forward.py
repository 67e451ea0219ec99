"""Every stored array against a plain eager forward and `generate` of one example alone, with the stock processor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, LlavaForConditionalGeneration, LlavaProcessor

from tests.ingest.tiny_models import save_random_llava
from vlmlake import open_lake
from vlmlake.ingest.extract import extract
from vlmlake.ingest.job import Job
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
FLOAT16_STEP = 2.0**-11
"""Largest relative error of rounding to float16."""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, scenes) -> Path:
    """Three images with six questions of very different lengths each, in one POPE file."""
    folder = tmp_path_factory.mktemp("mixed")
    shutil.copytree(scenes / "images", folder / "images")
    rows = [
        {"question_id": number * 10 + place, "image": f"scene_{number:06d}.png", "text": text, "label": "yes"}
        for number in range(3)
        for place, text in enumerate(QUESTIONS)
    ]
    (folder / "mixed_pope_random.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def random_llava(tmp_path_factory, tiny_llava) -> Path:
    return save_random_llava(tmp_path_factory.mktemp("random") / "random-llava", tiny_llava)


@pytest.fixture(scope="module", params=["tiny_llava", "random_llava"])
def model_folder(request) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module", params=["float32", "float16"])
def run(request, model_folder, mixed, tmp_path_factory):
    url = str(tmp_path_factory.mktemp("lake"))
    extract(
        Job(
            str(model_folder),
            f"pope:{mixed}",
            url,
            dtype=request.param,
            batch_size=12,
            answer_tokens=ANSWER_TOKENS,
        )
    )
    return open_lake(url).run(model_folder.name)


class PlainModel:
    """What a user would write today: eager attention, everything asked for, one question at a time."""

    def __init__(self, folder: Path) -> None:
        self.model = LlavaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
        self.processor = LlavaProcessor(
            AutoImageProcessor.from_pretrained(folder),
            AutoTokenizer.from_pretrained(folder),
            patch_size=self.model.config.vision_config.patch_size,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )

    @torch.no_grad()
    def __call__(self, image: Path, question: str) -> dict[str, np.ndarray]:
        prompt = f"USER: <image>\n{question} ASSISTANT:"
        inputs = self.processor(images=Image.open(image), text=prompt, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        generated = self.model.generate(**inputs, do_sample=False, max_new_tokens=ANSWER_TOKENS)
        asked = inputs["input_ids"].shape[1]
        answer = generated[0, asked:]
        kept = answer[answer != self.processor.tokenizer.eos_token_id]
        ids = torch.cat([inputs["input_ids"][0], kept])
        before_norm: list[torch.Tensor] = []
        hook = self.model.model.language_model.norm.register_forward_pre_hook(
            lambda module, arguments: before_norm.append(arguments[0])
        )
        out = self.model(
            input_ids=ids[None],
            pixel_values=inputs["pixel_values"],
            output_hidden_states=True,
            output_attentions=True,
        )
        hook.remove()
        return {
            "answer": answer.numpy(),
            "ids": ids.numpy(),
            "asked": np.array(asked),
            "states": torch.stack([*out.hidden_states[:-1], before_norm[0]])[:, 0].numpy(),
            "attention": torch.stack(out.attentions)[:, 0].numpy(),
            "logits": out.logits[0].numpy(),
        }


@pytest.fixture(scope="module")
def plain(model_folder, mixed, run) -> dict[str, dict[str, np.ndarray]]:
    reference = PlainModel(model_folder)
    return {
        row["example"]: reference(mixed / "images" / row["image"], row["question"])
        for row in run.examples().iter_rows(named=True)
    }


def close(stored: np.ndarray, wanted: np.ndarray, dtype: str) -> None:
    """Within 1e-4 in float32; in float16 its rounding comes on top."""
    assert stored.shape == wanted.shape
    rounding = 0.0 if dtype == "float32" else FLOAT16_STEP
    np.testing.assert_allclose(stored, wanted, rtol=rounding, atol=1e-4)


def test_the_lake_holds_every_question(run, plain):
    assert len(plain) == 3 * len(QUESTIONS) == run.examples().height
    assert len({len(reference["ids"]) for reference in plain.values()}) > 3


def test_greedy_tokens_are_those_of_generate(run, plain):
    for row in run.examples().iter_rows(named=True):
        assert row["token_ids"] == plain[row["example"]]["answer"].tolist()


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


def test_hidden_states_of_every_layer_and_token(run, plain):
    data = run.dataset()
    for name, reference in plain.items():
        one = data.sel(example=name)
        split, end = int(one["prefix_tokens"]), len(reference["ids"])
        close(one["hidden_states"].values[:, : end - split], reference["states"][:, split:], run.record.stored_dtype)
        assert np.isnan(one["hidden_states"].values[:, end - split :]).all()
        prefix = data["prefix_states"].sel(prefix=one["prefix_of"]).values
        close(prefix[:, :split], reference["states"][:, :split], run.record.stored_dtype)


def test_attention_rows_of_every_block_and_head(run, plain):
    data = run.dataset()
    axis = data.sizes["prefix_token"]
    for name, reference in plain.items():
        one = data.sel(example=name)
        split, end = int(one["prefix_tokens"]), len(reference["ids"])
        rows = one["attention"].sel(layer=data["layer"].values[1:]).values[:, :, : end - split]
        kept = np.concatenate([rows[..., :split], rows[..., axis : axis + end - split]], axis=-1)
        close(kept, reference["attention"][:, :, split:], run.record.stored_dtype)
        future = np.triu(np.ones((end - split, end - split), bool), 1)
        assert (kept[..., split:][:, :, future] == 0).all()
        assert np.isnan(rows[..., axis + end - split :]).all()
    assert np.isnan(data["attention"].sel(layer="embed").values).all()


def test_logits_and_readout_states_at_every_answer_position(run, plain):
    data = run.dataset()
    for name, reference in plain.items():
        one = data.sel(example=name)
        told = int(one["answer_tokens"])
        at = slice(int(reference["asked"]) - 1, len(reference["ids"]))
        close(one["logits"].values[: told + 1], reference["logits"][at], run.record.stored_dtype)
        close(one["readout_states"].values[:, : told + 1], reference["states"][:, at], run.record.stored_dtype)
        assert np.isnan(one["logits"].values[told + 1 :]).all()
        assert np.isnan(one["readout_states"].values[:, told + 1 :]).all()


def test_margins_need_no_model(run, plain):
    """The last residual stream through the stored norm and unembedding gives the stored logits."""
    data = run.dataset()
    states = data["readout_states"].isel(layer=-1).sel(position="prompt_last").values.astype(np.float64)
    epsilon = run.record.final_norm["epsilon"]
    normed = states / np.sqrt((states**2).mean(-1, keepdims=True) + epsilon) * data["final_norm"].values
    logits = normed @ data["unembedding"].values.T
    stored = data["logits"].sel(position="prompt_last").values
    tolerance = 1e-4 if run.record.stored_dtype == "float32" else 4e-3 * np.abs(stored).max()
    np.testing.assert_allclose(logits, stored, atol=tolerance)


def test_tokens_carry_text_role_and_place(run, plain):
    for row in run.examples().iter_rows(named=True):
        tokens = run.tokens(row["example"])
        assert tokens["id"].to_list() == plain[row["example"]]["ids"].tolist()
        image = tokens.filter(tokens["role"] == "image")
        grid = round(image.height**0.5)
        assert image["image_row"].to_list() == [place // grid for place in range(grid * grid)]
        assert image["image_column"].to_list() == [place % grid for place in range(grid * grid)]
        assert tokens.filter(tokens["role"] != "image")["image_row"].is_null().all()
        asked = "".join(tokens.filter(tokens["role"] == "question")["text"])
        assert asked.strip() == row["question"]
        cue = "".join(tokens.filter(tokens["role"] == "cue")["text"])
        assert cue.strip() == "ASSISTANT:"
        roles = [role for role in ROLES if role in set(tokens["role"])]
        assert tokens["role"].unique(maintain_order=True).to_list()[:1] == ["system"]
        assert ("answer" in roles) == (row["answer_tokens"] > 0)

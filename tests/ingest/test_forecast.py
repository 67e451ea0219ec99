"""The budget of LLaVA-1.5-7B on POPE, planned from its shapes alone, against sums made here by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
)
from typer.testing import CliRunner

from tests.ingest.jobs import job_of
from tests.ingest.plain import CHECKPOINTS
from tests.ingest.pope_files import scene, write_pope
from vlmlake.cli import app
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.forecast import Forecast, forecast

COCO = Path(__file__).parents[1] / "data" / "coco_pope_random.json"
LAYERS, BLOCKS, HEADS, HIDDEN, VOCAB, PATCHES, ANSWER = 33, 32, 32, 4096, 32_064, 24 * 24, 16
HALF = 2
IMAGES, QUESTIONS = 500, 3_000


@pytest.fixture(scope="module")
def llava_7b(tmp_path_factory) -> Path:
    """Config, tokenizer and image processor; no weights."""
    folder = tmp_path_factory.mktemp("models") / "llava-1.5-7b-hf"
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / "tiny-llava")
    LlavaConfig(
        text_config=LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            num_hidden_layers=BLOCKS,
            num_attention_heads=HEADS,
            intermediate_size=11_008,
            max_position_embeddings=4096,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
            intermediate_size=4096,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def by_hand(llava_7b) -> list[tuple[int, int]]:
    """Prefix and suffix tokens of every distinct question's prompt."""
    tokenizer = AutoTokenizer.from_pretrained(llava_7b)
    asked = {(row["image"], row["text"]) for row in map(json.loads, COCO.read_text().splitlines())}
    assert (len(asked), len({image for image, _ in asked})) == (QUESTIONS, IMAGES)
    image = tokenizer.convert_tokens_to_ids("<image>")
    lengths = []
    for _, text in sorted(asked):
        ids = tokenizer("USER: " + "<image>" * PATCHES + f"\n{text} ASSISTANT:")["input_ids"]
        prefix = len(ids) - ids[::-1].index(image)
        lengths.append((prefix, len(ids) - prefix))
    return lengths


def pope_job(model: Path, lake: Path, plan: str = "suffix", **more):
    return job_of(model, f"pope:{COCO}", lake, plan, dtype="float16", decoding=Decoding(answer_tokens=ANSWER), **more)


@pytest.fixture(scope="module")
def told(llava_7b, tmp_path_factory) -> Forecast:
    return forecast(pope_job(llava_7b, tmp_path_factory.mktemp("lake") / "lake"))


def size(told: Forecast, name: str) -> int:
    (array,) = (array for array in told.budget.arrays if array.name == name)
    return array.bytes


def test_hidden_states_are_the_suffixes_and_answers_of_all_layers(told, by_hand):
    tokens = sum(suffix + ANSWER for _, suffix in by_hand)
    assert size(told, "hidden_states") == tokens * LAYERS * HIDDEN * HALF


def test_prefix_states_are_once_an_image(told, by_hand):
    (prefix,) = {prefix for prefix, _ in by_hand}
    assert prefix > PATCHES
    assert size(told, "prefix_states") == IMAGES * LAYERS * prefix * HIDDEN * HALF
    assert told.budget.prefixes == IMAGES


def test_attention_is_the_suffixes_rows_over_all_keys(told, by_hand):
    weights = sum((suffix + ANSWER) * (prefix + suffix + ANSWER) for prefix, suffix in by_hand)
    assert size(told, "attention") == weights * BLOCKS * HEADS * HALF


def test_readout_and_what_comes_with_it(told):
    assert size(told, "readout_states") == QUESTIONS * LAYERS * (1 + ANSWER) * HIDDEN * HALF
    assert size(told, "logits") == QUESTIONS * (1 + ANSWER) * VOCAB * HALF
    assert size(told, "attn_write") == size(told, "mlp_write") == QUESTIONS * BLOCKS * HIDDEN * HALF
    assert size(told, "image_update") == IMAGES * BLOCKS * HALF
    assert size(told, "unembedding") == VOCAB * HIDDEN * HALF
    assert size(told, "final_norm") == HIDDEN * HALF


def test_what_full_adds(llava_7b, by_hand, tmp_path):
    full = forecast(pope_job(llava_7b, tmp_path / "lake", "full"))
    prefix = by_hand[0][0]
    assert size(full, "prefix_attention") == IMAGES * BLOCKS * HEADS * prefix * prefix * HALF
    assert size(full, "token_logits") == sum(suffix + ANSWER for _, suffix in by_hand) * VOCAB * HALF
    assert size(full, "prefix_logits") == IMAGES * prefix * VOCAB * HALF


def test_the_tokens_that_the_prompts_take_through_the_model(told, by_hand):
    prefix = by_hand[0][0]
    assert told.prompt_tokens == IMAGES * prefix + sum(suffix for _, suffix in by_hand)
    assert told.unshared_tokens == sum(prefix + suffix for prefix, suffix in by_hand)
    assert told.budget.tokens == told.prompt_tokens + QUESTIONS * ANSWER


def test_without_sharing_every_question_has_its_prefix(told, llava_7b, tmp_path):
    alone = forecast(pope_job(llava_7b, tmp_path / "lake", share_prefix=False))
    assert alone.budget.prefixes == QUESTIONS
    assert size(alone, "prefix_states") == size(told, "prefix_states") * QUESTIONS // IMAGES
    for name in ("hidden_states", "attention", "readout_states"):
        assert size(alone, name) == size(told, name)
    assert alone.prompt_tokens == alone.unshared_tokens == told.unshared_tokens


def test_an_image_with_more_questions_than_a_batch_holds_has_its_prefix_in_each_piece(told, llava_7b, tmp_path):
    cut = forecast(pope_job(llava_7b, tmp_path / "lake", batch_size=4))
    assert size(cut, "prefix_states") == 2 * size(told, "prefix_states")
    assert cut.prompt_tokens - told.prompt_tokens == IMAGES * told.work.record.extents.prefix_tokens


def test_questions_that_two_files_ask_of_an_image_are_planned_once(told, llava_7b, tmp_path):
    popular = tmp_path / "coco_pope_popular.json"
    popular.write_bytes(COCO.read_bytes())
    both = forecast(job_of(llava_7b, (f"pope:{COCO}", f"pope:{popular}"), tmp_path / "lake"))
    assert (both.budget.examples, both.budget.rows) == (2 * QUESTIONS, QUESTIONS)
    assert both.unshared_tokens == 2 * told.unshared_tokens
    assert both.prompt_tokens == told.prompt_tokens


def test_nothing_is_written_and_no_image_opened(told, llava_7b, tmp_path, monkeypatch):
    monkeypatch.setattr("vlmlake.ingest.datasets.decode.read", lambda source: pytest.fail(f"{source.name} was read"))
    monkeypatch.setattr("vlmlake.ingest.datasets.survey.read", lambda source: pytest.fail(f"{source.name} was read"))
    assert not forecast(pope_job(llava_7b, tmp_path / "lake")).opened
    assert list(tmp_path.iterdir()) == []


def test_layers_and_positions_of_an_own_plan_count(told, llava_7b, tmp_path):
    plan = tmp_path / "late.toml"
    plan.write_text('layers = ["block_20", "block_31"]\npositions = ["prompt_last"]\n')
    late = forecast(pope_job(llava_7b, tmp_path / "lake", str(plan)))
    assert size(late, "hidden_states") * LAYERS == size(told, "hidden_states") * 2
    assert size(late, "attention") * BLOCKS == size(told, "attention") * 2
    assert size(late, "logits") * (1 + ANSWER) == size(told, "logits")


# The command line ---------------------------------------------------------------------------------------------------


def plan(*arguments: str | Path):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def rows_of(text: str) -> dict[str, tuple[int, int, int]]:
    """Bytes, chunks and objects by array, as the table says them."""
    found = {}
    for line in text.splitlines():
        cells = line.split()
        if len(cells) > 5 and cells[-2].replace(",", "").isdigit() and cells[-3] in ("B", "kB", "MB", "GB", "TB"):
            found[cells[0]] = tuple(int(cells[at].replace(",", "")) for at in (-5, -2, -1))
    return found


def test_the_table_shows_the_budget(told, llava_7b, tmp_path):
    answer = plan("--model", llava_7b, "--dataset", f"pope:{COCO}", "--lake", tmp_path / "lake")
    assert answer.exit_code == 0, answer.output
    wanted = {array.name: (array.bytes, array.chunks, array.objects) for array in told.budget.arrays}
    assert rows_of(answer.stdout) == {**wanted, "all": (told.budget.bytes, told.budget.chunks, told.budget.objects)}
    assert "3,000 examples, 3,000 different questions over 500 prefixes, in 100 batches" in answer.stdout
    assert "images were not opened" in answer.stdout
    assert f"{told.prompt_tokens:,} through the model, {told.unshared_tokens:,} without sharing" in answer.stdout


@pytest.fixture
def without_images(tmp_path) -> str:
    """Three questions over two images that are not there."""
    asked = [("a.png", "Is there a cross?"), ("b.png", "Is there a red cross?"), ("b.png", "Is there a square?")]
    return write_pope(tmp_path, {}, asked)


def test_no_share_prefix_is_an_option(llava_7b, without_images, tmp_path):
    arguments = ("--model", llava_7b, "--dataset", without_images, "--lake", tmp_path / "lake")
    shared, alone = (rows_of(plan(*arguments, *more).stdout) for more in ((), ("--no-share-prefix",)))
    assert alone["prefix_states"][0] * 2 == shared["prefix_states"][0] * 3
    assert alone["hidden_states"] == shared["hidden_states"]


@pytest.mark.parametrize(("free", "verdict"), [(10**18, "there is room"), (10**6, "not enough room")])
def test_the_verdict_on_the_disk(llava_7b, without_images, tmp_path, monkeypatch, free, verdict):
    monkeypatch.setattr("vlmlake.store_schema.storage.Storage.free", lambda storage: free)
    answer = plan("--model", llava_7b, "--dataset", without_images, "--lake", tmp_path / "lake")
    assert verdict in answer.stdout


# Images whose size decides how many tokens they are ------------------------------------------------------------------

QWEN = CHECKPOINTS / "tiny-qwen2-vl"


def test_a_model_of_any_resolution_asks_for_the_size_of_images_that_are_not_there(without_images, tmp_path):
    with pytest.raises(VlmlakeError, match=r"2 images are missing or broken.*--image-size 640x480 plans without"):
        forecast(job_of(QWEN, without_images, tmp_path / "lake"))


def test_with_a_size_it_plans_as_for_such_images(without_images, tmp_path):
    processor = AutoImageProcessor.from_pretrained(QWEN)
    found = {}
    for size_given in ((48, 48), (60, 20)):
        told = forecast(job_of(QWEN, without_images, tmp_path / "lake"), size_given)
        grid = processor(scene(0, size_given), return_tensors="pt")["image_grid_thw"]
        found[size_given] = (told.work.record.extents.prefix_tokens, int(grid.prod()) // processor.merge_size**2)
        assert not told.opened
    (square, square_patches), (wide, wide_patches) = found.values()
    assert square_patches != wide_patches
    assert square - square_patches == wide - wide_patches


def test_images_that_are_there_are_looked_at(tmp_path):
    images = {"a.png": scene(0, (60, 20)), "b.png": scene(1, (48, 48))}
    spec = write_pope(tmp_path, images, [("a.png", "Is there a cross?"), ("b.png", "Is there a cross?")])
    opened = forecast(job_of(QWEN, spec, tmp_path / "lake"))
    assert opened.opened
    sizes = [forecast(job_of(QWEN, spec, tmp_path / "lake"), image.size) for image in images.values()]
    assert [item.lengths.prefix for item in opened.work.items] == [told.work.items[0].lengths.prefix for told in sizes]


@pytest.mark.parametrize("given", ["640", "640x", "x480", "0x480", "640x0", "-1x5", "640x480x3", "axb", "6.4x4.8", ""])
def test_a_size_that_is_none_is_refused(without_images, tmp_path, given):
    answer = plan("--model", QWEN, "--dataset", without_images, "--lake", tmp_path / "lake", f"--image-size={given}")
    assert isinstance(answer.exception, VlmlakeError)
    assert str(answer.exception) == f"image size is {given!r}, expected width and height in pixels like 640x480"


@pytest.mark.parametrize("given", ["48x48", "48X48"])
def test_a_size_in_small_or_large_letters(without_images, tmp_path, given):
    answer = plan("--model", QWEN, "--dataset", without_images, "--lake", tmp_path / "lake", "--image-size", given)
    assert answer.exit_code == 0
    assert "hidden_states" in rows_of(answer.stdout)

from math import prod
from pathlib import Path

import numpy as np
import pytest

from tests.ingest.jobs import job_of, never_ending, run_job
from tests.ingest.plain import CHECKPOINTS
from tests.ingest.pope_files import scene, write_pope
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.forecast import forecast
from vlmlake.ingest.job import Job
from vlmlake.store_schema import paths
from vlmlake.store_schema.batches import Batch, Lengths
from vlmlake.store_schema.budget import Budget, estimate
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ARRAYS, Extents

LENGTHS = (Lengths(prefix=5, suffix=3), Lengths(prefix=5, suffix=4), Lengths(prefix=6, suffix=2))
ANSWER = 2
BATCHES = (Batch(0, ((0, 1),)), Batch(1, ((2,),)))
LAYERS = ("embed", "block_0", "block_2")


def record_of(
    arrays: tuple[str, ...] = tuple(spec.name for spec in ARRAYS),
    layers: tuple[str, ...] = LAYERS,
    stored: str = "float16",
    hidden: int = 8,
) -> RunRecord:
    extents = Extents(
        batches=2,
        example_rows=2,
        prefix_rows=1,
        layers=len(layers),
        heads=2,
        tokens=4 + ANSWER,
        prefix_tokens=6,
        positions=2,
        hidden=hidden,
        vocab=10,
    )
    positions = ("prompt_last", "answer_0")
    return RunRecord("m", {}, 4, 3, extents, stored, arrays, layers, positions, final_norm={}, versions={})


def sizes(budget: Budget) -> dict[str, int]:
    return {array.name: array.bytes for array in budget.arrays}


TOKENS = (3 + ANSWER) + (4 + ANSWER) + (2 + ANSWER)
PREFIX_TOKENS = 5 + 6
BLOCKS, HEADS, POSITIONS, HIDDEN, VOCAB, ROWS, PREFIXES, HALF = 2, 2, 2, 8, 10, 3, 2, 2
BY_HAND = {
    "hidden_states": TOKENS * 3 * HIDDEN * HALF,
    "prefix_states": PREFIX_TOKENS * 3 * HIDDEN * HALF,
    "attention": (5 * 10 + 6 * 11 + 4 * 10) * BLOCKS * HEADS * HALF,
    "readout_states": ROWS * 3 * POSITIONS * HIDDEN * HALF,
    "logits": ROWS * POSITIONS * VOCAB * HALF,
    "attn_write": ROWS * BLOCKS * HIDDEN * HALF,
    "mlp_write": ROWS * BLOCKS * HIDDEN * HALF,
    "image_update": PREFIXES * BLOCKS * HALF,
    "readout_attention": (5 + 5 + 6) * BLOCKS * HEADS * POSITIONS * HALF,
    "prefix_attention": (5 * 5 + 6 * 6) * BLOCKS * HEADS * HALF,
    "token_logits": TOKENS * VOCAB * HALF,
    "prefix_logits": PREFIX_TOKENS * VOCAB * HALF,
    "blank_states": ROWS * 3 * HIDDEN * HALF,
    "blank_logits": ROWS * VOCAB * HALF,
    "token_id": TOKENS * 4,
    "token_role": TOKENS,
    "prefix_token_id": PREFIX_TOKENS * 4,
    "prefix_token_role": PREFIX_TOKENS,
    "image_row": PREFIX_TOKENS * 2,
    "image_column": PREFIX_TOKENS * 2,
    "unembedding": VOCAB * HIDDEN * HALF,
    "final_norm": HIDDEN * HALF,
}


@pytest.mark.parametrize("name", [spec.name for spec in ARRAYS])
def test_bytes_are_those_counted_by_hand(name):
    assert sizes(estimate(record_of(), BATCHES, LENGTHS, sees_suffix=False))[name] == BY_HAND[name]


def test_the_sum_is_that_of_the_arrays_and_counts_what_the_run_holds():
    budget = estimate(record_of(), BATCHES, LENGTHS, sees_suffix=False)
    assert budget.bytes == sum(BY_HAND.values())
    assert (budget.examples, budget.rows, budget.prefixes, budget.batches) == (4, 3, 2, 2)
    assert budget.tokens == TOKENS + PREFIX_TOKENS


def test_a_prefix_that_sees_its_question_has_keys_for_the_prompt_but_not_for_the_answer():
    seeing = sizes(estimate(record_of(), BATCHES, LENGTHS, sees_suffix=True))
    assert seeing == {**BY_HAND, "prefix_attention": (5 * (5 + 3) + 6 * (6 + 2)) * BLOCKS * HEADS * HALF}


def test_float32_doubles_activations_alone():
    whole = {"token_id", "token_role", "prefix_token_id", "prefix_token_role", "image_row", "image_column"}
    found = sizes(estimate(record_of(stored="float32"), BATCHES, LENGTHS, sees_suffix=False))
    assert found == {name: size * (1 if name in whole else 2) for name, size in BY_HAND.items()}


def test_without_embed_every_layer_has_a_row_of_attention():
    found = sizes(estimate(record_of(layers=LAYERS[1:]), BATCHES, LENGTHS, sees_suffix=False))
    assert found["attention"] == BY_HAND["attention"]
    assert found["hidden_states"] * 3 == BY_HAND["hidden_states"] * 2


def test_a_part_of_the_batches_takes_its_part_and_the_arrays_of_the_whole_run():
    first, second = (sizes(estimate(record_of(), [batch], LENGTHS, sees_suffix=False)) for batch in BATCHES)
    once = {"unembedding", "final_norm"}
    assert {name: first[name] + second[name] * (name not in once) for name in BY_HAND} == BY_HAND


def test_only_the_plans_arrays_are_counted():
    budget = estimate(record_of(arrays=("logits", "final_norm")), BATCHES, LENGTHS, sees_suffix=False)
    assert sizes(budget) == {name: BY_HAND[name] for name in ("logits", "final_norm")}


@pytest.mark.parametrize(
    ("name", "chunks"),
    [
        ("hidden_states", 2 * 3),  # a layer, all of its batch's six tokens
        ("readout_states", 2 * 3 * 2),  # a layer and a position
        ("attention", 2 * 2),  # a block
        ("logits", 2 * 2),  # a position
        ("image_update", 2 * 2),  # a block
        ("token_id", 2),
        ("unembedding", 1),
    ],
)
def test_chunks_of_small_arrays_are_cut_by_label_alone(name, chunks):
    budget = estimate(record_of(), BATCHES, LENGTHS, sees_suffix=False)
    (array,) = (array for array in budget.arrays if array.name == name)
    assert array.chunks == chunks


# What a real pass leaves on disk -----------------------------------------------------------------------------------

EVERY_ARRAY = """
arrays = [
    "hidden_states", "prefix_states", "attention", "readout_states", "logits", "attn_write", "mlp_write",
    "image_update", "readout_attention", "prefix_attention", "token_logits", "prefix_logits",
]
"""
SEVEN_TOKENS = ("circle", "square", "cross")
MIXED = ("Circle?", "Is there a red circle in the image?", "Look closely at every corner: is there an orange cross?")


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("plan") / "everything.toml"
    path.write_text(EVERY_ARRAY)
    return str(path)


def questions_of(folder: Path, words: tuple[str, ...]) -> str:
    """Two images with three questions and one with two."""
    images = {f"{number}.png": scene(number) for number in range(3)}
    asked = [(name, text) for name in images for text in words]
    return write_pope(folder, images, asked[:-1])


def chunks_there(run: Run, name: str) -> int:
    """Chunks inside an array's shards, by the index at the end of each: an empty one has all bits set."""
    spec = next(spec for spec in ARRAYS if spec.name == name)
    layout = spec.layout(run.record.extents, run.record.stored_dtype)
    slots = prod(shard // chunk for shard, chunk in zip(layout.shards, layout.chunks, strict=True))
    found = 0
    for file in shards_of(run, name):
        index = np.frombuffer(file.read_bytes()[-16 * slots - 4 : -4], "<u8").reshape(slots, 2)
        found += int((index[:, 0] != np.iinfo(np.uint64).max).sum())
    return found


def shards_of(run: Run, name: str) -> list[Path]:
    folder = Path(run.storage.full(f"{paths.arrays(run.name)}/{name}"))
    return [file for file in folder.rglob("*") if file.is_file() and file.name != "zarr.json"]


def planned_and_written(job: Job) -> tuple[Budget, Run]:
    return forecast(job).budget, run_job(job)


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_answers_of_full_length_fill_the_planned_chunks_and_files(
    tiny_llava, tmp_path, everything, dtype, share_prefix
):
    model = never_ending(tiny_llava, tmp_path / "never-ending")
    spec = questions_of(tmp_path, tuple(f"Is there a red {word} in the image?" for word in SEVEN_TOKENS))
    job = job_of(
        model,
        spec,
        tmp_path / "lake",
        plan=everything,
        dtype=dtype,
        blank=True,
        decoding=Decoding(answer_tokens=5),
        batch_size=4,
        share_prefix=share_prefix,
    )
    budget, run = planned_and_written(job)
    assert set(run.examples()["answer_tokens"]) == {5}
    assert budget.batches == run.record.extents.batches == run.batches_done > 1
    assert {array.name for array in budget.arrays} == {spec.name for spec in ARRAYS}
    assert {array.name: array.chunks for array in budget.arrays} == {
        array.name: chunks_there(run, array.name) for array in budget.arrays
    }
    assert {array.name: array.objects for array in budget.arrays} == {
        array.name: len(shards_of(run, array.name)) for array in budget.arrays
    }
    assert budget.objects == sum(path.is_file() for path in (tmp_path / "lake").rglob("*"))


def test_bytes_at_full_length_are_those_of_the_values_that_are_there(tiny_llava, tmp_path, everything):
    model = never_ending(tiny_llava, tmp_path / "never-ending")
    job = job_of(
        model,
        questions_of(tmp_path, MIXED),
        tmp_path / "lake",
        plan=everything,
        blank=True,
        decoding=Decoding(answer_tokens=5),
        batch_size=4,
    )
    budget, run = planned_and_written(job)
    data = run.dataset(raw=True)
    for array in budget.arrays:
        values = data[array.name].values
        there = ~np.isnan(values) if values.dtype.kind == "f" else values != -1
        if array.name in ("image_row", "image_column"):
            there = data["prefix_token_id"].values != -1
        assert int(there.sum()) * values.dtype.itemsize == array.bytes, array.name


def test_shorter_answers_and_mixed_questions_take_no_more_than_planned(tiny_llava, tmp_path, everything):
    job = job_of(
        tiny_llava,
        questions_of(tmp_path, MIXED),
        tmp_path / "lake",
        plan=everything,
        blank=True,
        decoding=Decoding(answer_tokens=20),
        batch_size=4,
    )
    budget, run = planned_and_written(job)
    assert run.examples()["answer_tokens"].max() < 20
    for array in budget.arrays:
        assert 0 < chunks_there(run, array.name) <= array.chunks, array.name
        assert len(shards_of(run, array.name)) == array.objects, array.name
    written = {array.name: chunks_there(run, array.name) for array in budget.arrays}
    assert written["hidden_states"] < next(a.chunks for a in budget.arrays if a.name == "hidden_states")


def test_a_prefix_that_sees_its_question_takes_the_planned_bytes(tmp_path, everything):
    model = never_ending(CHECKPOINTS / "tiny-paligemma", tmp_path / "never-ending")
    job = job_of(
        model, questions_of(tmp_path, MIXED), tmp_path / "lake", plan=everything, decoding=Decoding(answer_tokens=2)
    )
    budget, run = planned_and_written(job)
    values = run.dataset(raw=True)["prefix_attention"].values
    (array,) = (array for array in budget.arrays if array.name == "prefix_attention")
    assert int((~np.isnan(values)).sum()) * values.dtype.itemsize == array.bytes

"""Attention from prompt_last to the image's patches, out of the store, against a plain eager forward."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from tests.ingest.interventions.small_runs import EXAMPLES, IMAGES, QUESTIONS, counted, small_run
from tests.ingest.plain import PlainModel
from vlmlake.errors import NotKeptError, UnknownNameError, VlmlakeError
from vlmlake.ingest.interventions.masks.saliency import READOUT, WHOLE, image_attention
from vlmlake.store_schema import lazy_array
from vlmlake.store_schema.run import Run

MODELS = [f"{kind}_{family}" for family in ("llava", "paligemma", "qwen2_vl") for kind in ("tiny", "random")]


@pytest.fixture(scope="module", params=MODELS)
def folder(request, folders):
    return folders[request.param]


@pytest.fixture(scope="module")
def plain(folder) -> dict[str, np.ndarray]:
    """By example [blocks, heads, patches]."""
    model, found = PlainModel(folder), {}
    for example, (image, question) in zip(EXAMPLES, QUESTIONS, strict=True):
        forward = model(IMAGES[image], question)
        found[example] = forward.attention[:, :, forward.asked - 1, forward.image]
    return found


@pytest.fixture(scope="module", params=["suffix", "readout"])
def run(request, folder, tmp_path_factory) -> Run:
    return small_run(folder, tmp_path_factory.mktemp("run"), request.param)


@pytest.fixture(scope="module")
def one_run(folders, tmp_path_factory) -> Run:
    return small_run(folders["tiny_llava"], tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("block", [None, 0, 1])
def test_it_is_that_of_a_plain_eager_forward(run, plain, block, reduction):
    found = image_attention(run, EXAMPLES, None if block is None else f"block_{block}", reduction)
    assert list(found) == list(EXAMPLES)
    for example, heads in plain.items():
        rows = heads[-1 if block is None else block]
        wanted = rows.mean(axis=0) if reduction == "mean" else rows.max(axis=0)
        assert found[example].dtype == np.float32
        assert found[example].shape == wanted.shape
        np.testing.assert_allclose(found[example], wanted, rtol=2.0**-11, atol=1e-4)


def test_it_is_the_same_whichever_examples_are_asked_for_and_in_which_order(run):
    whole = image_attention(run, EXAMPLES)
    for chosen in ([EXAMPLES[4]], [EXAMPLES[3], EXAMPLES[0]], EXAMPLES[::-1], [EXAMPLES[2], EXAMPLES[2]], []):
        found = image_attention(run, chosen)
        assert list(found) == list(dict.fromkeys(chosen))
        for example, weights in found.items():
            np.testing.assert_array_equal(weights, whole[example])


def test_it_is_the_same_however_many_batches_one_read_takes(run, monkeypatch):
    whole = image_attention(run, EXAMPLES)
    monkeypatch.setattr(lazy_array, "TASK_BYTES", 1)
    assert len(run.dataset()[READOUT if READOUT in run.record.arrays else WHOLE].chunksizes["example"]) > 1
    for chosen in (EXAMPLES, EXAMPLES[1:4]):
        for example, weights in image_attention(run, chosen).items():
            np.testing.assert_array_equal(weights, whole[example])


def test_patches_are_row_by_row_whatever_order_the_tokens_have(one_run):
    turned = changed(one_run, swapped_cells)
    whole, found = image_attention(one_run, EXAMPLES), image_attention(turned, EXAMPLES)
    for example in EXAMPLES:
        np.testing.assert_array_equal(found[example], whole[example].reshape(6, 6).T.ravel())


def test_only_the_rows_that_are_asked_for_are_read(one_run):
    def read(examples, layer=None) -> int:
        run = counted(one_run)
        image_attention(run, EXAMPLES[:1])  # tables, coordinates and indexes
        before = run.storage.bytes_read
        image_attention(run, examples, layer)
        return run.storage.bytes_read - before

    one, every = read(EXAMPLES[:1]), read(EXAMPLES)
    a_block = one_run.array_bytes()["attention"] / (len(one_run.record.layers) - 1)
    assert read([]) < one < every < read([]) + 1.2 * a_block
    assert read([EXAMPLES[3], EXAMPLES[5]]) == read([EXAMPLES[3]])


def test_without_attention_it_says_which_plans_have_it(folders, tmp_path):
    plan = tmp_path / "states.toml"
    plan.write_text('arrays = ["readout_states"]\n')
    run = small_run(folders["tiny_llava"], tmp_path, str(plan))
    with pytest.raises(NotKeptError, match=r"keeps no attention and no readout_attention: .* as suffix or readout"):
        image_attention(run, EXAMPLES)


def test_the_last_layer_is_the_last_that_the_run_keeps(folders, one_run, tmp_path):
    plan = tmp_path / "two.toml"
    plan.write_text('arrays = ["attention"]\nlayers = ["embed", "block_0", "block_2"]\n')
    run = small_run(folders["tiny_llava"], tmp_path, str(plan))
    found, wanted = image_attention(run, EXAMPLES), image_attention(one_run, EXAMPLES, "block_2")
    for example in EXAMPLES:
        np.testing.assert_array_equal(found[example], wanted[example])
    for layer in ("block_3", "embed"):
        with pytest.raises(UnknownNameError, match=f"no attention at layer {layer}; there are block_0, block_2$"):
            image_attention(run, EXAMPLES, layer)


def test_unknown_examples_and_reductions_are_refused(one_run):
    with pytest.raises(UnknownNameError, match="has no example tiny_pope/random/7; lake"):
        image_attention(one_run, [*EXAMPLES, "tiny_pope/random/7"])
    with pytest.raises(VlmlakeError, match="the reduction of the heads is 'median', expected mean or max"):
        image_attention(one_run, EXAMPLES, reduction="median")


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.0, "give the image nothing"), (float("nan"), "are not finite"), (float("inf"), "are not finite")],
)
def test_a_row_that_ranks_nothing_names_its_example(one_run, value, told):
    def damage(data: xr.Dataset) -> xr.Dataset:
        rows = data["attention"].load()
        rows.values[data.indexes["example"].get_loc(EXAMPLES[2]), -1, :, :, : data.sizes["prefix_token"]] = value
        return data.assign(attention=rows.chunk({"layer": 1}))

    damaged = changed(one_run, damage)
    with pytest.raises(VlmlakeError, match=f"attention rows of example {EXAMPLES[2]} at block_3 {told}"):
        image_attention(damaged, EXAMPLES)
    assert image_attention(damaged, EXAMPLES, "block_2").keys() == set(EXAMPLES)


def test_image_tokens_that_form_no_grid_are_refused(one_run):
    def damage(data: xr.Dataset) -> xr.Dataset:
        row = data["image_row"].load()
        row.values[row.values == 2] = 3
        return data.assign(image_row=row)

    with pytest.raises(VlmlakeError, match=r"the 36 image tokens of example tiny_pope/random/\d form no grid"):
        image_attention(changed(one_run, damage), EXAMPLES)


def swapped_cells(data: xr.Dataset) -> xr.Dataset:
    row, column = data["image_row"].load(), data["image_column"].load()
    return data.assign(image_row=column, image_column=row)


def changed(run: Run, change) -> Run:
    """The run as if its Dataset were another."""

    class Changed(Run):
        def dataset(self, raw: bool = False) -> xr.Dataset:
            return change(super().dataset(raw))

    return Changed(**{name: getattr(run, name) for name in ("storage", "record")})

import itertools
from pathlib import Path

import dask.array
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import xarray as xr
import zarr

from vlmlake import Lake, open_lake
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import paths, tables
from vlmlake.store_schema.arrays import shard_file
from vlmlake.store_schema.capture_plan import read_plan
from vlmlake.store_schema.commit import Commit


@pytest.fixture(scope="module")
def lake(lake_url) -> Lake:
    return open_lake(lake_url)


@pytest.fixture(scope="module")
def data(lake) -> xr.Dataset:
    return lake["tiny-llava"]


SPECS = read_plan("suffix").specs
"""What the shared run keeps."""


def test_runs_are_named_by_model_and_content(lake):
    (name,) = lake.runs
    model, _, digest = name.rpartition("-")
    assert model == "tiny-llava"
    assert len(digest) == 8
    assert int(digest, 16) >= 0
    assert list(lake) == [name]
    assert len(lake) == 1
    assert name in repr(lake)


def test_a_model_name_is_enough_where_it_is_the_only_run(lake):
    assert lake.run("tiny-llava").name == lake.runs[0]
    with pytest.raises(VlmlakeError, match=r"^no single run named qwen .*: there are tiny-llava-"):
        lake["qwen"]


def test_a_lake_is_a_mapping(lake):
    assert lake.runs[0] in lake
    assert "tiny-llava" in lake
    assert "qwen" not in lake
    assert lake.get("qwen", 1) == 1


def test_the_dataset_is_lazy_and_labelled(data):
    for spec in SPECS:
        assert isinstance(data[spec.name].data, dask.array.Array), spec.name
        assert data[spec.name].dims == spec.dimensions
    assert data["layer"].values.tolist() == ["embed", "block_0", "block_1", "block_2", "block_3"]
    assert data["position"].values.tolist() == ["prompt_last", "answer_0", "answer_1", "answer_2"]
    assert data.indexes["example"].is_unique
    assert data.sizes["example"] == 480
    one = data["hidden_states"].sel(layer="block_2", example="shapes_pope/random/7")
    assert one.dims == ("token", "hidden")


def test_variables_come_in_the_order_of_the_schema(data):
    assert list(data.data_vars) == [spec.name for spec in SPECS]


def test_a_task_reads_one_layer_of_whole_batches(data, lake):
    extents = lake.run("tiny-llava").record.extents
    rows = {
        "hidden_states": lake.run("tiny-llava").examples()["row"].to_numpy(),
        "prefix_states": data["prefix"].values,
    }
    for name, held in (("hidden_states", extents.example_rows), ("prefix_states", extents.prefix_rows)):
        ends = np.cumsum((0, *data[name].chunks[0]))
        read = [set(rows[name][start:end] // held) for start, end in itertools.pairwise(ends)]
        assert all(read)
        assert sum(map(len, read)) == len(set.union(*read)) == extents.batches
        assert set(data[name].chunks[1]) == {1}
        assert len(data[name].chunks[2]) == 1


def test_floats_are_read_as_float32_and_kept_raw_on_demand(data, lake):
    raw = lake.run("tiny-llava").dataset(raw=True)
    for spec in SPECS:
        if spec.is_float:
            assert data[spec.name].dtype == np.float32
            assert raw[spec.name].dtype == np.float16
        else:
            assert data[spec.name].dtype == raw[spec.name].dtype
    assert np.isfinite(data["logits"].sel(position="prompt_last").mean().compute())


def test_every_example_points_at_the_prefix_of_its_image(data):
    images = data["image"].values
    prefixes = data["prefix_of"].values
    assert (
        len(set(zip(images, prefixes, strict=True))) == len(set(images)) == len(set(prefixes)) == data.sizes["prefix"]
    )
    chosen = data["prefix_states"].sel(prefix=data["prefix_of"].isel(example=[0, 479]))
    assert chosen.dims == ("example", "layer", "prefix_token", "hidden")


def test_examples_that_ask_the_same_of_the_same_image_have_one_row(data, lake):
    examples = lake.run("tiny-llava").examples()
    pairs = examples.select("image_sha256", "question").n_unique()
    assert examples["row"].n_unique() == pairs == lake.run("tiny-llava").record.rows < examples.height
    assert examples.select("row", "image_sha256", "question").n_unique() == pairs
    (first, *_, last) = examples.filter(pl.col("row") == examples["row"].mode()[0])["example"]
    assert first != last
    for name in ("readout_states", "token_id"):
        np.testing.assert_array_equal(data[name].sel(example=first), data[name].sel(example=last))
    golds = examples.group_by("row").agg(pl.col("gold").n_unique())
    assert set(golds["gold"]) == {1}


def test_the_tree_holds_all_runs(lake):
    tree = lake.tree()
    assert set(tree.children) == set(lake.runs)
    assert tree[lake.runs[0]]["hidden_states"].dims == ("example", "layer", "token", "hidden")


def test_tables_come_as_polars_with_one_row_per_example(lake):
    examples, answers = lake.table("examples"), lake.table("answers")
    assert isinstance(examples, pl.DataFrame)
    assert examples.height == answers.height == 480
    assert examples.join(answers, on=["run", "example"]).height == 480
    assert examples["image_sha256"].n_unique() == 40
    assert set(examples["run"]) == set(lake.runs)
    assert lake.table("skipped").is_empty()
    with pytest.raises(VlmlakeError, match=r"no table named nope: there are examples, .*, samples, skipped, results"):
        lake.table("nope")


def test_samples_are_rows_of_their_own_two_for_every_example(lake):
    samples = lake.table("samples")
    assert samples.columns == tables.SAMPLES.names
    assert samples.height == 2 * 480
    assert samples.group_by("example").agg(pl.col("sample").sort())["sample"].to_list() == [[0, 1]] * 480
    assert samples.equals(lake.run("tiny-llava").samples())
    assert (samples["token_ids"].list.len() == samples["log_probs"].list.len()).all()
    ended = samples["token_ids"].list.len() - samples["answer_tokens"]
    assert ((samples["finish"] == "stop").cast(pl.UInt32) == ended).all()


def test_tokens_of_an_unknown_example_are_refused(lake):
    with pytest.raises(VlmlakeError, match="has no example nope"):
        lake.run("tiny-llava").tokens("nope")


def test_one_batch_is_one_object_of_every_array(lake):
    run = lake.run("tiny-llava")
    for spec in run.record.batch_specs:
        folder = f"{paths.arrays(run.name)}/{spec.name}"
        found = set(lake.storage.files(folder)) - {f"{folder}/zarr.json"}
        assert found == {shard_file(run.record, spec, number) for number in range(run.record.extents.batches)}


def test_no_chunk_is_written_for_padding(lake):
    """Answers have one token here: the readouts of answer_1 and answer_2 take no space."""
    run = lake.run("tiny-llava")
    group = zarr.open_group(str(Path(lake.url) / paths.arrays(run.name)), mode="r")
    full = group["readout_states"].nbytes
    assert lake.run("tiny-llava").array_bytes()["readout_states"] < 0.6 * full


def test_commits_record_the_largest_value_of_every_array(lake, data):
    run = lake.run("tiny-llava")
    path = paths.batch(run.name, 0)
    commit = Commit.decode(lake.storage.read(path), run.name, 0, path)
    first = data.sel(example=run.examples().filter(batch=0)["example"].to_numpy())
    for name in ("hidden_states", "logits", "attn_write"):
        largest = float(abs(first[name]).max())
        assert max(commit.shards[name].largest) == largest, name


def test_the_largest_values_of_a_run_are_those_of_its_arrays_by_layer(lake, data):
    largest = {(array, layer): value for array, layer, value in lake.run("tiny-llava").largest().iter_rows()}
    for name in ("hidden_states", "prefix_states", "attention", "attn_write", "image_update"):
        values = np.abs(data[name].values)
        for number, layer in enumerate(data["layer"].values.tolist()):
            there = values[:, number][np.isfinite(values[:, number])]
            assert largest[name, layer] == there.max(initial=0), (name, layer)
    assert largest["logits", None] == np.nanmax(np.abs(data["logits"].values))


def test_tables_come_as_arrow_too(lake):
    for name in ("examples", "answers", "skipped", "results"):
        assert isinstance(lake.arrow(name), pa.Table)
        assert lake.table(name).equals(pl.from_arrow(lake.arrow(name)))
    assert lake.arrow("batches").schema.equals(tables.BATCH)


def test_findings_of_a_run_are_the_same_where_nothing_can_be_listed(lake_url, monkeypatch):
    run = open_lake(lake_url).run("tiny-llava")
    rows, digest = run.findings("outcomes"), run.findings_digest("outcomes")
    assert set(rows["run"]) == {run.name}
    assert rows.height == open_lake(lake_url).table("outcomes").height > 0
    monkeypatch.setattr(type(run.storage), "listable", False)
    assert run.findings("outcomes").equals(rows)
    assert run.findings_digest("outcomes") == digest

"""A copy holds the same values, whatever was selected, and going on with one that was cut off copies the rest."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from tests.servers import FileServer
from tests.store_schema.toy_runs import commit, toy_record, toy_run
from vlmlake import open_lake
from vlmlake.errors import DamagedError, UnknownNameError, VlmlakeError
from vlmlake.store_schema import copying, paths
from vlmlake.store_schema.arrays import shard_file
from vlmlake.store_schema.commits import look
from vlmlake.store_schema.copying import copy_run
from vlmlake.store_schema.finish import finish, is_finished
from vlmlake.store_schema.leftovers import find_leftovers
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.schema import ALWAYS
from vlmlake.store_schema.selection import Selection
from vlmlake.store_schema.storage import Storage

SELECTIONS = {
    "one layer": Selection(layers=("block_1",)),
    "layers in another order": Selection(layers=("block_1", "embed")),
    "some arrays": Selection(arrays=("readout_states", "image_update")),
    "one example": Selection(examples=("e13",)),
    "examples of two batches that share a row": Selection(examples=("e24", "e03", "e23")),
    "all at once": Selection(("hidden_states", "attention"), ("block_0",), ("e00", "e12", "e14")),
    "everything by name": Selection(layers=("embed", "block_0", "block_1")),
}


def selected(source: xr.Dataset, selection: Selection) -> xr.Dataset:
    """The same selection as xarray makes it; examples in the order of the source."""
    kept = source
    if selection.arrays is not None:
        kept = kept.drop_vars([name for name in source.data_vars if name not in (*selection.arrays, *ALWAYS)])
    if selection.layers is not None:
        kept = kept.isel(layer=[place for place, one in enumerate(source["layer"].values) if one in selection.layers])
    if selection.examples is not None:
        kept = kept.isel(example=np.isin(source["example"].values, selection.examples))
        kept = kept.sel(prefix=np.unique(kept["prefix_of"]))
    return kept


def assert_same(ours: xr.Dataset, wanted: xr.Dataset) -> None:
    """Equal bits, equal coordinates; rows and prefixes may be numbered otherwise, each example keeps its own."""
    assert set(ours.variables) == set(wanted.variables)
    for name in wanted.variables:
        if name in ("prefix", "prefix_of", "row"):
            continue
        ours_there, wanted_there = ours[name].values, wanted[name].values
        assert ours_there.dtype == wanted_there.dtype, name
        assert ours_there.shape == wanted_there.shape, name
        if ours_there.dtype.kind == "O" or ours_there.dtype.kind in "UT":
            assert ours_there.tolist() == wanted_there.tolist(), name
        else:
            assert ours_there.tobytes() == wanted_there.tobytes(), name
    ranks = [np.unique(one["row"], return_inverse=True)[1].tolist() for one in (ours, wanted)]
    assert ranks[0] == ranks[1]
    for one in (ours, wanted):
        assert set(np.unique(one["prefix_of"])) == set(one["prefix"].values)
    places = [np.searchsorted(one["prefix"].values, one["prefix_of"].values).tolist() for one in (ours, wanted)]
    assert places[0] == places[1]


def assert_passes(run: Run) -> None:
    """Everything that a run which was extracted passes."""
    state = look(run.storage, run.record, fresh=True)
    assert len(state.committed) == run.record.extents.batches
    assert not state.broken
    assert not state.begun
    finish(run.storage, run.record)
    assert run.largest()["largest"].is_finite().all()
    assert find_leftovers(run.storage, older_than=0) == ()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return toy_run(str(tmp_path_factory.mktemp("source")))


def files_of(run) -> dict[str, bytes]:
    return {path: run.storage.read(path) for path in run.storage.files(f"{paths.RUNS}/{run.name}")}


def test_all_of_a_run_keeps_its_name_and_every_byte(source, tmp_path):
    copied = copy_run(source, str(tmp_path))
    assert (copied.run, copied.examples, copied.batches, copied.copied) == (source.name, 15, 3, 3)
    assert copied.finished
    there = open_lake(str(tmp_path)).run(source.name)
    assert there.record == source.record
    assert files_of(there) == files_of(source)
    assert_passes(there)
    assert there.skipped()["example"].to_list() == ["torn"]
    assert copied.read > sum(source.array_bytes().values())
    assert copied.written >= sum(len(content) for content in files_of(there).values())


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_selection_equals_what_xarray_selects(source, tmp_path, name):
    selection = SELECTIONS[name]
    copied = copy_run(source, str(tmp_path), selection)
    there = open_lake(str(tmp_path)).run(copied.run)
    for raw in (True, False):
        wanted = selected(source.dataset(raw=raw), selection)
        assert_same(there.dataset(raw=raw), wanted)
    assert_passes(there)
    assert copied.run != source.name
    assert copied.examples == there.record.examples == wanted.sizes["example"]
    assert copied.finished
    assert is_finished(there.storage, there.name)
    assert there.vocabulary == source.vocabulary
    assert not len(there.skipped())
    rows = there.examples()
    assert rows["row"].n_unique() == there.record.rows
    assert there.samples().height == wanted.sizes["example"]
    assert there.tokens(wanted["example"].values[0]).equals(source.tokens(wanted["example"].values[0]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_other_dtypes_are_copied_bit_by_bit(tmp_path, dtype):
    run = toy_run(str(tmp_path / "source"), toy_record(dtype))
    selection = SELECTIONS["all at once"]
    copied = copy_run(run, str(tmp_path / "target"), selection)
    there = open_lake(str(tmp_path / "target")).run(copied.run)
    assert_same(there.dataset(raw=True), selected(run.dataset(raw=True), selection))


def test_only_rows_and_prefixes_of_the_chosen_are_kept(source, tmp_path):
    copied = copy_run(source, str(tmp_path), SELECTIONS["examples of two batches that share a row"])
    record = open_lake(str(tmp_path)).run(copied.run).record
    assert (record.extents.batches, record.extents.example_rows, record.extents.prefix_rows) == (2, 1, 1)
    assert (record.examples, record.rows) == (3, 2)


def test_a_copy_of_a_copy_equals_a_copy(source, tmp_path):
    first = copy_run(source, str(tmp_path / "first"), Selection(layers=("block_0", "block_1")))
    middle = open_lake(str(tmp_path / "first")).run(first.run)
    second = copy_run(middle, str(tmp_path / "second"), Selection(("attention",), ("block_1",), ("e01", "e22")))
    there = open_lake(str(tmp_path / "second")).run(second.run)
    wanted = selected(source.dataset(raw=True), Selection(("attention",), ("block_1",), ("e01", "e22")))
    assert_same(there.dataset(raw=True), wanted)
    assert len({source.name, first.run, second.run}) == 3
    assert there.record.identity["copied"]["from"] == first.run
    whole = copy_run(there, str(tmp_path / "third"))
    assert whole.run == second.run


def test_the_same_selection_is_the_same_run_whatever_its_order(source, tmp_path):
    one = copy_run(source, str(tmp_path), Selection(examples=("e00", "e21")))
    two = copy_run(source, str(tmp_path), Selection(examples=("e21", "e00", "e00")))
    assert (two.run, two.copied) == (one.run, 0)
    assert copy_run(source, str(tmp_path), Selection(examples=("e00",))).run != one.run


def test_into_the_same_lake_a_selection_lies_beside_its_source(tmp_path):
    run = toy_run(str(tmp_path))
    copied = copy_run(run, str(tmp_path), Selection(layers=("block_0",)))
    assert set(open_lake(str(tmp_path)).runs) == {run.name, copied.run}
    assert copy_run(run, str(tmp_path)).copied == 0


def test_a_run_on_its_way_is_copied_as_far_as_it_is_and_then_the_rest(tmp_path):
    run = toy_run(str(tmp_path / "source"), numbers=(0, 2))
    target = str(tmp_path / "target")
    first = copy_run(run, target)
    assert (first.batches, first.finished) == (2, False)
    there = open_lake(target).run(run.name)
    assert not is_finished(there.storage, there.name)
    assert_same(there.dataset(raw=True), run.dataset(raw=True))
    commit(run.storage, run.record, 1)
    second = copy_run(run, target)
    assert (second.batches, second.copied, second.finished) == (3, 1, True)
    assert_same(open_lake(target)[run.name], run.dataset())


@pytest.mark.parametrize("selection", [Selection(), SELECTIONS["one layer"]], ids=["all", "one layer"])
def test_what_was_cut_off_is_gone_on_with(source, tmp_path, monkeypatch, selection):
    calls = []

    def cut(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    name = "_put_shards" if selection.everything else "_put_part"
    whole = getattr(copying, name)
    with monkeypatch.context() as patched:
        patched.setattr(copying, name, cut)
        with pytest.raises(KeyboardInterrupt):
            copy_run(source, str(tmp_path), selection)
    done = copy_run(source, str(tmp_path), selection)
    assert (done.batches, done.copied, done.finished) == (3, 2, True)
    there = open_lake(str(tmp_path)).run(done.run)
    assert_same(there.dataset(raw=True), selected(source.dataset(raw=True), selection))
    assert copy_run(source, str(tmp_path), selection).copied == 0


def test_a_broken_batch_of_the_target_is_copied_again(source, tmp_path):
    copy_run(source, str(tmp_path))
    target = Storage.at(str(tmp_path))
    target.delete(shard_file(source.record, source.record.batch_specs[0], 1))
    done = copy_run(source, str(tmp_path))
    assert (done.copied, done.finished) == (1, True)
    assert files_of(replace(source, storage=target)) == files_of(source)


@pytest.mark.parametrize("change", ["bit", "cut", "gone"])
def test_a_damaged_shard_is_not_copied_and_named(tmp_path, change):
    run = toy_run(str(tmp_path / "source"))
    path = shard_file(run.record, run.record.batch_specs[0], 1)
    content = bytearray(run.storage.read(path))
    content[5] ^= 1
    commits = look(run.storage, run.record).committed
    if change == "bit":
        run.storage.write(path, bytes(content))
        with pytest.raises(DamagedError, match=rf"batch 1 of {run.name} .*hidden_states/c.1.0.0.0 is not what"):
            copy_run(run, str(tmp_path / "target"))
        assert open_lake(str(tmp_path / "target")).run(run.name).batches_done == 1
        with pytest.raises(DamagedError, match="hidden_states of batch 1"):
            copy_run(run, str(tmp_path / "target"), Selection(arrays=("hidden_states",)))
        return
    if change == "cut":
        run.storage.write(path, bytes(content[:-1]))
    else:
        run.storage.delete(path)
    assert 1 in commits
    assert copy_run(run, str(tmp_path / "target")).finished is False
    told = "is not what its commit says" if change == "cut" else "is missing"
    with pytest.raises(DamagedError, match=rf"is damaged: {path} {told}; `vlmlake verify` says"):
        copying._put_shards(run, commits[1], Storage.at(str(tmp_path / "target")))


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(arrays=("logits", "logit")), r"run toy-\w+ has no array logit: there are hidden_states, .* and 12"),
        (Selection(layers=("block_9",)), r"has no layer block_9: there are embed, block_0, block_1$"),
        (Selection(examples=("e00", "e99")), r"has no example e99: there are e00, e01, .* and 5 more"),
    ],
)
def test_names_that_are_not_there_are_refused_before_anything_is_written(source, tmp_path, selection, message):
    with pytest.raises(UnknownNameError, match=message):
        copy_run(source, str(tmp_path / "target"), selection)
    assert not (tmp_path / "target").exists()


def test_no_example_is_no_run(source, tmp_path):
    with pytest.raises(VlmlakeError, match=r"nothing to copy: no example of run toy-\w+ is chosen, of 15"):
        copy_run(source, str(tmp_path / "target"), Selection(examples=()))


def test_a_target_of_another_plan_is_refused(source, tmp_path):
    toy_run(str(tmp_path), toy_record(examples=14))
    with pytest.raises(VlmlakeError, match="was planned otherwise"):
        copy_run(source, str(tmp_path))


@pytest.fixture(scope="module")
def web(source):
    """Address of the source lake on a web server."""
    with FileServer(source.storage.root) as server:
        yield server.url


@pytest.mark.parametrize("selection", [Selection(), SELECTIONS["all at once"]], ids=["all", "some"])
def test_from_a_web_server(source, web, tmp_path, selection):
    copied = copy_run(open_lake(web).run("toy"), str(tmp_path), selection)
    there = open_lake(str(tmp_path)).run(copied.run)
    assert_same(there.dataset(raw=True), selected(source.dataset(raw=True), selection))
    if selection.everything:
        assert files_of(there) == files_of(source)
    with pytest.raises(VlmlakeError, match="is a web address"):
        copy_run(source, web, selection)


def test_two_that_copy_at_once_end_with_one_run(source, tmp_path):
    selection = Selection(layers=("block_0", "block_1"))
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: copy_run(source, str(tmp_path), selection), range(4)))
    assert {one.run for one in done} == {done[0].run}
    there = open_lake(str(tmp_path)).run(done[0].run)
    assert_same(there.dataset(raw=True), selected(source.dataset(raw=True), selection))
    assert is_finished(there.storage, there.name)


def test_through_memory_and_back(source):
    target = "memory://copied/lake"
    copied = copy_run(source, target, SELECTIONS["all at once"])
    there = open_lake(target).run(copied.run)
    assert_same(there.dataset(raw=True), selected(source.dataset(raw=True), SELECTIONS["all at once"]))

import zlib
from dataclasses import replace

import numpy as np
import pytest
import zarr

from tests.store_schema.toy import EVERY_ARRAY, EXTENTS, batch, by_us, by_zarr, commit, new_run, once, record, wanted
from vlmlake.errors import DamagedError, VlmlakeError
from vlmlake.store_schema import paths
from vlmlake.store_schema.arrays import shard_file, write_batch, write_once
from vlmlake.store_schema.commits import run_exists, visible
from vlmlake.store_schema.metadata import documents, finished_group, write_documents
from vlmlake.store_schema.run_record import RunRecord, read_record
from vlmlake.store_schema.schema import ALWAYS
from vlmlake.store_schema.storage import Storage


@pytest.fixture
def storage(tmp_path):
    return Storage.at(str(tmp_path))


def same(found: np.ndarray, there: np.ndarray) -> bool:
    return np.array_equal(found.view(np.uint8), there.view(np.uint8))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_what_was_written_is_read_back_in_its_rows(storage, dtype):
    planned = record(dtype)
    write_documents(storage, planned)
    arrays = batch()
    write_batch(storage, planned, 1, arrays)
    again = by_zarr(storage, planned)
    for spec in planned.batch_specs:
        rows = EXTENTS.shard(spec.dimensions[0])
        stored = again[spec.name]
        assert stored.dtype == spec.dtype(dtype)
        assert same(stored[rows : 2 * rows], arrays[spec.name].astype(stored.dtype))
        for other in (stored[:rows], stored[2 * rows :]):
            assert np.isnan(other).all() if spec.is_float else (other == -1).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_our_reader_gives_the_committed_batches_one_after_the_other(storage, dtype):
    planned = new_run(storage, record(dtype))
    first, last = commit(storage, planned, 0, seed=1), commit(storage, planned, 2, seed=2)
    for spec in planned.batch_specs:
        stored = by_us(storage, planned, spec.name)
        parts = np.split(stored[:], 2)
        assert stored.shape == (2 * EXTENTS.shard(spec.dimensions[0]), *parts[0].shape[1:])
        for part, arrays in zip(parts, (first, last), strict=True):
            assert same(part, wanted(planned, arrays, spec.name)), spec.name
    np.testing.assert_array_equal(by_us(storage, planned, "unembedding")[:], once()["unembedding"])


def test_floats_become_float32_unless_they_are_wanted_as_they_are(storage):
    planned = new_run(storage, record("bfloat16"))
    commit(storage, planned, 0)
    as_they_are, easy = by_us(storage, planned, "logits"), by_us(storage, planned, "logits", raw=False)
    assert (as_they_are.dtype.name, easy.dtype) == ("bfloat16", np.float32)
    np.testing.assert_array_equal(easy[1], as_they_are[1].astype(np.float32))
    assert by_us(storage, planned, "token_id", raw=False).dtype == np.int32


def test_a_short_batch_leaves_the_rest_unwritten(storage):
    write_documents(storage, record())
    write_batch(storage, record(), 2, batch(examples=3, prefixes=1, tokens=16))
    states = by_zarr(storage, record())["hidden_states"]
    assert np.isfinite(states[8:11, :, :16]).all()
    assert np.isnan(states[8:11, :, 16:]).all()
    assert np.isnan(states[11:]).all()


@pytest.mark.parametrize(
    "left", [{"tokens": 20}, {"tokens": 18, "examples": 4}, {"examples": 2, "prefixes": 1, "tokens": 5}]
)
def test_what_an_interrupted_writer_left_never_shows_through(storage, left, tmp_path_factory):
    """The leftover is longer, or shorter, than what is written over it."""
    arrays = batch(examples=3, prefixes=1, tokens=9)
    arrays["logits"] = arrays["logits"][:, :2]
    arrays["readout_states"] = arrays["readout_states"][:, :, :2]
    clean = Storage.at(str(tmp_path_factory.mktemp("clean")))
    for place in (storage, clean):
        write_documents(place, record())
    write_batch(storage, record(), 1, batch(**left, seed=5))
    for place in (storage, clean):
        write_batch(place, record(), 1, arrays)
    ours, there = by_zarr(storage, record()), by_zarr(clean, record())
    for spec in record().batch_specs:
        np.testing.assert_array_equal(ours[spec.name][...], there[spec.name][...])


def test_a_value_beyond_float16_fails_the_batch_by_name(storage):
    arrays = batch()
    arrays["logits"][2, 1, 5] = -70000.0
    with pytest.raises(VlmlakeError, match=r"logits of batch 1 holds a value of size 70000.*--dtype bfloat16 or float"):
        write_batch(storage, record(), 1, arrays)
    assert not storage.names(f"{paths.arrays(record().name)}/logits")
    for dtype, largest in (("float32", 70000.0), ("bfloat16", 70144.0)):
        assert write_batch(storage, record(dtype), 1, arrays)["logits"].largest == (largest,)


def test_arrays_that_do_not_fit_the_plan_are_refused(storage):
    arrays = batch()
    arrays["logits"] = np.zeros((4, 3, 12), np.float32)
    with pytest.raises(ValueError, match=r"logits of batch 0 has shape \(4, 3, 12\), the plan has \(4, 3, 11\)"):
        write_batch(storage, record(), 0, arrays)


def test_what_is_said_of_a_shard_is_what_lies_there(storage):
    arrays = batch(seed=3)
    facts = write_batch(storage, record(), 1, arrays)
    for spec in record().batch_specs:
        content = storage.read(shard_file(record(), spec, 1))
        assert (facts[spec.name].bytes, facts[spec.name].crc32) == (len(content), zlib.crc32(content))
        values = np.abs(arrays[spec.name].astype(spec.dtype("float16")).astype(np.float64))
        if spec.is_float and "layer" in spec.dimensions:
            others = tuple(axis for axis, dimension in enumerate(spec.dimensions) if dimension != "layer")
            assert facts[spec.name].largest == tuple(values.max(axis=others))
        elif spec.is_float:
            assert facts[spec.name].largest == (values.max(),)


def test_laying_out_again_keeps_what_is_there(storage):
    planned = new_run(storage, record())
    commit(storage, planned, 0)
    before = storage.files(".")
    new_run(storage, planned)
    assert storage.files(".") == before
    assert np.isfinite(by_zarr(storage, planned)["hidden_states"][:4]).all()
    assert list(visible(storage, planned)) == [0]


def test_a_run_planned_otherwise_is_not_taken_up(storage):
    planned = new_run(storage, record())
    other = replace(planned, extents=replace(EXTENTS, hidden=9))
    assert run_exists(storage, planned)
    assert not run_exists(storage, replace(planned, model="gone"))
    with pytest.raises(VlmlakeError, match=r"run toy-\w+ of .* was planned otherwise, .*remove runs/toy"):
        run_exists(storage, other)


def test_of_two_that_lay_out_a_run_differently_at_once_the_later_is_refused(storage):
    planned = new_run(storage, record())
    with pytest.raises(VlmlakeError, match="was planned otherwise"):
        new_run(storage, replace(planned, extents=replace(EXTENTS, hidden=9)))
    assert read_record(storage, planned.name) == planned


def test_our_reader_needs_no_zarr_metadata_and_names_a_missing_shard(storage, tmp_path):
    planned = new_run(storage, record())
    commit(storage, planned, 0)
    folder = tmp_path / "runs" / planned.name / "arrays.zarr"
    (folder / "logits" / "zarr.json").write_text("{")
    (folder / "zarr.json").unlink()
    stored = by_us(storage, planned, "logits")
    assert np.isfinite(stored[:]).all()
    (folder / "logits" / "c.0.0.0").unlink()
    with pytest.raises(
        DamagedError, match=rf"logits of batch 0 of {planned.name} is damaged: its shard is missing .*c\.0\.0\.0"
    ):
        stored[:]


def test_zarr_metadata_is_the_same_each_time_and_consolidated_when_finished(storage):
    planned = record("bfloat16")
    assert documents(planned) == documents(planned)
    path, content = finished_group(planned)
    assert finished_group(planned) == (path, content)
    assert content != documents(planned)[path]
    write_documents(storage, planned)
    storage.write(path, content)
    group = zarr.open_consolidated(str(storage.full(paths.arrays(planned.name))))
    assert set(group) == set(planned.arrays)


def test_a_run_has_the_arrays_that_its_plan_keeps_and_no_others(storage, tmp_path):
    kept = (*ALWAYS, "readout_states", "logits")
    few = record(arrays=kept)
    write_documents(storage, few)
    write_once(storage, few, once())
    facts = write_batch(storage, few, 0, batch())
    folder = tmp_path / "runs" / few.name / "arrays.zarr"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set(kept)
    assert set(by_zarr(storage, few)) == set(kept)
    assert set(facts) == {name for name in kept if name not in ("unembedding", "final_norm")}
    with pytest.raises(KeyError, match="hidden_states"):
        write_batch(storage, replace(few, arrays=EVERY_ARRAY), 0, {name: batch()[name] for name in facts})


def test_records_survive_json():
    planned = replace(record(), identity={"plan": {"name": "suffix"}})
    assert RunRecord.from_json(planned.to_json()) == planned


def test_only_a_web_server_is_asked_to_count_from_the_end_of_a_file(storage, monkeypatch):
    planned = new_run(storage, record())
    asked, read_spans = [], Storage.read_spans
    monkeypatch.setattr(Storage, "read_spans", lambda self, spans: asked.extend(spans) or read_spans(self, spans))
    np.testing.assert_array_equal(by_us(storage, planned, "unembedding")[:], once()["unembedding"])
    assert asked
    assert all(start >= 0 for _, start, _ in asked)


def test_an_array_that_the_run_shares_is_said_to_be_missing(storage):
    planned = new_run(storage, record())
    (spec,) = (spec for spec in planned.specs if spec.name == "unembedding")
    storage.delete(shard_file(planned, spec, 0))
    with pytest.raises(DamagedError, match=r"^unembedding of .* is damaged: its shard is missing"):
        by_us(storage, planned, "unembedding")[:]

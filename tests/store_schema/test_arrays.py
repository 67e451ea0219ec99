from dataclasses import replace

import numpy as np
import pytest

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.arrays import allocate, open_arrays, write_batch
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ALWAYS, ARRAYS, Extents, layer_names, position_names
from vlmlake.store_schema.storage import Storage

EXTENTS = Extents(
    batches=3,
    example_rows=4,
    prefix_rows=2,
    layers=3,
    heads=2,
    tokens=20,
    prefix_tokens=10,
    positions=3,
    hidden=8,
    vocab=11,
)


EVERY_ARRAY = tuple(spec.name for spec in ARRAYS)


def record(dtype="float16", arrays=EVERY_ARRAY) -> RunRecord:
    return RunRecord(
        model="toy",
        identity={"dtype": dtype, "arrays": arrays},
        examples=15,
        rows=12,
        extents=EXTENTS,
        stored_dtype=dtype,
        arrays=arrays,
        layers=layer_names(2),
        positions=position_names(2),
        final_norm={},
        versions={},
    )


def batch(examples=4, prefixes=2, tokens=20, seed=0) -> dict[str, np.ndarray]:
    """Random arrays of one batch, `tokens` long."""
    rng = np.random.default_rng(seed)
    arrays = {}
    lengths = {"example": examples, "prefix": prefixes, "token": tokens, "query": tokens, "key": 10 + tokens}
    for spec in record().batch_specs:
        shape = [lengths.get(dimension, EXTENTS.shard(dimension)) for dimension in spec.dimensions]
        is_float = spec.is_float
        arrays[spec.name] = rng.normal(size=shape).astype(np.float32) if is_float else rng.integers(0, 3, shape)
    return arrays


def write(storage: Storage, planned: RunRecord, number: int, arrays: dict[str, np.ndarray]) -> dict[str, float]:
    return write_batch(storage, planned, number, arrays)[0]


@pytest.fixture
def storage(tmp_path):
    return Storage.at(str(tmp_path))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_was_written_is_read_back_in_its_rows(storage, dtype):
    allocate(storage, record(dtype))
    arrays = batch()
    write(storage, record(dtype), 1, arrays)
    again = open_arrays(storage, record(dtype))
    for spec in record(dtype).batch_specs:
        rows = EXTENTS.shard(spec.dimensions[0])
        stored = again[spec.name]
        assert stored.dtype == spec.dtype(dtype)
        np.testing.assert_array_equal(stored[rows : 2 * rows], arrays[spec.name].astype(stored.dtype))
        for other in (stored[:rows], stored[2 * rows :]):
            assert np.isnan(other).all() if spec.is_float else (other == -1).all()


def test_a_short_batch_leaves_the_rest_unwritten(storage):
    group = allocate(storage, record())
    write(storage, record(), 2, batch(examples=3, prefixes=1, tokens=16))
    states = group["hidden_states"]
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
        allocate(place, record())
    write(storage, record(), 1, batch(**left, seed=5))
    for place in (storage, clean):
        write(place, record(), 1, arrays)
    ours, wanted = open_arrays(storage, record()), open_arrays(clean, record())
    for spec in record().batch_specs:
        np.testing.assert_array_equal(ours[spec.name][...], wanted[spec.name][...])


def test_a_value_beyond_float16_fails_the_batch_by_name(storage):
    arrays = batch()
    arrays["logits"][2, 1, 5] = -70000.0
    allocate(storage, record())
    with pytest.raises(VlmlakeError, match=r"logits of batch 1 holds a value of size 70000.*--dtype float32"):
        write(storage, record(), 1, arrays)
    allocate(storage, record("float32"))
    assert write(storage, record("float32"), 1, arrays)["logits"] == 70000.0


def test_arrays_that_do_not_fit_the_plan_are_refused(storage):
    arrays = batch()
    arrays["logits"] = np.zeros((4, 3, 12), np.float32)
    allocate(storage, record())
    with pytest.raises(ValueError, match=r"logits of batch 0 has shape \(4, 3, 12\), the plan has \(4, 3, 11\)"):
        write(storage, record(), 0, arrays)


def test_allocating_again_keeps_what_is_there(storage):
    allocate(storage, record())
    write(storage, record(), 0, batch())
    before = allocate(storage, record())["hidden_states"][:4]
    assert np.isfinite(before).all()


def test_allocating_over_another_layout_is_refused(storage):
    allocate(storage, record())
    other = replace(record(), extents=replace(EXTENTS, hidden=9))
    with pytest.raises(VlmlakeError, match=r"hidden_states of the unfinished run toy-\w+ has .*remove runs/toy"):
        allocate(storage, other)


def test_a_run_without_arrays_is_named(storage):
    gone = replace(record(), model="gone")
    with pytest.raises(VlmlakeError, match=r"run gone-\w+ of .* has no arrays"):
        open_arrays(storage, gone)


def test_a_missing_array_and_damaged_metadata_are_named(storage, tmp_path):
    allocate(storage, record())
    folder = tmp_path / "runs" / record().name / "arrays.zarr"
    (folder / "logits" / "zarr.json").write_text("{")
    with pytest.raises(VlmlakeError, match=r"the metadata in .* is damaged"):
        open_arrays(storage, record())
    (folder / "logits" / "zarr.json").unlink()
    with pytest.raises(VlmlakeError, match="lacks the arrays logits"):
        open_arrays(storage, record())


def test_a_run_has_the_arrays_that_its_plan_keeps_and_no_others(storage, tmp_path):
    kept = (*ALWAYS, "readout_states", "logits")
    few = record(arrays=kept)
    allocate(storage, few)
    largest = write(storage, few, 0, batch())
    folder = tmp_path / "runs" / few.name / "arrays.zarr"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set(kept)
    assert set(open_arrays(storage, few)) == set(kept)
    assert set(largest) == {"readout_states", "logits"}
    with pytest.raises(VlmlakeError, match="lacks the arrays hidden_states, prefix_states, attention, attn_write"):
        open_arrays(storage, replace(few, arrays=EVERY_ARRAY))


def test_records_survive_json():
    planned = replace(record(), identity={"plan": {"name": "suffix"}})
    assert RunRecord.from_json(planned.to_json()) == planned

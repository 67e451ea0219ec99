"""A writer that dies at any operation: what is visible is what was committed, and a rerun completes it."""

from __future__ import annotations

from contextlib import suppress
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store_schema.toy import batch, by_us, once, record, rows, wanted
from tests.store_schema.turns import Died, dies_after
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.commits import commit_batch, create_run, look, run_exists, visible, withdraw
from vlmlake.store_schema.finish import finish, is_finished
from vlmlake.store_schema.index import written_index
from vlmlake.store_schema.lake import create_lake, open_lake
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ARRAYS, ONCE_ARRAYS, Extents
from vlmlake.store_schema.storage import Storage

ONCE = tuple(spec.name for spec in ONCE_ARRAYS)
CHOICE = tuple(spec.name for spec in ARRAYS if not spec.once)


@st.composite
def plans(draw) -> RunRecord:
    lengths = {name: draw(st.integers(1, 4)) for name in ("layers", "heads", "tokens", "prefix_tokens", "positions")}
    extents = Extents(
        batches=draw(st.integers(1, 3)),
        example_rows=draw(st.integers(1, 3)),
        prefix_rows=draw(st.integers(1, 3)),
        hidden=draw(st.integers(1, 6)),
        vocab=draw(st.integers(1, 6)),
        **lengths,
    )
    kept = draw(st.lists(st.sampled_from(CHOICE), min_size=1, max_size=4, unique=True))
    dtype = draw(st.sampled_from(["float16", "bfloat16", "float32"]))
    return record(dtype, (*(name for name in CHOICE if name in kept), *ONCE), extents)


def some_of(planned: RunRecord, number: int, lengths: tuple[int, ...]) -> dict[str, np.ndarray]:
    """A batch's arrays, as long as they are drawn."""
    extents = planned.extents
    examples, prefixes, tokens = (
        1 + drawn % there
        for drawn, there in zip(lengths, (extents.example_rows, extents.prefix_rows, extents.tokens), strict=True)
    )
    return batch(examples, prefixes, tokens, seed=number, extents=extents)


def run_through(storage: Storage, planned: RunRecord, contents: list[dict[str, np.ndarray]], log: list[int]) -> None:
    """A pass as `extract` makes it. log: gets the number of every batch once its commit returned."""
    create_lake(storage.address)
    if not run_exists(storage, planned):
        create_run(storage, planned, once(planned.extents), ["a"])
    state = look(storage, planned, fresh=True)
    for number, arrays in enumerate(contents):
        if number not in state.committed:
            if number in state.broken:
                withdraw(storage, planned, [number])
            commit_batch(storage, planned, number, arrays, rows(planned, number, planned.extents.example_rows))
            log.append(number)
    finish(storage, planned)


def assert_reads_back(storage: Storage, planned: RunRecord, contents: list[dict[str, np.ndarray]]) -> None:
    commits = visible(storage, planned)
    for spec in planned.batch_specs:
        found = by_us(storage, planned, spec.name)[:]
        there = [wanted(planned, contents[number], spec.name) for number in commits]
        np.testing.assert_array_equal(found.view(np.uint8), np.concatenate([found[:0], *there]).view(np.uint8))


@settings(max_examples=60, deadline=None)
@given(
    planned=plans(),
    lengths=st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=3, max_size=3),
    deaths=st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=3),
)
def test_what_is_visible_after_a_death_is_what_was_committed(planned, lengths, deaths):
    storage, log = Storage.at(f"memory://{uuid4().hex}"), []
    contents = [some_of(planned, number, lengths[number]) for number in range(planned.extents.batches)]
    for count, done in deaths:
        with suppress(Died), dies_after(count, done):
            run_through(storage, planned, contents, log)
        if storage.exists("lake.json") and run_exists(storage, planned):
            seen = set(visible(storage, planned))
            # the one being committed may be there without the writer having learnt of it
            assert set(log) <= seen
            assert len(seen - set(log)) <= 1
            log[:] = seen
            assert_reads_back(storage, planned, contents)
            assert open_lake(storage.url).run(planned.name).dataset().sizes["example"] == (
                len(seen) * planned.extents.example_rows
            )
    run_through(storage, planned, contents, log)
    assert is_finished(storage, planned.name)
    assert list(visible(storage, planned)) == list(range(planned.extents.batches))
    assert look(storage, planned, fresh=True).broken == {}
    assert written_index(storage).runs == (planned.name,)
    assert_reads_back(storage, planned, contents)


def test_a_death_at_each_operation_in_turn_is_survived():
    extents = Extents(2, 2, 1, layers=2, heads=1, tokens=2, prefix_tokens=2, positions=1, hidden=3, vocab=2)
    planned = record(arrays=("attn_write", "token_role", *ONCE), extents=extents)
    contents = [batch(2, 1, 2, number, extents) for number in range(2)]
    clean = Storage.at(f"memory://{uuid4().hex}")
    run_through(clean, planned, contents, [])
    wanted_files = {path: clean.read(path) for path in clean.files(".")}
    assert len(wanted_files) > 10
    count = 0
    while True:
        for done in (False, True):
            storage, log = Storage.at(f"memory://{uuid4().hex}"), []
            died = False
            try:
                with dies_after(count, done):
                    run_through(storage, planned, contents, log)
            except Died:
                died = True
            run_through(storage, planned, contents, log)
            assert {path: storage.read(path) for path in storage.files(".")} == wanted_files
        if not died:
            break
        count += 1
    assert count > 15


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_run_over_a_run_of_broken_batches_is_whole_again(dtype):
    extents = Extents(3, 2, 1, layers=2, heads=1, tokens=2, prefix_tokens=2, positions=1, hidden=3, vocab=2)
    planned = record(dtype, ("attn_write", "logits", *ONCE), extents)
    contents = [batch(2, 1, 2, number, extents) for number in range(3)]
    storage = Storage.at(f"memory://{uuid4().hex}")
    run_through(storage, planned, contents, [])
    storage.delete(f"runs/{planned.name}/arrays.zarr/logits/c.1.0.0")
    with pytest.raises(VlmlakeError, match="has 2 of 3 batches; batch 1 is broken"):
        finish(storage, planned)
    log: list[int] = []
    run_through(storage, planned, contents, log)
    assert log == [1]
    assert_reads_back(storage, planned, contents)

"""Every kind of damage is found, and named by its batch and its array; what is sound is called so."""

from __future__ import annotations

import random
import shutil
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from tests.store_schema.small_lake import ARRAY_NAMES, changed, make_lake, recommit, record_of
from vlmlake import open_lake
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import paths, tables
from vlmlake.store_schema.arrays import shard_file, shard_format
from vlmlake.store_schema.batch_list import encode_batch_list
from vlmlake.store_schema.commits import batch_files, look, withdraw
from vlmlake.store_schema.finish import finish, is_finished
from vlmlake.store_schema.index import refresh_index
from vlmlake.store_schema.lake import create_lake
from vlmlake.store_schema.metadata import documents
from vlmlake.store_schema.shards import MISSING
from vlmlake.store_schema.verdict import is_sound
from vlmlake.store_schema.verify import verify, withdraw_broken

RECORD = record_of()
BATCH_SPECS = {spec.name: spec for spec in RECORD.batch_specs}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template") / "lake"
    make_lake(str(folder))
    return folder


@pytest.fixture
def lake(template, tmp_path):
    """On disk, to be damaged."""
    return open_lake(str(shutil.copytree(template, tmp_path / "lake")))


@pytest.fixture(scope="module")
def in_memory():
    """By whether prefixes are shared; tests put another batch 1 there."""
    return {shared: make_lake(f"memory://verified-{shared}", shared=shared) for shared in (True, False)}


@pytest.fixture
def found_in(in_memory):
    """Problems of a run after a change of its batch 1."""
    return lambda change, shared=True: problems(changed(in_memory[shared], record_of(shared=shared), change))


def problems(lake):
    return [problem for verdict in verify(lake) for problem in verdict.problems]


def places(lake):
    """Batch and array of every problem."""
    return {(problem.batch, problem.array) for problem in problems(lake)}


def shard(lake, name, number=1, record=RECORD) -> Path:
    return Path(lake.storage.full(shard_file(record, BATCH_SPECS[name], number)))


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_sound_lake_has_no_problems_and_all_of_it_is_counted(tmp_path, dtype, shared):
    lake = make_lake(str(tmp_path), dtype=dtype, shared=shared)
    run, everything = verify(lake)
    assert not run.problems
    assert not everything.problems
    assert is_sound([run, everything])
    assert (run.looked.batches, run.looked.examples) == (2, 8)
    assert run.looked.shards == 2 * len(BATCH_SPECS) + 2
    sizes = lake.storage.files(paths.arrays(run.run))
    assert run.looked.bytes == sum(size for path, size in sizes.items() if not path.endswith(".json"))
    assert run.looked.chunks > run.looked.shards


def test_one_run_is_verified_by_its_name(lake):
    (verdict,) = verify(lake, "toy")
    assert verdict.run == RECORD.name
    assert is_sound([verdict])
    with pytest.raises(VlmlakeError, match="no single run named other"):
        verify(lake, "other")


def test_a_report_is_told_of_every_batch(lake):
    told = []
    verify(lake, report=lambda *now: told.append(now))
    assert told == [(RECORD.name, 0, 2), (RECORD.name, 1, 2), (RECORD.name, 2, 2)]


def test_a_lake_in_memory_is_verified_too():
    lake = make_lake("memory://truncated")
    assert is_sound(verify(lake))
    path = shard_file(RECORD, BATCH_SPECS["logits"], 0)
    lake.storage.write(path, lake.storage.read(path)[:-1])
    assert places(lake) == {(0, "logits")}


def test_nothing_to_look_at_is_not_sound(tmp_path):
    verdicts = verify(create_lake(str(tmp_path)))
    assert not [problem for verdict in verdicts for problem in verdict.problems]
    assert not is_sound(verdicts)


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_in_a_shard_is_found(lake, seed):
    rng = random.Random(seed)
    name, number = rng.choice(sorted(BATCH_SPECS)), rng.randrange(2)
    path = shard(lake, name, number)
    flip(path, rng.randrange(8 * path.stat().st_size))
    found = problems(lake)
    assert {(problem.batch, problem.array) for problem in found} == {(number, name)}
    assert "checksum" in found[0].what


def test_a_flipped_bit_in_any_other_file_is_found(lake, tmp_path):
    folder = tmp_path / "lake"
    others = [path for path in sorted(folder.rglob("*")) if path.suffix == ".parquet" or path.name == "run.json"]
    others += [folder / "index.json", *folder.rglob("unembedding/c.*"), *folder.rglob("final_norm/c.*")]
    assert len(others) == 9
    rng = random.Random(5)
    for path in others:
        content = path.read_bytes()
        flip(path, rng.randrange(8 * len(content)))
        assert not is_sound(verify(lake)), path
        path.write_bytes(content)
    assert is_sound(verify(lake))


def test_a_damaged_chunk_is_named(lake):
    flip(shard(lake, "hidden_states"), 80)
    assert any("chunk (0, 0, 0, 0)" in problem.what for problem in problems(lake))


@pytest.mark.parametrize("left", [0, 3, -1])
def test_a_truncated_shard_is_found(lake, left):
    path = shard(lake, "attention")
    path.write_bytes(path.read_bytes()[:left])
    assert places(lake) == {(1, "attention")}


def test_a_missing_shard_is_found(lake):
    shard(lake, "mlp_write").unlink()
    (found,) = problems(lake)
    assert (found.batch, found.array) == (1, "mlp_write")
    assert found.what.endswith("is missing")


def test_a_missing_chunk_is_found_where_all_checksums_hold(lake):
    form, path = shard_format(RECORD, BATCH_SPECS["attention"]), shard(lake, "attention")
    content = path.read_bytes()
    index = form.index(content[-form.index_bytes :]).copy()
    index[tuple(np.argwhere(index[..., 0] != MISSING)[0])] = MISSING
    tail = index.tobytes()
    recommit(
        lake,
        RECORD,
        1,
        "attention",
        content[: -form.index_bytes] + tail + google_crc32c.value(tail).to_bytes(4, "little"),
    )
    found = problems(lake)
    assert {(problem.batch, problem.array) for problem in found} == {(1, "attention")}
    assert any("no value inside the lengths" in problem.what for problem in found)


def test_another_largest_value_than_the_commits_is_found(lake):
    recommit(lake, RECORD, 1, "readout_states", None, largest=(9.0, 9.0, 9.0))
    (found,) = problems(lake)
    assert (found.batch, found.array) == (1, "readout_states")
    assert "its largest value of embed is" in found.what


def test_a_shard_of_another_dtype_is_found(lake, tmp_path):
    other = make_lake(str(tmp_path / "single"), dtype="float32")
    content = shard(other, "logits", record=record_of("float32")).read_bytes()
    recommit(lake, RECORD, 1, "logits", content)
    assert places(lake) == {(1, "logits")}


def inside_nan(name, *at):
    def change(arrays, rows):
        arrays[name][at] = np.nan

    return name, change, "no value inside the lengths"


def beyond(name, *at, value=1):
    def change(arrays, rows):
        arrays[name][at] = value

    return name, change, "a value beyond the lengths"


def set_to(name, value, what, *at):
    def change(arrays, rows):
        arrays[name][at] = value

    return name, change, what


WRONG_VALUES = [
    inside_nan("hidden_states", 1, 2, 6, 3),
    inside_nan("prefix_states", 0, 0, 5, 0),
    inside_nan("readout_states", 1, 0, 2),
    inside_nan("logits", 2, 0, 10),
    inside_nan("attn_write", 0, 1),
    inside_nan("mlp_write", 0, 2, 0),
    inside_nan("image_update", 1, 2),
    inside_nan("attention", 0, 1, 0, 4, 10),
    inside_nan("readout_attention", 2, 1, 1, 0, 4),
    inside_nan("prefix_attention", 1, 2, 1, 4, 4),
    inside_nan("token_logits", 0, 4, 0),
    inside_nan("prefix_logits", 1, 4, 0),
    inside_nan("blank_states", 0, 0, 0),
    inside_nan("blank_logits", 0, 0),
    beyond("hidden_states", 0, 0, 5, 0),
    beyond("prefix_states", 1, 0, 5, 0),
    beyond("readout_states", 0, 0, 2, 0),
    beyond("logits", 2, 1, 0),
    beyond("attn_write", 0, 0, 0),
    beyond("image_update", 0, 0),
    beyond("attention", 0, 1, 0, 0, 11, value=0),
    beyond("attention", 2, 1, 0, 0, 5, value=0),
    beyond("attention", 0, 0, 0, 0, 0),
    beyond("readout_attention", 2, 1, 0, 0, 5, value=0),
    beyond("prefix_attention", 0, 1, 0, 0, 6, value=0),
    beyond("token_logits", 2, 3, 0),
    beyond("prefix_logits", 1, 5, 0),
    beyond("token_id", 0, 5),
    beyond("token_role", 0, 5),
    beyond("prefix_token_id", 1, 5),
    beyond("image_row", 0, 5),
    set_to("token_id", -1, "no value inside the lengths", 0, 0),
    set_to("prefix_token_role", -1, "no value inside the lengths", 0, 0),
    set_to("attention", 0.9, "attention that does not sum to 1", 1, 1, 1, 2, 0),
    set_to("prefix_attention", 0.5, "attention that does not sum to 1", 1, 1, 1, 0, 0),
    set_to("readout_attention", 0.9, "attention that sums to more than 1", 0, 1, 1, 0, slice(0, 2)),
    set_to("attention", [0.5, 0.5], "attention to a later token", 0, 1, 0, 0, slice(9, 11)),
    set_to("attention", [-0.5, 0.5], "attention below 0", 0, 1, 0, 4, slice(0, 2)),
    set_to("prefix_attention", [0.5, 0.5], "attention to a later token", 0, 1, 0, 0, slice(0, 2)),
    set_to("token_role", 4, "the wrong number of answer tokens", 0, 3),
    set_to("token_role", 2, "the wrong number of answer tokens", 0, 4),
    set_to("token_role", 9, "an unknown role", 0, 0),
    set_to("token_id", 7, "another id than the answer's", 0, 4),
    set_to("token_id", 11, "an id beyond the vocabulary", 0, 0),
    set_to("prefix_token_role", 4, "an answer's role", 0, 0),
    set_to("image_column", 2, "no cell of a grid", 0, 2),
]


@pytest.mark.parametrize(
    ("name", "change", "what"), WRONG_VALUES, ids=lambda value: value if str(value) == value else ""
)
def test_a_value_that_cannot_be_is_found(found_in, name, change, what):
    found = found_in(change)
    assert (1, name) in {(problem.batch, problem.array) for problem in found}
    assert {problem.batch for problem in found} == {1}
    assert any(problem.array == name and problem.what.startswith(what) for problem in found), found


def test_every_array_of_a_batch_has_a_value_that_is_missed():
    assert {name for name, *_ in WRONG_VALUES} == {name for name in ARRAY_NAMES if name in BATCH_SPECS}


def test_a_value_that_cannot_be_is_named_by_its_row_and_layer(found_in):
    name, change, _ = inside_nan("hidden_states", 1, 2, 6, 3)
    (found,) = found_in(change)
    assert found.what == "no value inside the lengths at 1 place, the first example 4, block_1, token 6, hidden 3"
    assert str(found) == f"{RECORD.name} batch 1 {name}: {found.what}"


def test_a_value_in_a_row_without_an_example_is_found(found_in):
    def change(arrays, rows):
        del rows[-1]

    found = {problem.what for problem in found_in(change) if problem.array == "logits"}
    assert any("a value in a row without an example" in what for what in found)


def test_a_prompt_whose_tokens_see_one_another_is_allowed_where_no_prefix_is_shared(found_in):
    def change(arrays, rows):
        arrays["attention"][0, 1:, :, 0, :6] = 0
        arrays["attention"][0, 1:, :, 0, 6:10] = 0.25

    assert not found_in(change, shared=False)
    assert {problem.array for problem in found_in(change)} == {"attention"}


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"run": "other-00000000"}, "rows of other runs"),
        ({"batch": 0}, "its rows say that they are of batch [0]"),
        ({"row": 2}, "its column row goes beyond"),
        ({"prefix": 9}, "its column prefix goes beyond"),
        ({"row": 4}, "share row 4, and differ in"),
        ({"prefix": 2}, "share prefix 2, and differ in"),
        ({"prefix_tokens": 7}, "prefix_tokens is beyond the run's: toy/1/2a"),
        ({"suffix_tokens": 9}, "suffix_tokens and answer_tokens are beyond"),
        ({"answer_tokens": 3}, "token_ids and answer_tokens do not agree"),
        ({"suffix_tokens": 4}, "no value inside the lengths"),
        ({"finish": "tired", "token_ids": []}, "finish is neither"),
        ({"log_probs": []}, "token_ids and log_probs are not equally many"),
        (
            {"samples": [{"sample": 0, "answer_tokens": 2, "token_ids": [3], "log_probs": [-1.0], "finish": "stop"}]},
            "a sample's token_ids",
        ),
        ({"log_probs": [0.5]}, "log_probs are no logarithms"),
        ({"log_probs": [float("nan")]}, "log_probs are no logarithms"),
        ({"token_ids": [11]}, "token_ids are not in the vocabulary"),
        ({"finish": None}, "its rows have no value in finish"),
        ({"example": "toy/0/0a"}, "its example toy/0/0a is in batch 0 already"),
        ({"example": "toy/1/0a"}, "its example toy/1/0a is in batch 1 already"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rows_that_cannot_be_are_found(found_in, columns, what):
    found = found_in(lambda arrays, rows: rows[-1].update(columns))
    assert any(problem.batch == 1 and what in problem.what for problem in found), found


def test_rows_with_a_hole_are_found(found_in):
    found = found_in(lambda arrays, rows: rows.pop(2))
    assert any("its column row has holes" in problem.what for problem in found)


def test_a_commit_without_rows_is_found(found_in):
    assert any(problem.what == "its commit has no rows" for problem in found_in(lambda arrays, rows: rows.clear()))


def test_the_commit_of_another_batch_is_found(lake):
    lake.storage.write(paths.batch(RECORD.name, 1), lake.storage.read(paths.batch(RECORD.name, 0)))
    (found, *others) = problems(lake)
    assert (found.batch, found.array) == (1, None)
    assert "is the commit of batch 0" in found.what
    assert [problem.batch for problem in others] == [None]


def test_a_damaged_commit_is_found_and_the_other_batch_is_looked_at(lake):
    flip(Path(lake.storage.full(paths.batch(RECORD.name, 0))), 500)
    run, _ = verify(lake)
    assert run.broken == (0,)
    assert run.looked.batches == 1


def test_a_missing_commit_of_a_finished_run_is_found(lake):
    lake.storage.delete(paths.batch(RECORD.name, 1))
    (found,) = problems(lake)
    assert "has batch 1, whose commit is not there" in found.what


def test_batches_that_are_still_missing_are_no_problem(lake):
    withdraw(lake.storage, RECORD, [1])
    run, _ = verify(lake)
    assert not run.problems
    assert run.looked.batches == 1


def test_a_stale_batch_list_is_found(lake):
    changed(lake, RECORD, lambda arrays, rows: rows[0].update(gold="no"))
    commits = dict(look(lake.storage, RECORD, fresh=True).committed)
    finish(lake.storage, RECORD)
    listed = lake.storage.read(paths.batch_list(RECORD.name))
    changed(lake, RECORD, lambda arrays, rows: rows[0].update(gold="yes"))
    lake.storage.write(paths.batch_list(RECORD.name), listed)
    (found,) = problems(lake)
    assert (found.batch, found.array) == (None, None)
    assert "is stale: it says otherwise of batch 1" in found.what
    del commits[1]
    sizes = batch_files(lake.storage, RECORD)
    lake.storage.write(paths.batch_list(RECORD.name), encode_batch_list(RECORD.name, commits, sizes))
    (found,) = problems(lake)
    assert "lacks batch 1" in found.what


@pytest.mark.parametrize("name", ["", "logits/", "final_norm/"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_changed_zarr_document_is_found(lake, name, finished):
    if not finished:
        lake.storage.delete(paths.batch_list(RECORD.name))
    path = f"{paths.arrays(RECORD.name)}/{name}zarr.json"
    content = lake.storage.read(path)
    lake.storage.write(path, content.replace(b'"dimension_names": [', b'"dimension_names": ["a", ', 1))
    (found,) = [problem for problem in problems(lake) if problem.run]
    assert (found.batch, found.array) == (None, name.rstrip("/") or None)
    assert "does not say what the run's record says" in found.what
    lake.storage.write(path, content[:-9])
    assert any("is not valid JSON" in problem.what for problem in problems(lake))
    lake.storage.delete(path)
    assert any(problem.what == f"{path} is missing" for problem in problems(lake))


def test_a_finished_run_without_consolidated_metadata_is_found(lake):
    path, content = next(iter(documents(RECORD).items()))
    lake.storage.write(path, content)
    (found,) = problems(lake)
    assert "does not say what the run's record says" in found.what


def test_a_damaged_vocabulary_and_one_of_another_model_are_found(lake):
    path = Path(lake.storage.full(paths.vocabulary(RECORD.name)))
    rows = [{"id": number, "text": "word"} for number in range(10)]
    path.write_bytes(tables.to_parquet(rows, tables.VOCABULARY))
    (found,) = problems(lake)
    assert "has not the 11 tokens of the run" in found.what
    flip(path, 300)
    (found,) = problems(lake)
    assert "its checksum does not hold" in found.what
    path.unlink()
    (found,) = problems(lake)
    assert "vocabulary.parquet" in found.what


def test_a_damaged_results_table_is_found_also_of_a_run_that_is_gone(lake):
    path = Path(lake.storage.full(paths.finding("results", "accuracy", RECORD.name, "exact")))
    orphan = Path(lake.storage.full(paths.finding("results", "accuracy", "gone-00000000", "exact")))
    orphan.parent.mkdir()
    orphan.write_bytes(path.read_bytes()[:-1])
    refresh_index(lake.storage)
    (found,) = problems(lake)
    assert found.run == "gone-00000000"
    flip(path, 900)
    assert [problem.run for problem in problems(lake)] == [RECORD.name, "gone-00000000"]
    assert [problem.run for problem in verify(lake, "toy")[0].problems] == [RECORD.name]


def test_an_index_that_is_stale_or_gone_is_found(lake):
    result = paths.finding("results", "accuracy", RECORD.name, "exact")
    content = lake.storage.read(result)
    lake.storage.delete(result)
    assert [problem.what for problem in problems(lake)] == [f"index.json lists a table that is not there: {result}"]
    refresh_index(lake.storage)
    lake.storage.write(result, content)
    assert [problem.what for problem in problems(lake)] == [f"index.json lacks {result}"]
    lake.storage.delete(paths.INDEX)
    assert [problem.what for problem in problems(lake)] == [f"there is no index.json, and {RECORD.name} is finished"]


def test_a_damaged_record_is_found(lake):
    flip(Path(lake.storage.full(paths.run_record(RECORD.name))), 800)
    for verdicts in (verify(lake), verify(lake, RECORD.name)):
        assert verdicts[0].run == RECORD.name
        assert "run.json" in verdicts[0].problems[0].what
        assert not is_sound(verdicts)


def test_a_record_of_more_examples_than_there_are_is_found(found_in):
    def change(arrays, rows):
        del rows[1]

    (found,) = found_in(change)
    assert "7 examples of 6 questions are in its batches, its record says 8 of 6" in found.what


def test_batches_with_problems_are_taken_back_and_no_others(lake):
    flip(shard(lake, "logits"), 99)
    taken = withdraw_broken(lake.storage, verify(lake))
    assert taken == {RECORD.name: (1,)}
    assert list(look(lake.storage, RECORD).committed) == [0]
    assert not is_finished(lake.storage, RECORD.name)
    verdicts = verify(lake)
    assert is_sound(verdicts)
    assert withdraw_broken(lake.storage, verdicts) == {}


def test_values_are_looked_at_through_nothing_but_one_shard_at_a_time(lake, monkeypatch):
    read = []
    original = type(lake.storage).read
    monkeypatch.setattr(type(lake.storage), "read", lambda self, path: read.append(path) or original(self, path))
    verify(lake)
    shards = [path for path in read if "/c." in path]
    assert len(shards) == len(set(shards)) == 2 * len(BATCH_SPECS) + 2


@contextmanager
def web_server(folder):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_over_the_web_a_finished_run_is_verified_by_its_batch_list(lake, tmp_path):
    pytest.importorskip("aiohttp")
    with web_server(tmp_path / "lake") as url:
        far = open_lake(url)
        verdicts = verify(far)
        assert is_sound(verdicts)
        assert verdicts[0].looked == verify(lake)[0].looked
        flip(shard(lake, "token_role"), 99)
        lake.storage.delete(paths.batch(RECORD.name, 0))
        assert places(far) == {(0, None), (1, "token_role")}
        with pytest.raises(VlmlakeError, match="web address"):
            withdraw_broken(far.storage, verify(far))

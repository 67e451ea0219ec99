"""What belongs to nothing visible is found and removed once it is old by the storage's clock; nothing else ever is."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import pytest

from tests.store_schema.toy_runs import commit, toy_batch, toy_record, toy_run
from vlmlake import open_lake
from vlmlake.store_schema import leftovers, paths
from vlmlake.store_schema.arrays import write_batch
from vlmlake.store_schema.copying import copy_run
from vlmlake.store_schema.leftovers import find_leftovers, remove_leftovers, storage_time
from vlmlake.store_schema.selection import Selection
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.workers import Note, Worker, write_note

HOUR, DAY = 3600, 86400
RUN = paths.run_record(toy_record().name).removesuffix("/run.json")
HEX = "0123456789abcdef" * 2
REMOVABLE = {
    f"{RUN}/batches/.writing-{HEX}": "temporary",
    f"{RUN}/arrays.zarr/logits/.writing-{HEX}": "temporary",
    f".writing-{HEX}": "temporary",
    f"results/probes/{toy_record().name}/.writing-{HEX}": "temporary",
    f"{RUN}/arrays.zarr/logits/c.0.0.0.{HEX}.partial": "temporary",
    f"{RUN}/batches/000003.parquet": "commit",
    "runs/cut-off/vocabulary.parquet": "creation",
    "runs/cut-off/arrays.zarr/zarr.json": "creation",
    "runs/cut-off/arrays.zarr/logits/zarr.json": "creation",
    "runs/cut-off/arrays.zarr/unembedding/c.0.0": "creation",
}
UNKNOWN = (
    "notes.txt",
    "runs/README.md",
    f"{RUN}/mine.csv",
    f"{RUN}/batches/notes.txt",
    f"{RUN}/batches/000000.parquet.bak",
    f"{RUN}/arrays.zarr/logits/c.9.0.0",
    f"{RUN}/arrays.zarr/mine/c.0.0",
    f"{RUN}/workers/mine.json",
    f"{RUN}/interventions/one/spec.json",
    "results/probes/notes.txt",
    ".writing-by-hand",
    f"somewhere/c.0.{HEX}.partial",
    "runs/lost-record/batches/000000.parquet",
    "runs/lost-record/vocabulary.parquet",
)


def age_all(folder, seconds: float) -> None:
    """Make every file as old as that."""
    when = time.time() - seconds
    for place, _, names in os.walk(folder):
        for name in names:
            os.utime(os.path.join(place, name), (when, when))


def contents(storage: Storage) -> dict[str, bytes]:
    return {path: storage.read(path) for path in storage.files("")}


@pytest.fixture
def clean(tmp_path):
    """A run with batches 0 and 2, and a result."""
    run = toy_run(str(tmp_path), numbers=(0, 2))
    run.storage.write(paths.finding("results", "probes", run.name, "exact"), b"result")
    write_note(run.storage, run.name, Note(Worker(), 1, 2, 0))
    return run.storage


@pytest.fixture
def littered(clean, tmp_path):
    """The same with shards of batch 1, which was not committed, and one file of every kind."""
    write_batch(clean, toy_record(), 1, toy_batch(toy_record(), 1))
    for path in (*REMOVABLE, *UNKNOWN):
        clean.write(path, b"litter")
    age_all(tmp_path, 2 * HOUR)
    return clean


def test_a_lake_without_leftovers_has_none(clean, tmp_path):
    age_all(tmp_path, DAY)
    assert find_leftovers(clean) == ()
    finished = toy_run(str(tmp_path / "finished"))
    assert find_leftovers(finished.storage, older_than=0) == ()


def test_each_is_told_by_its_kind(littered):
    found = {one.path: one.kind for one in find_leftovers(littered)}
    shards = {path for path, kind in found.items() if kind == "shard"}
    assert len(shards) == len(toy_record().batch_specs)
    assert all("/c.1." in path for path in shards)
    assert {path: kind for path, kind in found.items() if kind not in ("shard", "unknown")} == REMOVABLE
    assert {path for path, kind in found.items() if kind == "unknown"} == set(UNKNOWN)


def test_what_is_removed_is_that_and_nothing_else(littered, tmp_path):
    before = contents(littered)
    found = find_leftovers(littered)
    removed = {one.path for one in remove_leftovers(littered, found)}
    assert removed == {one.path for one in found if one.kind != "unknown"}
    assert contents(littered) == {path: content for path, content in before.items() if path not in removed}
    assert not (tmp_path / "runs" / "cut-off").exists()
    assert open_lake(str(tmp_path)).run("toy").batches_done == 2
    assert remove_leftovers(littered, found) == ()
    assert {one.kind for one in find_leftovers(littered)} == {"unknown"}


def test_listing_changes_nothing(littered):
    before = contents(littered)
    find_leftovers(littered)
    assert contents(littered) == before


def test_what_is_young_stays(littered):
    found = find_leftovers(littered, older_than=3 * HOUR)
    assert all(one.young for one in found)
    assert remove_leftovers(littered, found) == ()
    assert not any(one.young for one in find_leftovers(littered, older_than=HOUR))


def test_a_batch_and_a_creation_are_as_old_as_their_youngest_file(littered, tmp_path):
    now = time.time()
    os.utime(tmp_path / RUN / "arrays.zarr" / "token_id" / "c.1.0", (now, now))
    os.utime(tmp_path / "runs" / "cut-off" / "vocabulary.parquet", (now, now))
    found = find_leftovers(littered)
    assert {one.kind for one in found if one.young} == {"shard", "creation"}
    assert all(one.young for one in found if one.kind in ("shard", "creation"))


@pytest.mark.parametrize("wrong", [DAY, -DAY])
def test_the_clock_of_this_machine_does_not_count(littered, monkeypatch, wrong):
    wanted = [(one.path, one.young) for one in find_leftovers(littered)]
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + wrong)
    assert [(one.path, one.young) for one in find_leftovers(littered)] == wanted


@pytest.mark.parametrize("ahead", [DAY, -DAY])
def test_a_storage_with_another_clock_is_believed(littered, monkeypatch, ahead):
    wanted = {one.path: round(one.age) for one in find_leftovers(littered)}
    told = Storage.modified

    def shifted(self, path):
        when = told(self, path)
        return when and when + timedelta(seconds=ahead)

    monkeypatch.setattr(Storage, "modified", shifted)
    found = {one.path: round(one.age) for one in find_leftovers(littered)}
    assert all(abs(found[path] - age) <= 2 for path, age in wanted.items())


def test_the_time_is_told_by_a_file_that_is_gone_afterwards(clean):
    before = clean.files("")
    assert abs(storage_time(clean).timestamp() - time.time()) < 5
    assert clean.files("") == before


def test_a_batch_that_was_committed_meanwhile_stays(littered):
    found = find_leftovers(littered)
    commit(littered, toy_record(), 1)
    removed = remove_leftovers(littered, found)
    assert "shard" not in {one.kind for one in removed}
    assert open_lake(littered.url).run("toy").batches_done == 3


def test_a_shard_that_was_put_again_meanwhile_stays(littered):
    found = find_leftovers(littered)
    write_batch(littered, toy_record(), 1, toy_batch(toy_record(), 1))
    assert "shard" not in {one.kind for one in remove_leftovers(littered, found)}


def test_two_at_once_do_no_harm(littered, monkeypatch):
    """The other removes each file just before ours does."""
    ours = find_leftovers(littered)
    whole = leftovers._remove

    def second(storage, one):
        whole(storage, one)
        return whole(storage, one)

    monkeypatch.setattr(leftovers, "_remove", second)
    assert remove_leftovers(littered, ours) == ()
    assert {one.kind for one in find_leftovers(littered)} == {"unknown"}


def test_notes_of_a_finished_runs_workers_are_left_over(tmp_path):
    run = toy_run(str(tmp_path))
    write_note(run.storage, run.name, Note(Worker(3, 4), None, 1, 1))
    (one,) = find_leftovers(run.storage, older_than=0)
    assert (one.kind, one.removable) == ("note", True)


def test_one_run_alone(littered):
    found = find_leftovers(littered, "cut-off")
    assert {one.kind for one in found} == {"creation"}
    assert all(one.path.startswith(f"{RUN}/") for one in find_leftovers(littered, toy_record().name))


def test_a_run_whose_record_is_damaged_is_left_alone(littered, tmp_path):
    littered.write(f"{RUN}/run.json", b"{}")
    age_all(tmp_path, DAY)
    found = [one for one in find_leftovers(littered, toy_record().name) if one.kind != "temporary"]
    assert [(one.path, one.kind) for one in found] == [(f"{RUN}/run.json", "unknown")]


def test_a_lake_in_memory(tmp_path):
    run = toy_run("memory://left/over", numbers=(0,))
    write_batch(run.storage, run.record, 1, toy_batch(run.record, 1))
    run.storage.write("mine.txt", b"")
    found = find_leftovers(run.storage, older_than=0)
    assert {one.kind for one in found} == {"shard", "unknown"}
    assert len(remove_leftovers(run.storage, found)) == len(run.record.batch_specs)


@pytest.fixture(scope="module")
def bucket():
    """An S3 server of moto's with the bucket `lakes`; its URL for s3fs."""
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = server_module.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    patched = pytest.MonkeyPatch()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patched.setenv(name, "testing")
    patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
    endpoint = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="lakes")
    yield client, endpoint
    server.stop()
    patched.undo()


def test_uploads_that_nobody_ended_are_given_up(bucket):
    client, endpoint = bucket
    storage = Storage.at("s3://lakes/ours", {"endpoint_url": endpoint})
    storage.write("lake.json", b'{"format_version": 4}')
    for key in ("ours/runs/a/arrays.zarr/logits/c.0.0.0", "theirs/file"):
        client.create_multipart_upload(Bucket="lakes", Key=key)
    # moto says of every upload that it began in 2010.
    assert all(one.young for one in find_leftovers(storage, older_than=100 * 365 * DAY))
    assert find_leftovers(storage, "b") == ()
    found = find_leftovers(storage, "a")
    assert [(one.kind, one.path) for one in found] == [("upload", "runs/a/arrays.zarr/logits/c.0.0.0")]
    assert len(remove_leftovers(storage, found)) == 1
    left = client.list_multipart_uploads(Bucket="lakes")["Uploads"]
    assert [one["Key"] for one in left] == ["theirs/file"]
    assert find_leftovers(storage) == ()
    remove_leftovers(storage, found)


def test_on_s3_ages_are_the_servers(bucket):
    _, endpoint = bucket
    run = toy_run("s3://lakes/aged", storage_options={"endpoint_url": endpoint}, numbers=(0,))
    write_batch(run.storage, run.record, 1, toy_batch(run.record, 1))
    assert {one.young for one in find_leftovers(run.storage)} == {True}
    found = find_leftovers(run.storage, older_than=0)
    assert {one.kind for one in found} == {"shard"}
    assert len(remove_leftovers(run.storage, found)) == len(run.record.batch_specs)
    copied = copy_run(run, "s3://lakes/copied", Selection(layers=("block_1",)), {"endpoint_url": endpoint})
    there = open_lake("s3://lakes/copied", {"endpoint_url": endpoint})[copied.run]
    wanted = run.dataset(raw=False).sel(layer=["block_1"])
    assert there["readout_states"].values.tobytes() == wanted["readout_states"].values.tobytes()

"""The S3 server as s3fs and Zarr see it, in this process and in one that is spawned."""

from __future__ import annotations

import multiprocessing
import pickle

import fsspec
import numpy as np
import pytest
import zarr

from tests.servers import S3Server


@pytest.fixture
def fs(s3: S3Server):
    return fsspec.filesystem("s3", **s3.options)


def test_objects_come_back(fs, s3_url: str):
    fs.pipe_file(f"{s3_url}/a/b", b"0123456789")
    assert fs.cat_file(f"{s3_url}/a/b") == b"0123456789"
    assert [path.split("/", 2)[2] for path in fs.find(s3_url)] == ["a/b"]


@pytest.mark.parametrize(("size", "chunk"), [(10, 50 << 20), (11 << 20, 5 << 20)], ids=["one put", "in parts"])
def test_what_exists_is_not_created_again(fs, s3_url: str, size: int, chunk: int):
    fs.pipe_file(f"{s3_url}/key", b"a" * size, chunksize=chunk, mode="create")
    with pytest.raises(FileExistsError):
        fs.pipe_file(f"{s3_url}/key", b"b" * size, chunksize=chunk, mode="create")
    assert fs.cat_file(f"{s3_url}/key", start=0, end=1) == b"a"


@pytest.mark.parametrize(
    ("start", "end", "part"),
    [(-4, None, b"6789"), (-40, None, b"0123456789"), (-4, -1, b"678"), (2, 4, b"23"), (5, 100, b"56789")],
)
def test_ranges(fs, s3_url: str, start: int, end: int | None, part: bytes):
    fs.pipe_file(f"{s3_url}/key", b"0123456789")
    assert fs.cat_file(f"{s3_url}/key", start=start, end=end) == part


def test_each_test_has_a_bucket_of_its_own(s3: S3Server, s3_url: str):
    assert s3.bucket("another") == "s3://another"
    assert s3_url.endswith("/lake")
    assert not fsspec.filesystem("s3", **s3.options).exists(s3_url)


def test_a_name_that_s3_refuses_is_no_bucket(s3: S3Server):
    with pytest.raises(RuntimeError, match="400"):
        s3.bucket("x")


def test_filesystem_and_store_work_in_a_spawned_process(fs, s3: S3Server, s3_url: str):
    fs.pipe_file(f"{s3_url}/key", b"hello")
    store = zarr.storage.FsspecStore.from_url(f"{s3_url}/array", storage_options=s3.options)
    zarr.create_array(store, shape=(10,), chunks=(5,), dtype="i4")[:] = np.arange(10)

    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    child = spawn.Process(target=_read, args=(pickle.dumps(fs), f"{s3_url}/key", pickle.dumps(store), answers))
    child.start()
    assert answers.get(timeout=30) == (b"hello", 45)
    child.join()


def _read(fs: bytes, path: str, store: bytes, answers: multiprocessing.Queue) -> None:
    answers.put((pickle.loads(fs).cat_file(path), int(zarr.open_array(pickle.loads(store), mode="r")[:].sum())))


def test_the_server_is_gone_after_its_block():
    with S3Server() as server:
        process = server._process
        assert process.poll() is None
    assert process.poll() is not None

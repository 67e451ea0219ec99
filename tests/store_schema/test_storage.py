import os

import pytest

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.storage import Storage


@pytest.fixture(params=["path", "file", "memory"])
def storage(request, tmp_path):
    root = {"path": str(tmp_path), "file": f"file://{tmp_path}", "memory": f"memory://{tmp_path.name}"}[request.param]
    return Storage.at(root)


def test_what_was_written_is_read_back_and_listed(storage):
    storage.write("a/b.txt", b"one")
    storage.write("a/b.txt", b"two!")
    assert storage.read("a/b.txt") == b"two!"
    assert storage.exists("a/b.txt")
    assert storage.names("a") == ("b.txt",)
    assert storage.files("a") == {"a/b.txt": 4}
    assert storage.length("a/b.txt") == 4


def test_nothing_there_is_said_plainly(storage):
    assert storage.names("nowhere") == ()
    assert storage.files("nowhere") == {}
    assert storage.modified("nowhere") is None
    assert not storage.exists("nowhere")
    with pytest.raises(FileNotFoundError):
        storage.read("nowhere")
    with pytest.raises(FileNotFoundError):
        storage.length("nowhere")
    storage.delete("nowhere")


def test_a_failed_local_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    storage = Storage.at(str(tmp_path))
    storage.write("x", b"old")

    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(VlmlakeError, match=r"x: No space left on device\. What was committed is kept; make room"):
        storage.write("x", b"new")
    assert storage.read("x") == b"old"
    assert storage.names(".") == ("x",)


def test_local_files_can_be_read_by_all_whom_the_umask_allows(tmp_path):
    Storage.at(str(tmp_path)).write("a/b", b"x")
    plain = tmp_path / "plain"
    plain.write_bytes(b"x")
    assert (tmp_path / "a" / "b").stat().st_mode == plain.stat().st_mode


def test_no_url_is_refused():
    with pytest.raises(VlmlakeError, match="the URL of the lake is empty"):
        Storage.at("")


def test_an_unknown_protocol_is_named():
    with pytest.raises(VlmlakeError, match="nosuch"):
        Storage.at("nosuch://bucket/lake")

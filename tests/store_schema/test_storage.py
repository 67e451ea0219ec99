import errno
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread
from uuid import uuid4

import pytest

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import local_disk, tables
from vlmlake.store_schema.leftovers import find_leftovers
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


@pytest.fixture
def hasty_threads():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_of_eight_that_create_a_file_one_does(storage, hasty_threads):
    with ThreadPoolExecutor(8) as pool:
        for attempt in range(30):
            path, start = f"folder{attempt}/file", Barrier(8)
            contents = [f"content of {number}".encode() * 100 for number in range(8)]

            def create(content, path=path, start=start):
                start.wait()
                return storage.create(path, content)

            outcomes = list(pool.map(create, contents))
            assert outcomes.count(True) == 1, outcomes
            assert storage.read(path) == contents[outcomes.index(True)]
            assert storage.names(f"folder{attempt}") == ("file",)


def test_a_file_that_is_there_is_not_created_again(storage):
    storage.write("x", b"old")
    assert not storage.create("x", b"new")
    assert storage.read("x") == b"old"
    storage.delete("x")
    assert storage.create("x", b"new")


@pytest.fixture(params=[errno.ENOTSUP, errno.ENOSYS], ids=errno.errorcode.get)
def no_links(request, monkeypatch):
    def refused(*names):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(os, "link", refused)


def test_of_eight_that_create_a_file_on_a_disk_without_hard_links_one_does(tmp_path, no_links, hasty_threads):
    test_of_eight_that_create_a_file_one_does(Storage.at(str(tmp_path)), hasty_threads)


def test_what_a_writer_without_hard_links_left_is_named_and_a_leftover(tmp_path, no_links, monkeypatch):
    storage = Storage.at(str(tmp_path))
    monkeypatch.setattr(local_disk, "CLAIM_SECONDS", 0.01)
    with monkeypatch.context() as cut_off:
        cut_off.setattr(os, "unlink", lambda path: None)
        storage.create("x", b"one")
    storage.delete("x")
    with pytest.raises(VlmlakeError, match=r"left by a writer that was cut off; `vlmlake gc --delete` removes it"):
        storage.create("x", b"two")
    assert [leftover.kind for leftover in find_leftovers(storage)] == ["temporary"]


def test_a_disk_without_hard_links_creates_too(tmp_path, no_links):
    storage = Storage.at(str(tmp_path))
    assert storage.create("x", b"one")
    assert not storage.create("x", b"two")
    assert (storage.read("x"), storage.names(".")) == (b"one", ("x",))


def test_what_is_listed_while_files_come_and_go_is_all_that_stays(storage, hasty_threads):
    storage.write("a/stays", b"x")
    over = []

    def come_and_go():
        while not over:
            storage.write("a/comes", b"y")
            storage.delete("a/comes")

    thread = Thread(target=come_and_go)
    thread.start()
    try:
        found = [storage.names("a") for _ in range(300)]
    finally:
        over.append(True)
        thread.join()
    assert all("stays" in names for names in found)


@pytest.mark.parametrize("place", ["replace", "link", "fsync", "makedirs"])
@pytest.mark.parametrize(("number", "words"), [(28, "No space left on device"), (27, "File too large"), (122, "quota")])
def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch, place, number, words):
    storage = Storage.at(str(tmp_path))

    def full(*arguments, **named):
        raise OSError(number, words)

    monkeypatch.setattr(os, place, full)
    with pytest.raises(VlmlakeError, match=rf"a/x: {words}. What was committed is kept; make room and run the same"):
        storage.create("a/x", b"content") if place == "link" else storage.write("a/x", b"content")
    monkeypatch.undo()
    assert storage.files(".") == {}


def test_a_file_beyond_the_limit_is_one_clear_error_and_leaves_nothing(tmp_path):
    program = f"""
import resource
from vlmlake.store_schema import local_disk, tables
from vlmlake.store_schema.leftovers import find_leftovers
from vlmlake.store_schema.storage import Storage
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
storage = Storage.at({str(tmp_path)!r})
storage.write("small", b"x" * 10_000)
try:
    storage.write("large", [b"x" * 6_000, b"y" * 6_000])
except Exception as error:
    print(type(error).__name__, error)
print(storage.files("."))
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "VlmlakeError" in printed
    assert "large: File too large. What was committed is kept" in printed
    assert "{'small': 10000}" in printed


def test_a_pickled_storage_holds_no_file_system_and_reads_the_same(storage):
    storage.write("x", b"content")
    content = pickle.dumps(storage)
    assert b"fsspec" not in content
    assert b"FileSystem" not in content
    again = pickle.loads(content)
    assert again == storage
    assert again.read("x") == b"content"


def both(tmp_path) -> list[Storage]:
    return [Storage.at(f"file://{tmp_path}/root"), Storage.at(f"memory://{uuid4().hex}/root")]


def test_disk_and_memory_list_and_read_the_same(tmp_path):
    answers = []
    for storage in both(tmp_path):
        for path in ("a/b/one", "a/b/two", "a/bc", "a/b2/three", "top"):
            storage.write(path, path.encode() * 3)
        answers.append(
            [
                storage.entries("a"),
                storage.entries("."),
                storage.entries("a/b"),
                storage.entries("none"),
                storage.entries_of(["a/b", "none", "a/b2"]),
                storage.files("a"),
                storage.files("."),
                storage.files("none"),
                storage.read_all(["top", "a/bc"]),
                storage.read_spans(
                    [("top", 2, 5), ("a/bc", 0, 4), ("top", 7, 100), ("top", 3, 3), ("a/b/one", 50, 60)]
                ),
                storage.length("a/b/two"),
                [storage.exists(path) for path in ("a", "a/b/one", "a/b/none", "none")],
            ]
        )
    disk, memory = answers
    for number, (found, wanted) in enumerate(zip(memory, disk, strict=True)):
        assert found == wanted, number
    assert [entry.name for entry in disk[0]] == ["b", "b2", "bc"]
    assert disk[9] == [b"pto", b"a/bc", b"op", b"", b""]


def test_disk_and_memory_say_alike_that_nothing_is_there(tmp_path):
    for storage in both(tmp_path):
        storage.write("a", b"x")
        for ask in (
            lambda storage=storage: storage.read_all(["a", "none"]),
            lambda storage=storage: storage.read_spans([("a", 0, 1), ("none", 0, 1)]),
            lambda storage=storage: storage.length("none"),
        ):
            with pytest.raises(FileNotFoundError):
                ask()


SECRET = "hush-hush"


@pytest.mark.parametrize(
    "url",
    [f"memory://user:{SECRET}@host/lake", f"memory://host/lake?token={SECRET}", f"http://user:{SECRET}@host/lake"],
)
def test_credentials_in_a_url_are_never_shown(url):
    storage = Storage.at(url)
    assert SECRET not in f"{storage} {storage!r} {storage.url}"
    assert pickle.loads(pickle.dumps(storage)).address == url


@pytest.mark.parametrize(
    "url",
    [
        f"http://host/lake?token={SECRET}",
        f"http://user:{SECRET}@host/lake?x=1",
        f"nosuch://user:{SECRET}@host/lake",
        f"nosuch://host/lake?token={SECRET}",
    ],
)
def test_credentials_in_a_url_are_in_no_refusal(url):
    with pytest.raises(VlmlakeError) as refused:
        Storage.at(url)
    assert "host/lake" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_credentials_among_the_options_are_not_shown():
    storage = Storage.at("memory://host", {"skip_instance_cache": True, "token": SECRET})
    assert SECRET not in f"{storage} {storage!r}"


@pytest.mark.parametrize("url", ["http://host/lake?version=2", "https://host/lake#part"])
def test_a_web_address_with_a_query_is_refused(url):
    with pytest.raises(VlmlakeError, match=r"cannot open .*: expected an address without \? and #"):
        Storage.at(url)


def test_a_web_address_takes_and_lists_nothing():
    storage = Storage.at("http://host/lake")
    for ask in (
        lambda: storage.write("x", b""),
        lambda: storage.create("x", b""),
        lambda: storage.delete("x"),
        lambda: storage.names("x"),
        lambda: storage.files("x"),
    ):
        with pytest.raises(VlmlakeError, match="http://host/lake is a web address: it can be read"):
            ask()


def test_a_missing_table_is_named_without_the_credentials_of_the_url():
    with pytest.raises(VlmlakeError, match="none of memory://host/lake is missing") as refused:
        tables.read(Storage.at(f"memory://user:{SECRET}@host/lake"), ["none"], tables.VOCABULARY)
    assert SECRET not in str(refused.value)

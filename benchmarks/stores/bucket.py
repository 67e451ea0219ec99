"""B over S3: the same reading from a server in a process of its own, near and as if it were far away."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import numpy as np
import torch

from stores import counts
from stores.counts import Cost
from stores.files import Hdf5, Npy, Sqlite, Torch, from_torch_bytes
from stores.lake import Reader, write_states
from stores.reading import fetched, show
from stores.relay import relayed
from stores.subject import States
from stores.table import Row
from tests.servers.s3 import CREDENTIALS, S3Server

BUCKET = "benchmark"
DELAY = 0.03
"""Seconds that every request takes longer in the second part."""
ROUNDS = 2

Options = Mapping[str, str]


class Remote(ABC):
    """One way. name: for the table."""

    name: str

    @abstractmethod
    def put(self, fs: fsspec.AbstractFileSystem, folder: Path, states: States) -> None:
        """Write below `folder`, then into the bucket."""

    @abstractmethod
    def read(self, fs: fsspec.AbstractFileSystem, folder: Path, states: States, layer: int) -> np.ndarray: ...


class RangedNpy(Remote):
    """The rows of one layer and position by one ranged request each, all asked for together."""

    name = "np.save, a range per example"

    def put(self, fs: fsspec.AbstractFileSystem, folder: Path, states: States) -> None:
        Npy().write(folder / "states.npy", states)
        _upload(fs, folder / "states.npy")

    def read(self, fs: fsspec.AbstractFileSystem, folder: Path, states: States, layer: int) -> np.ndarray:
        path, row = f"{BUCKET}/states.npy", states.hidden * 2
        start = fs.size(path) - states.examples * states.layers * 2 * row + layer * 2 * row
        starts = [start + example * states.layers * 2 * row for example in range(states.examples)]
        found = fs.cat_ranges([path] * len(starts), starts, [first + row for first in starts])
        return np.frombuffer(b"".join(found), np.float16).reshape(-1, states.hidden)


class RemoteHdf5(Remote):
    """block: bytes that fsspec reads ahead; none for its own choice."""

    def __init__(self, block: int | None) -> None:
        self.block = block
        self.name = "h5py, chunked, " + ("read ahead by fsspec" if block is None else "nothing read ahead")

    def put(self, fs: fsspec.AbstractFileSystem, folder: Path, states: States) -> None:
        Hdf5(chunked=True).write(folder / "states.h5", states)
        _upload(fs, folder / "states.h5")

    def read(self, fs: fsspec.AbstractFileSystem, folder: Path, states: States, layer: int) -> np.ndarray:
        cache = {} if self.block is None else {"cache_type": "none"}
        with fs.open(f"{BUCKET}/states.h5", "rb", **cache) as file:
            return Hdf5(chunked=True).read_file(file, layer)


class TorchObjects(Remote):
    """An object per example, all asked for together."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.name = f"torch.save, an object per example, {tokens} {'token' if tokens == 1 else 'tokens'}"

    def put(self, fs: fsspec.AbstractFileSystem, folder: Path, states: States) -> None:
        Torch(self.tokens).write(folder / "examples", states)
        for path in (folder / "examples").iterdir():
            _upload(fs, path)

    def read(self, fs: fsspec.AbstractFileSystem, folder: Path, states: States, layer: int) -> np.ndarray:
        paths = [f"{BUCKET}/{number}.pt" for number in range(states.examples)]
        found = fs.cat(paths)
        return torch.stack([from_torch_bytes(found[path])[layer, -1] for path in paths]).numpy()


class DownloadedSqlite(Remote):
    """The whole file comes here first."""

    name = "SQLite, the file downloaded, raw blobs, 1 token"

    def put(self, fs: fsspec.AbstractFileSystem, folder: Path, states: States) -> None:
        Sqlite(1, pickled=False).write(folder / "states.db", states)
        _upload(fs, folder / "states.db")

    def read(self, fs: fsspec.AbstractFileSystem, folder: Path, states: States, layer: int) -> np.ndarray:
        path = folder / "downloaded.db"
        fs.get_file(f"{BUCKET}/states.db", str(path))
        values = Sqlite(1, pickled=False).read(path, states, layer)
        path.unlink()
        return values


def rows(states: States, layer: int, folder: Path, many: int) -> tuple[list[Row], list[str]]:
    """The table's rows. many: examples of which the objects with several tokens are, their numbers multiplied."""
    ways = [
        (RangedNpy(), states),
        (RemoteHdf5(None), states),
        (RemoteHdf5(0), states),
        (TorchObjects(1), states),
        (TorchObjects(8), states.first(many)),
        (DownloadedSqlite(), states),
    ]
    os.environ.update(CREDENTIALS, TMPDIR=str(folder))
    expected = states.at(layer)
    with S3Server() as server, relayed(urlsplit(server.endpoint).port, DELAY) as port:
        ends = {"B5": server.options, "B6": {"endpoint_url": f"http://127.0.0.1:{port}"}}
        ours = _ours(server, ends, states, layer, expected)
        found = {part: [fetched(part, f"{PLACES[part]}: ours", cost, states.one)] for part, cost in ours.items()}
        for number, (way, kept) in enumerate(ways):
            place = folder / f"{number}"
            place.mkdir()
            near = fsspec.filesystem("s3", **server.options)
            near.mkdir(BUCKET)
            way.put(near, place, kept)
            for part, options in ends.items():
                cost = _measured(_reading(way, options, place, kept, layer), expected[: kept.examples])
                cost = cost.times(states.examples / kept.examples)
                found[part].append(show(part, f"{PLACES[part]}: {way.name}", cost, ours[part]))
            near.rm(BUCKET, recursive=True)
    return [row for part in ends for row in found[part]], _notes(states, many)


PLACES = {"B5": "S3", "B6": f"S3, {DELAY * 1000:.0f} ms away"}


def _ours(
    server: S3Server, ends: Mapping[str, Options], states: States, layer: int, expected: np.ndarray
) -> dict[str, Cost]:
    url = f"{server.bucket('lake')}/lake"
    write_states(url, states, server.options)
    found = {}
    for part, options in ends.items():
        reader = Reader(url, options)
        found[part] = _measured(lambda reader=reader: reader.read(layer), expected)
    fsspec.filesystem("s3", **server.options).rm("lake", recursive=True)
    return found


def _reading(way: Remote, options: Options, folder: Path, states: States, layer: int) -> Callable[[], np.ndarray]:
    fs = fsspec.filesystem("s3", use_listings_cache=False, **options)
    return lambda: way.read(fs, folder, states, layer)


def _measured(read: Callable[[], np.ndarray], expected: np.ndarray) -> Cost:
    costs = []
    for _ in range(ROUNDS):
        cost, values = counts.web(read)
        if not np.array_equal(values.astype(np.float16), expected):
            raise AssertionError("other values were read than were written")
        costs.append(cost)
    return min(costs, key=lambda one: one.seconds)


def _upload(fs: fsspec.AbstractFileSystem, path: Path) -> None:
    fs.put_file(str(path), f"{BUCKET}/{path.name}")
    path.unlink()


def _notes(states: States, many: int) -> list[str]:
    return [
        f"B5, B6: the first {states.examples:,} examples from an S3 server (moto) on loopback, B6 behind a relay that "
        f"holds every request back for {DELAY * 1000:.0f} ms; {states.one / 1e6:.1f} MB asked for.",
        f"Bytes and requests as s3fs sends them, listings too. Best of {ROUNDS}. Objects of 8 tokens: measured over "
        f"{many} examples and multiplied. Bytes and requests are the finding,",
        "seconds are moto's: it answers some hundred requests a second, from cores that it shares, and reads a whole "
        "object for every range of it.",
    ]

"""What people keep activations in today: each writes the examples' states to one path and reads one layer of all."""

from __future__ import annotations

import io
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
import torch

from stores.subject import POSITIONS, States


class Way(ABC):
    """name: for the table."""

    name: str

    @abstractmethod
    def write(self, path: Path, states: States) -> None: ...

    @abstractmethod
    def read(self, path: Path, states: States, layer: int) -> np.ndarray:
        """float16 [example, hidden] of the first position."""


class Npy(Way):
    """One array, mapped into memory when read."""

    name = "np.save, one array, memory-mapped"

    def write(self, path: Path, states: States) -> None:
        shape = (states.examples, states.layers, len(POSITIONS), states.hidden)
        array = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        for start, block in states.blocks():
            array[start : start + len(block)] = block

    def read(self, path: Path, states: States, layer: int) -> np.ndarray:
        return np.array(np.load(path, mmap_mode="r")[:, layer, 0])


class Hdf5(Way):
    """chunked: one chunk is one layer and position of a batch, as ours; else contiguous."""

    def __init__(self, chunked: bool) -> None:
        self.chunked = chunked
        self.name = "h5py, " + ("chunks of a batch, layer and position" if chunked else "contiguous")

    def write(self, path: Path, states: States) -> None:
        shape = (states.examples, states.layers, len(POSITIONS), states.hidden)
        chunks = (min(states.batch, states.examples), 1, 1, states.hidden) if self.chunked else None
        with h5py.File(path, "w") as file:
            array = file.create_dataset("states", shape, np.float16, chunks=chunks)
            for start, block in states.blocks():
                array[start : start + len(block)] = block

    def read(self, path: Path, states: States, layer: int) -> np.ndarray:
        return self.read_file(path, layer)

    def read_file(self, file: Path | BinaryIO, layer: int) -> np.ndarray:
        with h5py.File(file, "r") as opened:
            values: np.ndarray = opened["states"][:, layer, 0]
            return values


class Torch(Way):
    """A file per example with the hidden states of all its tokens at all layers. mapped: torch.load(mmap=True)."""

    def __init__(self, tokens: int, mapped: bool = False) -> None:
        self.tokens, self.mapped = tokens, mapped
        self.name = f"torch.save, a file per example, {_tokens(tokens)}" + (", mmap=True" if mapped else "")

    def write(self, path: Path, states: States) -> None:
        path.mkdir()
        for number, whole in enumerate(states.sequences(self.tokens)):
            torch.save(torch.from_numpy(whole), path / f"{number}.pt")

    def read(self, path: Path, states: States, layer: int) -> np.ndarray:
        files = (path / f"{number}.pt" for number in range(states.examples))
        # Cloned, so that one example's file is let go before the next one is read.
        rows = [torch.load(file, mmap=self.mapped)[layer, -1].clone() for file in files]
        return torch.stack(rows).numpy()


class Sqlite(Way):
    """A row per example and layer with an index over the layers. pickled: blobs are torch.save's, else raw bytes."""

    def __init__(self, tokens: int, pickled: bool) -> None:
        self.tokens = tokens
        kind = "torch.save blobs" if pickled else "raw blobs"
        self.name = f"SQLite, {kind} by example and layer, {_tokens(tokens)}"
        self.pickled = pickled

    def write(self, path: Path, states: States) -> None:
        connection = table_at(path, synced=False)
        for number, whole in enumerate(states.sequences(self.tokens)):
            insert(connection, number, whole, as_torch_file if self.pickled else np.ndarray.tobytes)
        connection.execute("CREATE INDEX by_layer ON tensors (layer)")
        connection.commit()
        connection.close()

    def read(self, path: Path, states: States, layer: int) -> np.ndarray:
        connection = sqlite3.connect(path)
        asked = connection.execute("SELECT tensor FROM tensors WHERE layer = ? ORDER BY rowid", (layer,))
        rows = [self._decode(blob, states.hidden)[-1].copy() for (blob,) in asked]
        connection.close()
        return np.stack(rows)

    def _decode(self, blob: bytes, hidden: int) -> np.ndarray:
        if self.pickled:
            return from_torch_bytes(blob).numpy()
        return np.frombuffer(blob, np.float16).reshape(self.tokens, hidden)


def table_at(path: Path, synced: bool) -> sqlite3.Connection:
    """A new database with the table that `insert` fills. synced: whether a commit waits for the disk."""
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA synchronous = {'FULL' if synced else 'OFF'}")
    connection.execute("CREATE TABLE tensors (example INTEGER, layer INTEGER, tensor BLOB)")
    return connection


def insert(connection: sqlite3.Connection, example: int, layers: np.ndarray, encode: Callable[..., bytes]) -> None:
    """One row for each layer of an example."""
    rows = ((example, layer, encode(values)) for layer, values in enumerate(layers))
    connection.executemany("INSERT INTO tensors VALUES (?, ?, ?)", rows)


def as_torch_file(values: np.ndarray) -> bytes:
    """The bytes of the file that torch.save makes of these values alone."""
    buffer = io.BytesIO()
    torch.save(torch.from_numpy(values), buffer)
    return buffer.getvalue()


def from_torch_bytes(content: bytes) -> torch.Tensor:
    """What `as_torch_file` or torch.save made a file of."""
    tensor: torch.Tensor = torch.load(io.BytesIO(content))
    return tensor


def _tokens(count: int) -> str:
    return "1 token" if count == 1 else f"{count} tokens"

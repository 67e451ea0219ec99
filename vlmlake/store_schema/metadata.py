"""The zarr.json documents of a run: what they must say follows from its record, to the byte.

They are for readers that know Zarr and not us. Our own reader takes everything from the record, so that a document
which was changed misleads nobody here; `verify` compares them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from vlmlake.store_schema import bfloat16, paths
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ROLES
from vlmlake.store_schema.shards import COMPRESSION_LEVEL
from vlmlake.store_schema.storage import Storage

DOCUMENT = "zarr.json"
SEPARATOR = "."
"""Between the numbers in a shard's name: all shards of an array lie in one folder."""

assert bfloat16.BFLOAT16  # known to zarr from here on


def documents(record: RunRecord) -> dict[str, bytes]:
    """Every zarr.json of a run by its path, the group's first, as they are until the run is finished."""
    return _documents(record, consolidated=False)


def finished_group(record: RunRecord) -> tuple[str, bytes]:
    """Path and content of the group's zarr.json once the run is finished: those of all its arrays are in it."""
    path = f"{paths.arrays(record.name)}/{DOCUMENT}"
    return path, _documents(record, consolidated=True)[path]


def write_documents(storage: Storage, record: RunRecord) -> None:
    """Put all of them; the same content each time, so that several writers may, and one that comes late leaves the
    group's as a finished run has it.
    """
    for path, content in documents(record).items():
        if not storage.create(path, content) and path != finished_group(record)[0]:
            storage.write(path, content)


def _documents(record: RunRecord, consolidated: bool) -> dict[str, bytes]:
    store = MemoryStore()
    attributes = {"layers": list(record.layers), "positions": list(record.positions), "roles": list(ROLES)}
    group = zarr.create_group(store, zarr_format=3, attributes=attributes)
    for spec in record.specs:
        layout = spec.layout(record.extents, record.stored_dtype)
        group.create_array(
            spec.name,
            shape=layout.shape,
            chunks=layout.chunks,
            shards=layout.shards,
            dtype=spec.dtype(record.stored_dtype),
            fill_value=spec.fill_value,
            compressors=[ZstdCodec(level=COMPRESSION_LEVEL), Crc32cCodec()],
            chunk_key_encoding={"name": "default", "separator": SEPARATOR},
            dimension_names=spec.dimensions,
            attributes={"description": spec.description},
            config={"write_empty_chunks": False},
        )
    if consolidated:
        with warnings.catch_warnings(category=ZarrUserWarning, action="ignore"):
            zarr.consolidate_metadata(store)
    keys = [DOCUMENT, *(f"{spec.name}/{DOCUMENT}" for spec in record.specs)]
    return {f"{paths.arrays(record.name)}/{key}": content for key, content in _contents(store, keys).items()}


def _contents(store: MemoryStore, keys: list[str]) -> Mapping[str, bytes]:
    async def fetch() -> dict[str, bytes]:
        found = {}
        for key in keys:
            buffer = await store.get(key, default_buffer_prototype())
            assert buffer is not None
            found[key] = buffer.to_bytes()
        return found

    return sync(fetch())

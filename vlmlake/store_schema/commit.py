"""One batch's commit: a Parquet file with its rows, whose footer says what its shards are."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from vlmlake.errors import DamagedError
from vlmlake.store_schema import json_text, tables

RUN, BATCH, SHARDS = "run", "batch", "shards"
"""Keys of the footer."""


@dataclass(frozen=True)
class ShardFacts:
    """One shard as it was put. crc32: of all its bytes. largest: the largest |x|, one per layer where the array has
    layers, else one for all.
    """

    bytes: int
    crc32: int
    largest: tuple[float, ...]


@dataclass(frozen=True)
class Commit:
    """shards: by array. rows: those of tables.BATCH."""

    run: str
    batch: int
    shards: Mapping[str, ShardFacts]
    rows: pa.Table = field(repr=False)

    @classmethod
    def of(cls, run: str, batch: int, shards: Mapping[str, ShardFacts], rows: Sequence[Mapping[str, Any]]) -> Commit:
        """Raises ValueError for a column that tables.BATCH has not."""
        unknown = {name for row in rows for name in row} - set(tables.BATCH.names)
        if unknown:
            raise ValueError(f"columns {sorted(unknown)} are not in the schema, which has {tables.BATCH.names}")
        return cls(run, batch, shards, pa.Table.from_pylist([dict(row) for row in rows], schema=tables.BATCH))

    @property
    def bytes(self) -> int:
        """Of its shards."""
        return sum(shard.bytes for shard in self.shards.values())

    def encode(self) -> builtins.bytes:
        """The file; the same content gives the same bytes."""
        pairs = {RUN: self.run, BATCH: str(self.batch), SHARDS: encode_shards(self.shards)}
        return tables.encode(self.rows, pairs)

    @classmethod
    def decode(cls, content: builtins.bytes, run: str, batch: int, where: str) -> Commit:
        """Raises DamagedError if the file is damaged, or the commit of another batch or run."""
        rows, pairs = tables.decode(content, tables.BATCH, where)
        told = (pairs.get(RUN), pairs.get(BATCH))
        if told != (run, str(batch)):
            raise DamagedError(f"{where} is the commit of batch {told[1]} of the run {told[0]}: remove it")
        return cls(run, batch, decode_shards(pairs.get(SHARDS, "{}"), where), rows)


def encode_shards(shards: Mapping[str, ShardFacts]) -> str:
    """Facts of shards by array, as JSON."""
    return json.dumps({name: asdict(facts) for name, facts in shards.items()}, separators=(",", ":"))


def decode_shards(text: str, where: str) -> dict[str, ShardFacts]:
    """What `encode_shards` gave. Raises DamagedError for anything else."""
    try:
        return {
            name: ShardFacts(int(facts["bytes"]), int(facts["crc32"]), tuple(map(float, facts["largest"])))
            for name, facts in json_text.parse(text).items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DamagedError(f"{where} does not say what its shards are: {type(error).__name__}: {error}") from error

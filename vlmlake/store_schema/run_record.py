"""run.json: what decided a run's content, how its arrays are laid out, and which versions wrote it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from vlmlake.errors import DamagedError
from vlmlake.store_schema import json_text, paths, seals
from vlmlake.store_schema.record_fields import require_fields
from vlmlake.store_schema.schema import ARRAYS, ArraySpec, Extents
from vlmlake.store_schema.storage import Storage

JsonObject = Mapping[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """One run.

    model: short name, the first part of the run's name. identity: everything that decides the content (model, dataset,
    prompt template, plan, generation, dtypes); its hash is the second part. examples: how many the run will hold; rows:
    how many distinct (image, question) pairs they are. arrays, layers, positions: what the plan keeps, the last two the
    labels of their axes. final_norm: kind and epsilon of the norm before the unembedding. versions: what wrote the run,
    for the record only.
    """

    model: str
    identity: JsonObject
    examples: int
    rows: int
    extents: Extents
    stored_dtype: str
    arrays: tuple[str, ...]
    layers: tuple[str, ...]
    positions: tuple[str, ...]
    final_norm: JsonObject
    versions: JsonObject

    @cached_property
    def name(self) -> str:
        """The model's short name and eight hexadecimal digits, as in `llava-1.5-7b-hf-3f9c2a1b`."""
        return f"{self.model}-{fingerprint(self.identity)[:8]}"

    @property
    def specs(self) -> tuple[ArraySpec, ...]:
        """The run's arrays, in the order of schema.ARRAYS."""
        return tuple(spec for spec in ARRAYS if spec.name in self.arrays)

    @property
    def batch_specs(self) -> tuple[ArraySpec, ...]:
        """Those of which every batch writes one shard."""
        return tuple(spec for spec in self.specs if not spec.once)

    def to_json(self) -> bytes:
        """The record, sealed."""
        return seals.sealed(
            json.dumps({**asdict(self), seals.KEY: seals.BLANK}, indent=2, sort_keys=True).encode() + b"\n"
        )

    @classmethod
    def from_json(cls, text: bytes) -> RunRecord:
        """Raises ValueError, TypeError or KeyError if `text` is not what `to_json` writes."""
        if not seals.is_whole(text):
            raise ValueError("its checksum does not hold")
        fields = json_text.parse(text)
        if not isinstance(fields, dict):
            raise ValueError("it is no JSON object")
        del fields[seals.KEY]
        require_fields(fields)
        labels = {name: tuple(fields[name]) for name in ("arrays", "layers", "positions")}
        return cls(**{**fields, **labels, "extents": Extents(**fields["extents"])})


def read_record(storage: Storage, run: str) -> RunRecord:
    """The record of a run that is there. Raises DamagedError if it is damaged or another run's."""
    where = f"{paths.run_record(run)} of {storage.url}"
    try:
        record = RunRecord.from_json(storage.read(paths.run_record(run)))
        name = record.name
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedError(
            f"{where} is damaged ({type(error).__name__}: {error}): expected what vlmlake extract writes"
        ) from error
    if name != run:
        raise DamagedError(f"{where} is that of the run {name}")
    return record


def fingerprint(value: object) -> str:
    """SHA-256 of a JSON value in a canonical spelling, as hexadecimal digits."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()

"""A storage that adds up the bytes which went through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from vlmlake.store_schema.storage import Storage


@dataclass(frozen=True)
class CountedStorage(Storage):
    """got, gave: bytes of every answer and of every put so far; several threads may add to them."""

    got: list[int] = field(default_factory=list, repr=False, compare=False)
    gave: list[int] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def of(cls, storage: Storage) -> CountedStorage:
        """The same folder, from zero."""
        return cls(*(getattr(storage, part.name) for part in fields(Storage)))

    @property
    def bytes_read(self) -> int:
        return sum(self.got)

    @property
    def reads(self) -> int:
        """Files and parts of files that were read."""
        return len(self.got)

    @property
    def bytes_written(self) -> int:
        return sum(self.gave)

    def read(self, path: str) -> bytes:
        content = super().read(path)
        self.got.append(len(content))
        return content

    def read_spans(self, spans: Sequence[tuple[str, int, int]]) -> list[bytes]:
        parts = super().read_spans(spans)
        self.got.extend(len(part) for part in parts)
        return parts

    def write(self, path: str, content: bytes | Sequence[bytes]) -> None:
        super().write(path, content)
        self.gave.append(len(content) if isinstance(content, bytes) else sum(len(part) for part in content))

    def create(self, path: str, content: bytes) -> bool:
        created = super().create(path, content)
        if created:
            self.gave.append(len(content))
        return created

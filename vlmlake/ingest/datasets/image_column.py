"""What an Arrow column of images holds: names, bytes, or both in the struct {bytes, path} of Hugging Face datasets."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from vlmlake.errors import VlmlakeError


@dataclass(frozen=True)
class ImageColumn:
    """Where the names and the bytes are: the column itself or, dotted, a field of it; None where there are none."""

    column: str
    names: str | None
    content: str | None

    @classmethod
    def of(cls, table: str, column: str, kind: pa.DataType) -> ImageColumn:
        """Raises VlmlakeError for a type that holds no images."""
        fields = {kind.field(i).name for i in range(kind.num_fields)} if pa.types.is_struct(kind) else set()
        if fields:
            names = f"{column}.path" if "path" in fields else None
            content = f"{column}.bytes" if "bytes" in fields else None
        else:
            names, content = (column if _is_text(kind) else None), (column if _is_binary(kind) else None)
        if names is None and content is None:
            raise VlmlakeError(f"{table}: column {column} is {kind}, expected paths, URLs or the images' bytes")
        return cls(column, names, content)


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))

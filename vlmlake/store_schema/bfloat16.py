"""The registered Zarr data type `bfloat16` over ml_dtypes, which zarr-python does not bring along.

Specification: zarr-extensions, data-types/bfloat16. Importing this module makes zarr-python read and write it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import ml_dtypes
import numpy as np
from zarr.core.dtype import data_type_registry
from zarr.core.dtype.common import DataTypeValidationError, HasEndianness, HasItemSize
from zarr.core.dtype.wrapper import ZDType

BFLOAT16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
SPECIAL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


@dataclass(frozen=True, kw_only=True)
class BFloat16(ZDType[Any, Any], HasEndianness, HasItemSize):
    """The upper half of a float32: eight bits of exponent, seven of mantissa. Zarr v3 only."""

    dtype_cls: ClassVar[Any] = type(BFLOAT16)
    _zarr_v3_name: ClassVar[str] = "bfloat16"

    @property
    def item_size(self) -> int:
        return BFLOAT16.itemsize

    @classmethod
    def from_native_dtype(cls, dtype: Any) -> Self:
        if dtype == BFLOAT16:
            return cls(endianness="little")
        raise DataTypeValidationError(f"expected {BFLOAT16}, got {dtype}")

    def to_native_dtype(self) -> np.dtype[Any]:
        return BFLOAT16

    @classmethod
    def _from_json_v2(cls, data: Any) -> Self:
        raise DataTypeValidationError("bfloat16 is a data type of Zarr v3 only")

    @classmethod
    def _from_json_v3(cls, data: Any) -> Self:
        if data == cls._zarr_v3_name:
            return cls()
        raise DataTypeValidationError(f"expected {cls._zarr_v3_name}, got {data!r}")

    def to_json(self, zarr_format: int) -> Any:
        if zarr_format == 3:
            return self._zarr_v3_name
        raise ValueError("bfloat16 is a data type of Zarr v3 only")

    def _check_scalar(self, data: object) -> bool:
        return isinstance(data, int | float | np.floating | np.integer | ml_dtypes.bfloat16)

    def cast_scalar(self, data: object) -> Any:
        if not self._check_scalar(data):
            raise TypeError(f"cannot make {data!r} a bfloat16")
        return BFLOAT16.type(data)

    def default_scalar(self) -> Any:
        return BFLOAT16.type(0)

    def to_json_scalar(self, data: object, *, zarr_format: int) -> float | str:
        value = float(self.cast_scalar(data))
        if np.isnan(value):
            return "NaN"
        return value if np.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")

    def from_json_scalar(self, data: Any, *, zarr_format: int) -> Any:
        if isinstance(data, str):
            if data.startswith("0x"):
                return np.array(int(data, 16), np.uint16).view(BFLOAT16)[()]
            if data not in SPECIAL:
                raise TypeError(f"{data!r} is no value of bfloat16")
            return BFLOAT16.type(SPECIAL[data])
        return self.cast_scalar(data)


def _register() -> None:
    if BFloat16._zarr_v3_name not in data_type_registry.contents:
        data_type_registry.register(BFloat16._zarr_v3_name, BFloat16)


_register()

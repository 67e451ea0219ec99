"""bfloat16 as a data type of Zarr v3."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import zarr
from zarr.core.dtype.common import DataTypeValidationError

from vlmlake.store_schema.bfloat16 import BFLOAT16, BFloat16

TYPE = BFloat16()
EVERY_VALUE = np.arange(2**16, dtype=np.uint16).view(BFLOAT16)


def test_every_value_survives_zarr(tmp_path):
    array = zarr.create_array(
        str(tmp_path), shape=(2**16 + 8,), chunks=(1000,), dtype=BFLOAT16, fill_value=float("nan")
    )
    array[: 2**16] = EVERY_VALUE
    again = zarr.open_array(str(tmp_path), mode="r")
    assert again.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(again[: 2**16].view(np.uint16), EVERY_VALUE.view(np.uint16))
    assert np.isnan(again[2**16 :].astype(np.float32)).all()
    document = json.loads((Path(tmp_path) / "zarr.json").read_text())
    assert (document["data_type"], document["fill_value"]) == ("bfloat16", "NaN")


@pytest.mark.parametrize(
    ("told", "value"),
    [
        ("NaN", float("nan")),
        ("Infinity", float("inf")),
        ("-Infinity", float("-inf")),
        ("0x3f80", 1.0),
        ("0xc000", -2.0),
        (1.5, 1.5),
        (-1, -1.0),
    ],
)
def test_scalars_of_json_are_read(told, value):
    found = TYPE.from_json_scalar(told, zarr_format=3)
    assert found.dtype == BFLOAT16
    np.testing.assert_equal(float(found), value)


@pytest.mark.parametrize("told", ["nan", "", "1.0", "inf", None, [1]])
def test_other_scalars_of_json_are_refused(told):
    with pytest.raises(TypeError):
        TYPE.from_json_scalar(told, zarr_format=3)


@pytest.mark.parametrize("told", ["0x", "0xzz", "0x1ffff", "0x-1"])
def test_hexadecimals_of_another_width_or_none_are_refused(told):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        TYPE.from_json_scalar(told, zarr_format=3)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, float("nan"), float("inf"), float("-inf"), 3.0e38])
def test_scalars_survive_json(value):
    scalar = BFLOAT16.type(value)
    told = json.loads(json.dumps(TYPE.to_json_scalar(scalar, zarr_format=3), allow_nan=False))
    again = TYPE.from_json_scalar(told, zarr_format=3)
    np.testing.assert_equal(float(again), float(scalar))


def test_zarr_of_version_two_is_refused(tmp_path):
    with pytest.raises(ValueError, match="bfloat16 is a data type of Zarr v3 only"):
        zarr.create_array(str(tmp_path / "two"), shape=(4,), chunks=(2,), dtype=BFLOAT16, zarr_format=2)
    with pytest.raises(ValueError, match="bfloat16 is a data type of Zarr v3 only"):
        TYPE.to_json(2)
    with pytest.raises(DataTypeValidationError, match="Zarr v3 only"):
        BFloat16.from_json({"name": "<V2", "object_codec_id": None}, zarr_format=2)


def test_other_types_are_not_taken_for_it():
    for other in ("float16", "uint16", "V2"):
        with pytest.raises(DataTypeValidationError):
            BFloat16.from_native_dtype(np.dtype(other))
    with pytest.raises(DataTypeValidationError):
        BFloat16.from_json("float16", zarr_format=3)
    assert zarr.dtype.parse_dtype(BFLOAT16, zarr_format=3) == BFloat16(endianness="little")
    assert zarr.dtype.parse_dtype(np.dtype("float16"), zarr_format=3) != BFloat16(endianness="little")

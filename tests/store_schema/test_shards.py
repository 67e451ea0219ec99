"""Shards that we encode ourselves are what zarr-python reads, chunk for chunk."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from vlmlake.store_schema import shards
from vlmlake.store_schema.shards import COMPRESSION_LEVEL, encode_shard, largest_magnitude

CODECS = [ZstdCodec(level=COMPRESSION_LEVEL), Crc32cCodec()]


def random_values(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "i":
        return rng.integers(-1, 5, shape).astype(dtype)
    values = rng.normal(size=shape).astype(dtype)
    values[rng.random(shape) < 0.3] = np.nan
    return values


def stored(folder, values, shard, chunks, batches=3, number=1):
    """An array of several shards of which ours is one, read back by zarr."""
    fill = float("nan") if values.dtype.kind == "f" else -1
    array = zarr.create_array(
        str(folder),
        shape=(batches * shard[0], *shard[1:]),
        chunks=chunks,
        shards=shard,
        dtype=values.dtype,
        fill_value=fill,
        compressors=CODECS,
        config={"write_empty_chunks": False},
    )
    encoded = encode_shard(values, shard, chunks, fill)
    path = folder.joinpath("c", str(number), *("0" for _ in shard[1:]))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(encoded.parts))
    whole = np.full(array.shape, fill, values.dtype)
    first = number * shard[0]
    whole[
        tuple(slice(start, start + length) for start, length in zip([first, *[0] * 9], values.shape, strict=False))
    ] = values
    return zarr.open_array(str(folder), mode="r"), whole, path


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "int16", "int32"])
@pytest.mark.parametrize(
    ("given", "shard", "chunks"),
    [
        ((4, 3, 8), (4, 3, 8), (2, 1, 4)),
        ((3, 3, 5), (4, 3, 8), (2, 1, 4)),
        ((1, 1, 1), (4, 3, 8), (4, 3, 8)),
        ((5,), (6,), (2,)),
        ((2, 2, 3, 5, 7), (2, 2, 4, 6, 7), (1, 1, 2, 3, 7)),
    ],
    ids=["whole", "shorter", "corner", "one axis", "five axes"],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_zarr_reads_what_was_encoded(tmp_path, monkeypatch, dtype, given, shard, chunks, threads):
    monkeypatch.setattr(shards, "THREADS", threads)
    values = random_values(given, dtype, seed=len(given))
    array, whole, _ = stored(tmp_path / "array", values, shard, chunks)
    np.testing.assert_array_equal(array[...], whole)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int32"])
def test_every_chunk_has_the_bytes_that_zarr_would_write(tmp_path, dtype):
    values = random_values((4, 6), dtype, seed=1)
    _, _, path = stored(tmp_path / "ours", values, (4, 6), (2, 3), batches=1, number=0)
    fill = float("nan") if values.dtype.kind == "f" else -1
    theirs = zarr.create_array(
        str(tmp_path / "theirs"),
        shape=(4, 6),
        chunks=(2, 3),
        shards=(4, 6),
        dtype=dtype,
        fill_value=fill,
        compressors=CODECS,
        config={"write_empty_chunks": False},
    )
    theirs[...] = values
    ours, wanted = path.read_bytes(), (tmp_path / "theirs" / "c" / "0" / "0").read_bytes()
    assert len(ours) == len(wanted)
    assert by_place(ours, chunks=4) == by_place(wanted, chunks=4)


def by_place(shard: bytes, chunks: int) -> list[bytes]:
    """The encoded chunks in the order of the index; zarr lays them out in another."""
    index = np.frombuffer(shard[-4 - 16 * chunks : -4], "<u8").reshape(chunks, 2)
    return [shard[offset : offset + length] for offset, length in index.tolist()]


def test_chunks_of_fill_values_are_left_out(tmp_path):
    values = np.full((4, 8), np.nan, np.float16)
    values[0, 0] = 1
    encoded = encode_shard(values, (4, 8), (2, 4), float("nan"))
    index = np.frombuffer(encoded.parts[-2], "<u8").reshape(2, 2, 2)
    assert (index[0, 0] != shards.MISSING).all()
    assert (index.reshape(4, 2)[1:] == shards.MISSING).all()


def test_a_chunk_that_a_writer_damaged_is_noticed_by_zarr(tmp_path):
    values = random_values((4, 8), "float16", seed=3)
    array, _, path = stored(tmp_path / "array", values, (4, 8), (2, 4))
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"(?i)checksum"):
        array[...]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1, -3, 2], 3),
        ([np.nan, -0.5], 0.5),
        ([np.nan], 0),
        ([], 0),
        ([0.0, -0.0], 0),
        ([-np.inf, 5], np.inf),
        ([np.nan, np.inf], np.inf),
        ([2.0**-24], 2.0**-24),
    ],
    ids=str,
)
def test_the_largest_magnitude_leaves_nan_out(dtype, values, wanted):
    found = largest_magnitude(np.array(values, dtype))
    assert found == pytest.approx(wanted, rel=2e-3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_largest_magnitude_is_numpys(dtype):
    values = random_values((300, 700), dtype, seed=9)
    assert largest_magnitude(values) == float(np.nanmax(np.abs(values.astype(np.float64))))
    encoded = encode_shard(values, (300, 700), (100, 70), float("nan"))
    assert encoded.largest == (largest_magnitude(values),)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_largest_magnitude_is_told_by_layer(dtype):
    values = random_values((5, 4, 7), dtype, seed=2)
    values[:, 2] = np.nan
    encoded = encode_shard(values, (6, 5, 8), (2, 1, 4), float("nan"), split=1)
    by_layer = [largest_magnitude(values[:, layer]) for layer in range(4)]
    assert encoded.largest == (*by_layer, 0.0)
    assert encoded.largest[2] == 0


def test_shards_of_other_values_have_another_checksum():
    """Of a CRC-32C behind each chunk a CRC-32C makes the same number, whatever was in the chunk."""
    ones = [encode_shard(np.full((4, 6), value, np.int16), (4, 6), (2, 3), -1) for value in range(50)]
    assert len({encoded.bytes for encoded in ones}) == 1
    assert len({encoded.crc32 for encoded in ones}) == len(ones)

"""Layers by their place in the model: their labels sort otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from vlmlake.store_schema.schema import EMBED


def block_number(layer: str) -> int:
    """Of the label `block_7` the 7; `embed` is -1."""
    return -1 if layer == EMBED else int(layer.removeprefix("block_"))


def block_numbers(layers: Sequence[str]) -> np.ndarray:
    """Those of the labels of a `layer` axis. [L], int64."""
    return np.array([block_number(layer) for layer in layers], np.int64)


def in_order(examples: xr.Dataset) -> xr.Dataset:
    """The same numbers with the axis `layer`, where there is one, from the embeddings to the last block."""
    if "layer" not in examples.dims:
        return examples
    return examples.isel(layer=np.argsort(block_numbers(examples["layer"].values.tolist()), kind="stable"))

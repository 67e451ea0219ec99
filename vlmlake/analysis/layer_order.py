"""Layers by their place in the model: their labels sort otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from vlmlake.store_schema.schema import EMBED

BLOCK = "block_"


def block_number(layer: str) -> int:
    """Of the label `block_7` the 7; `embed` is -1."""
    return -1 if layer == EMBED else int(layer.removeprefix(BLOCK))


def block_numbers(layers: Sequence[str]) -> np.ndarray:
    """Those of the labels of a `layer` axis. [L], int64."""
    return np.array([block_number(layer) for layer in layers], np.int64)


def in_order(examples: xr.Dataset) -> xr.Dataset:
    """The same numbers with the axis `layer`, where there is one, from the embeddings to the last block; labels
    that are no layer, as `mean`, come last.
    """
    if "layer" not in examples.dims:
        return examples
    places = [block_number(label) if is_layer(label) else np.inf for label in examples["layer"].values.tolist()]
    return examples.isel(layer=np.argsort(places, kind="stable"))


def is_layer(label: str) -> bool:
    """Whether a label is that of a layer, not of a mean over layers or of one that was chosen."""
    return label == EMBED or label.startswith(BLOCK)

"""Layers that a curve over layers singles out, as block numbers; the embeddings, before the first block, are -1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlmlake.analysis.layer_order import block_numbers


def whole_stack(layers: Sequence[str]) -> bool:
    """Whether the labels are all the blocks from the first one on: the last of them may be the model's last."""
    blocks = [int(number) for number in block_numbers(layers) if number >= 0]
    return bool(blocks) and blocks == list(range(len(blocks)))


def commit_layers(margins: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """The first layer from which on the sign of an example's margin never changes again.

    margins: [n, L]; above 0 is one sign, 0 and below the other. blocks: [L], ascending. Returns [n], float64: the block
    after the last change, the first kept layer where there is none; NaN where a margin is.
    """
    ahead = margins > 0
    later = np.where(ahead[:, 1:] != ahead[:, :-1], np.arange(1, ahead.shape[1]), 0)
    return np.where(np.isnan(margins).any(axis=1), np.nan, blocks[later.max(axis=1, initial=0)])


def onset(curves: np.ndarray, blocks: np.ndarray, threshold: float) -> np.ndarray:
    """The first layer at which a curve exceeds the threshold. curves: [k, L]. Returns [k], NaN where it never does."""
    over = curves > threshold
    return np.where(over.any(axis=1), blocks[over.argmax(axis=1)], np.nan)


def crossing(curves: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """The first layer from which on a curve stays above 0. curves: [k, L]. Returns [k], NaN where it does not end
    there.
    """
    above = np.logical_and.accumulate(curves[:, ::-1] > 0, axis=1)[:, ::-1]
    return np.where(above.any(axis=1), blocks[above.argmax(axis=1)], np.nan)


def peak(curves: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The layer at which a curve is largest, the first of equals, and how large. curves: [k, L]. Returns two of [k],
    NaN where the curve has a NaN.
    """
    gone = np.isnan(curves).any(axis=1)
    place = np.where(np.isnan(curves), -np.inf, curves).argmax(axis=1)
    return np.where(gone, np.nan, blocks[place]), np.where(gone, np.nan, curves[np.arange(len(curves)), place])

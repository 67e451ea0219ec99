"""How far each block moves the image's tokens in the residual stream."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from vlmlake.analysis.attention.prefixes import prefix_places

IMAGE_UPDATE = "image_update"


def image_updates(data: xr.Dataset, layers: Sequence[str]) -> np.ndarray | None:
    """u[l], the mean over image tokens of ||h_l - h_{l-1}||, that the pass stored of every prefix, for every example.

    Examples that continue one prefix have equal numbers: where the image cannot see the question, all of an image's.
    Returns [n, L], float64, over these blocks; None if the run keeps none.

    Raises VlmlakeError if an example's prefix is not there.
    """
    if IMAGE_UPDATE not in data:
        return None
    of_prefix = data[IMAGE_UPDATE].sel(layer=list(layers)).transpose("prefix", "layer").values.astype(np.float64)
    updates: np.ndarray = of_prefix[prefix_places(data)]
    return updates

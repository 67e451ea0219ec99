"""The stored prefix, an image and what comes before the question, that each example continues."""

from __future__ import annotations

import numpy as np
import xarray as xr

from vlmlake.errors import VlmlakeError


def prefix_places(data: xr.Dataset) -> np.ndarray:
    """[n], int64, the place of each example's own prefix on the axis `prefix`.

    Raises VlmlakeError if one is not there.
    """
    asked = data["prefix_of"].values
    places: np.ndarray = data.indexes["prefix"].get_indexer(asked)
    missing = np.flatnonzero(places < 0)
    if len(missing):
        first = missing[0]
        raise VlmlakeError(
            f"the prefixes of {len(missing)} of {len(asked)} examples are not in the data: that of "
            f"{data['example'].values[first]} is {asked[first]}"
        )
    return places

"""What a run says about its datasets beside their names; every loader takes it and uses what concerns it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Options:
    """images: the folder of the images, a local path or a URL, where they do not lie beside the questions.

    columns: what a table calls question, image, gold, id, split and image_name. storage: options for fsspec, given to
    every URL but http and https.
    """

    images: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    storage: Mapping[str, Any] = field(default_factory=dict)

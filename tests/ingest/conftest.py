"""The checkpoints that the package carries, by family."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

NAMES = {"llava": "tiny-llava", "paligemma": "tiny-paligemma", "qwen2_vl": "tiny-qwen2-vl"}


@pytest.fixture(scope="session")
def checkpoints() -> dict[str, Path]:
    """Folders of the tiny models by transformers' model_type."""
    return {family: Path(str(files("vlmlake.ingest") / "checkpoints" / name)) for family, name in NAMES.items()}

"""The shipped model and a random one of another shape, of every family."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ingest import tiny_models
from vlmlake.ingest.families import load_family
from vlmlake.ingest.families.base import Family
from vlmlake.ingest.model_source import ModelSource


@pytest.fixture(scope="session")
def folders(checkpoints, tmp_path_factory) -> dict[str, Path]:
    """By `tiny_llava`, `random_llava` and so on."""
    place = tmp_path_factory.mktemp("random")
    found = {}
    for name, tiny in checkpoints.items():
        found[f"tiny_{name}"] = tiny
        found[f"random_{name}"] = getattr(tiny_models, f"save_random_{name}")(place / name, tiny)
    return found


@pytest.fixture(
    scope="session",
    params=[f"{kind}_{name}" for name in ("llava", "paligemma", "qwen2_vl") for kind in ("tiny", "random")],
)
def family(request, folders) -> Family:
    return load_family(ModelSource(str(folders[request.param])))

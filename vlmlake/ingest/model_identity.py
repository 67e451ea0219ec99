"""What a model is, so that the same name with other weights becomes another run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from vlmlake.ingest.model_source import ModelSource

IDENTIFYING = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja")
READ_AT_ONCE = 1 << 20


def model_identity(source: ModelSource, model: Any) -> dict[str, Any]:
    """Type, dtype and content of a loaded model.

    source: as given to load_family; a local folder is identified by the SHA-256 of its files, a hub id by the commit
    that was loaded.
    """
    folder = Path(source.name).expanduser()
    content = {"sha256": _folder_digest(folder)} if folder.is_dir() else {"revision": model.config._commit_hash}
    return {
        "name": (folder.resolve().name if folder.is_dir() else source.name.rpartition("/")[2]),
        "type": model.config.model_type,
        "dtype": str(model.dtype).removeprefix("torch."),
        **content,
    }


def _folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in IDENTIFYING:
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                while block := file.read(READ_AT_ONCE):
                    digest.update(block)
    return digest.hexdigest()

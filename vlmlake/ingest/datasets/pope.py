"""POPE's question files (Li et al., EMNLP 2023): JSON Lines in spite of `.json`, or JSON arrays; one file per split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import cells
from vlmlake.ingest.datasets.example import Example
from vlmlake.ingest.datasets.image_folder import ImageFolder
from vlmlake.ingest.datasets.json_rows import json_rows
from vlmlake.ingest.datasets.options import Options

SPLITS = ("random", "popular", "adversarial")
FIELDS = ("question_id", "image", "text", "label")
ROW_WANTED = f"expected an object with the keys {', '.join(FIELDS)}"


def load(location: str, options: Options) -> list[Example]:
    """Read one question file, or every `*_pope_*.json` of a folder.

    location: the file or folder, local. Images lie in the folder `images` beside the question files unless the options
    name another. A file named `coco_pope_random.json` is split `random` of data set `coco_pope`.

    Raises VlmlakeError for a missing file or folder, or a malformed row (by line or item).
    """
    files = _question_files(Path(location).expanduser())
    folder = ImageFolder.at(options.images or str(files[0].parent / "images"), options.storage)
    return [
        _example(file, where, row, folder)
        for file in files
        for where, row in json_rows(str(file), file.read_bytes(), ROW_WANTED)
    ]


def _question_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise VlmlakeError(f"no POPE questions at {path}: expected a .json file or a folder of them")
    files = sorted((f for f in path.glob("*_pope_*.json")), key=lambda file: (_split(file), file.name))
    if not files:
        raise VlmlakeError(f"no question files in {path}: expected names like coco_pope_random.json")
    return files


def _example(file: Path, where: str, row: Any, images: ImageFolder) -> Example:
    if not isinstance(row, dict):
        raise VlmlakeError(f"{where}: {ROW_WANTED}, got {type(row).__name__}")
    missing = [name for name in FIELDS if name not in row]
    if missing:
        raise VlmlakeError(f"{where}: no {' and no '.join(missing)}; {ROW_WANTED}")
    if row["label"] not in ("yes", "no"):
        raise VlmlakeError(f"{where}: label is {row['label']!r}, expected yes or no")
    name = cells.text(where, "image", row["image"])
    return Example(
        dataset=file.stem.removesuffix(f"_{_split(file)}"),
        split=_split(file),
        question_id=cells.identifier(where, "question_id", row["question_id"]),
        image=name,
        source=images.source(where, name),
        question=cells.text(where, "text", row["text"]),
        gold=row["label"],
    )


def _split(file: Path) -> str:
    """The last word of the file's name where it is one of POPE's, else the whole name."""
    last = file.stem.rpartition("_")[2]
    return last if last in SPLITS else file.stem

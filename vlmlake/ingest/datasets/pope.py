"""POPE's question files (Li et al., EMNLP 2023): JSON Lines in spite of `.json`, or JSON arrays; one file per split."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets.example import Example

SPLITS = ("random", "popular", "adversarial")
FIELDS = ("question_id", "image", "text", "label")
ROW_WANTED = f"expected an object with the keys {', '.join(FIELDS)}"


def load(path: Path, images: Path | None) -> list[Example]:
    """Read one question file, or every `*_pope_*.json` of a folder.

    path: the file or folder. images: the folder of the images; by default `images` beside the question files. A file
    named `coco_pope_random.json` is split `random` of data set `coco_pope`.

    Raises VlmlakeError for a missing file or folder, a malformed row (by line or item), or a file without rows.
    """
    files = _question_files(path)
    folder = images or files[0].parent / "images"
    if not folder.is_dir():
        raise VlmlakeError(f"no folder of images at {folder}: name it with --images")
    return [_example(file, where, row, folder) for file in files for where, row in _rows(file)]


def _question_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise VlmlakeError(f"no POPE questions at {path}: expected a .json file or a folder of them")
    files = sorted((f for f in path.glob("*_pope_*.json")), key=lambda file: (_split(file), file.name))
    if not files:
        raise VlmlakeError(f"no question files in {path}: expected names like coco_pope_random.json")
    return files


def _rows(file: Path) -> Iterator[tuple[str, Any]]:
    """Rows with the words that say where each stands."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise VlmlakeError(f"{file} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if text.lstrip().startswith("["):
        yield from _array_items(file, text)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"{file}, line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = getattr(error, "msg", error)
                raise VlmlakeError(f"{file}, line {number}: not valid JSON ({reason}); {ROW_WANTED}") from error


def _array_items(file: Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        line, reason = getattr(error, "lineno", 1), getattr(error, "msg", error)
        raise VlmlakeError(f"{file}, line {line}: not valid JSON ({reason}); {ROW_WANTED}") from error
    for number, item in enumerate(items, start=1):
        yield f"{file}, item {number}", item


def _example(file: Path, where: str, row: Any, images: Path) -> Example:
    if not isinstance(row, dict):
        raise VlmlakeError(f"{where}: {ROW_WANTED}, got {type(row).__name__}")
    missing = [name for name in FIELDS if name not in row]
    if missing:
        raise VlmlakeError(f"{where}: no {' and no '.join(missing)}; {ROW_WANTED}")
    if row["label"] not in ("yes", "no"):
        raise VlmlakeError(f"{where}: label is {row['label']!r}, expected yes or no")
    name = _text(where, row, "image")
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise VlmlakeError(f"{where}: image {name} lies outside {images}")
    number = row["question_id"]
    return Example(
        dataset=file.stem.removesuffix(f"_{_split(file)}"),
        split=_split(file),
        question_id=str(number) if type(number) is int else _text(where, row, "question_id"),
        image=name,
        image_path=images / name,
        question=_text(where, row, "text"),
        gold=row["label"],
    )


def _text(where: str, row: dict[str, Any], field: str) -> str:
    """A field that must be a text: not empty, and such that a file system and a tokenizer can take it."""
    value = row[field]
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise VlmlakeError(f"{where}: {field} is {value!r}, expected a text that is not empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise VlmlakeError(f"{where}: {field} is {value!r}, which is not Unicode text ({error.reason})") from error
    return value


def _split(file: Path) -> str:
    """The last word of the file's name where it is one of POPE's, else the whole name."""
    last = file.stem.rpartition("_")[2]
    return last if last in SPLITS else file.stem

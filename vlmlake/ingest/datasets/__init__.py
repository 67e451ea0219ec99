"""Sources of data by name: `--dataset KIND:PATH` finds its loader here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import pope
from vlmlake.ingest.datasets.example import Example

LOADERS: dict[str, Callable[[Path, Path | None], list[Example]]] = {"pope": pope.load}

MISSING_SHOWN = 20


def load_dataset(spec: str, images: Path | None = None) -> list[Example]:
    """The examples of `KIND:PATH`, checked: not empty, keys unique, every image there.

    Raises VlmlakeError naming what is wrong.
    """
    kind, separator, path = spec.partition(":")
    if not separator or kind not in LOADERS:
        known = ", ".join(f"{name}:PATH" for name in LOADERS)
        raise VlmlakeError(f"unknown kind of dataset in {spec!r}: expected {known}")
    examples = LOADERS[kind](Path(path).expanduser(), images and images.expanduser())
    if not examples:
        raise VlmlakeError(f"the dataset {spec} is empty: it has no rows")
    _check_unique(spec, examples)
    _check_images(examples)
    return examples


def _check_unique(spec: str, examples: list[Example]) -> None:
    for what, values in (("key", (example.key for example in examples)), ("id", (example.id for example in examples))):
        value, times = Counter(values).most_common(1)[0]
        if times > 1:
            raise VlmlakeError(
                f"the dataset {spec} has {times} rows with the {what} {value}: (dataset, split, image, question) and "
                "question_id must be unique within a file"
            )


def _check_images(examples: list[Example]) -> None:
    paths = dict.fromkeys(example.image_path for example in examples)
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - MISSING_SHOWN} more" if len(missing) > MISSING_SHOWN else ""
        raise VlmlakeError(f"{len(missing)} images are missing: {', '.join(missing[:MISSING_SHOWN])}{more}")


__all__ = ["Example", "load_dataset"]

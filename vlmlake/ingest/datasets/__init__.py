"""Sources of data by name: `--dataset KIND:PLACE` finds its loader here, and the images are looked at before a pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import hub, pope, shapes, table
from vlmlake.ingest.datasets.columns import require_fields
from vlmlake.ingest.datasets.decode import open_image
from vlmlake.ingest.datasets.example import Example
from vlmlake.ingest.datasets.image_source import ImageSource
from vlmlake.ingest.datasets.options import Options
from vlmlake.ingest.datasets.survey import ImageFacts, Skipped, Survey, survey_images

LOADERS: Mapping[str, Callable[[str, Options], list[Example]]] = {
    "pope": pope.load,
    "table": table.load,
    "hub": hub.load,
    "shapes": shapes.load,
}
EXPECTED = "pope:PATH, table:FILE, hub:NAME or shapes:IMAGES"
WITH_COLUMNS = ("table", "hub")


def load_dataset(
    specs: Sequence[str],
    images: Path | str | None = None,
    columns: Mapping[str, str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> list[Example]:
    """The examples of every `KIND:PLACE` in turn; no image is opened.

    images: folder or URL of the images, where they do not lie beside the questions. columns: what tables call an
    example's fields (question, image, gold, id, split, image_name). storage_options: for fsspec, given to every URL
    but http and https.

    Raises VlmlakeError naming what is wrong: a kind, a place, a column, a cell by its row, a data set without rows, an
    id that two rows share.
    """
    if not specs:
        raise VlmlakeError(f"no data set: name at least one, as {EXPECTED}")
    options = Options(None if images is None else str(images), columns or {}, storage_options or {})
    require_fields(options.columns)
    if options.columns and not any(spec.partition(":")[0] in WITH_COLUMNS for spec in specs):
        raise VlmlakeError("columns can be named for table: and hub: only: the others have columns of their own")
    examples = [example for spec in specs for example in _load(spec, options)]
    _check_unique(examples)
    return examples


def _load(spec: str, options: Options) -> list[Example]:
    kind, separator, place = spec.partition(":")
    if not separator or kind not in LOADERS:
        raise VlmlakeError(f"unknown kind of dataset in {spec!r}: expected {EXPECTED}")
    examples = LOADERS[kind](place, options)
    if not examples:
        raise VlmlakeError(f"the dataset {spec} is empty: it has no rows")
    return examples


def _check_unique(examples: Sequence[Example]) -> None:
    (found, times), *_ = Counter(example.id for example in examples).most_common(1)
    if times > 1:
        raise VlmlakeError(
            f"{times} rows have the id {found}: dataset/split/question_id must be unique over everything that one run "
            "loads"
        )


__all__ = [
    "Example",
    "ImageFacts",
    "ImageSource",
    "Skipped",
    "Survey",
    "load_dataset",
    "open_image",
    "survey_images",
]

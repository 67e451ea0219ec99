"""Which column of a table is the question, the image, the answer: by habit, or as the user says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import cells
from vlmlake.ingest.datasets.example import Example
from vlmlake.ingest.datasets.image_folder import ImageFolder
from vlmlake.ingest.datasets.image_source import ImageSource

T = TypeVar("T")

HABITS = {
    "question": ("question", "text"),
    "image": ("image", "image_path", "image_url"),
    "gold": ("gold", "answer", "label", "multiple_choice_answer"),
    "id": ("id", "question_id"),
    "split": ("split",),
    "image_name": (),
}
"""What each field of an example is usually called; the first that is there is taken."""
REQUIRED = ("question", "image")

POPE_ON_THE_HUB = {"id": "question_id", "split": "category", "image_name": "image_source"}
"""lmms-lab/POPE keeps its three splits in one table: `id` counts all rows, `question_id` those of a category."""
POPE_COLUMNS = {"id", "question_id", "question", "answer", "image_source", "image", "category"}


@dataclass(frozen=True)
class Columns:
    """Names of columns; None where the table has none: then rows are numbered, and the split and image named, by file.

    image_name: what to call an image whose bytes lie in the table.
    """

    question: str
    image: str
    gold: str | None = None
    id: str | None = None
    split: str | None = None
    image_name: str | None = None

    @classmethod
    def resolve(cls, table: str, there: Sequence[str], asked: Mapping[str, str]) -> Columns:
        """The columns of `table`, which has those of `there`. asked: field to column, over what is habit.

        Raises VlmlakeError for an unknown field and for a column that is not there.
        """
        require_fields(asked)
        known = POPE_ON_THE_HUB if set(there) >= POPE_COLUMNS else {}
        chosen = {**known, **asked}
        for field, column in chosen.items():
            if column not in there:
                raise VlmlakeError(f"{table} has no column {column!r} for the {field}: it has {_listed(there)}")
        for field, habits in HABITS.items():
            found = next((name for name in habits if name in there), None)
            if field not in chosen and found is not None:
                chosen[field] = found
        for field in REQUIRED:
            if field not in chosen:
                raise VlmlakeError(
                    f"{table} has no column for the {field} ({' or '.join(HABITS[field])}): it has {_listed(there)}; "
                    f"say which one it is with --column {field}=NAME"
                )
        return cls(**chosen)

    @property
    def beside_image(self) -> list[str]:
        """The columns to read for everything but the images, each once."""
        columns = (self.question, self.gold, self.id, self.split, self.image_name)
        return list(dict.fromkeys(name for name in columns if name is not None))

    def example(self, row: Row, image: str, source: ImageSource) -> Example:
        """The example of one row; `image` is its image's name unless a column gives another.

        Raises VlmlakeError naming the row and the cell that is wrong.
        """
        return Example(
            dataset=row.dataset,
            split=row.read(cells.identifier, self.split) if self.split else row.split,
            question_id=row.read(cells.identifier, self.id) if self.id else str(row.number),
            image=row.read(cells.identifier, self.image_name) if self.image_name else image,
            source=source,
            question=row.read(cells.text, self.question),
            gold=row.read(cells.answer, self.gold) if self.gold else None,
        )

    def named_example(self, row: Row, name: Any, folder: ImageFolder) -> Example:
        """The example of a row that names its image: a path below `folder`, or a URL. Raises as `example` does."""
        checked = cells.text(row.where, self.image, name)
        return self.example(row, checked, folder.source(row.where, checked))


@dataclass(frozen=True)
class Row:
    """One row of a table. where: for messages; number: counted from 1; dataset, split: where no column says them."""

    where: str
    number: int
    dataset: str
    split: str
    cells: Mapping[str, Any]

    def read(self, check: Callable[[str, str, Any], T], column: str) -> T:
        return check(self.where, column, self.cells.get(column))


def require_fields(asked: Mapping[str, str]) -> None:
    """Raises VlmlakeError for a field that an example does not have."""
    for field in asked:
        if field not in HABITS:
            raise VlmlakeError(f"--column {field}=...: expected one of {', '.join(HABITS)} before the equals sign")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no columns"

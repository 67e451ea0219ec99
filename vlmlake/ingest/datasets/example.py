"""One question about one image: what every source of data turns its rows into."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Example:
    """A row of a benchmark; (dataset, split, image, question) is its key.

    id: unique in the run and stable, `<dataset>/<split>/<question_id>`. image: the file's name as the benchmark gives
    it. gold: the right answer as the benchmark spells it.
    """

    dataset: str
    split: str
    question_id: str
    image: str
    image_path: Path
    question: str
    gold: str

    @property
    def id(self) -> str:
        return f"{self.dataset}/{self.split}/{self.question_id}"

    @property
    def key(self) -> tuple[str, str, str, str]:
        return (self.dataset, self.split, self.image, self.question)

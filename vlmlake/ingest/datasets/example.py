"""One question about one image: what every source of data turns its rows into."""

from __future__ import annotations

from dataclasses import dataclass

from vlmlake.ingest.datasets.image_source import ImageSource


@dataclass(frozen=True)
class Example:
    """A row of a benchmark; (dataset, split, question_id) is its key.

    image: the image's name as the benchmark gives it. source: where its bytes are; rows about one file share one
    source. gold: the right answer as the benchmark spells it, None where the benchmark has none.
    """

    dataset: str
    split: str
    question_id: str
    image: str
    source: ImageSource
    question: str
    gold: str | None

    @property
    def id(self) -> str:
        """Unique in a run and stable: `<dataset>/<split>/<question_id>`."""
        return f"{self.dataset}/{self.split}/{self.question_id}"

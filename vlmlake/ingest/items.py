"""What a run computes: every distinct (image, question) pair once, however many examples ask it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import Example
from vlmlake.ingest.datasets.image_source import ImageSource
from vlmlake.ingest.datasets.survey import ImageFacts
from vlmlake.ingest.families import Family, Prompt
from vlmlake.store_schema.batches import Lengths


@dataclass(frozen=True)
class Item:
    """A distinct pair. examples: places in the run's list of those who ask it. size: of the image, width and height in
    pixels. The prompt's tokens are made again when its batch comes, so that memory does not grow with them.
    """

    examples: tuple[int, ...]
    source: ImageSource
    image_sha256: str
    size: tuple[int, int]
    question: str
    lengths: Lengths

    @property
    def key(self) -> str:
        """The image's content and the question."""
        return f"{self.image_sha256}\n{self.question}"

    def prompt(self, family: Family) -> Prompt:
        return family.prompt(self.question, family.grid(self.size))


def _grid(family: Family, source: ImageSource, size: tuple[int, int]) -> tuple[int, int]:
    try:
        return family.grid(size)
    except ValueError as error:
        raise VlmlakeError(f"the model cannot take the image {source.name}: {error}; remove its rows") from error


def distinct_items(
    family: Family, examples: Sequence[Example], facts: Mapping[ImageSource, ImageFacts], answer_tokens: int
) -> tuple[Item, ...]:
    """Items in the order in which the examples first ask them.

    Raises VlmlakeError if a prompt and its answer are longer than the model's positions reach.
    """
    asked: dict[tuple[str, str], list[int]] = {}
    for number, example in enumerate(examples):
        asked.setdefault((facts[example.source].sha256, example.question), []).append(number)
    items = []
    for (digest, question), numbers in asked.items():
        source = examples[numbers[0]].source
        size = (facts[source].width, facts[source].height)
        prompt = family.prompt(question, _grid(family, source, size))
        if prompt.next_position + answer_tokens > family.longest_sequence:
            raise VlmlakeError(
                f"example {examples[numbers[0]].id} needs {prompt.next_position + answer_tokens} positions with its "
                f"answer, the model's reach {family.longest_sequence}: shorten the question or --answer-tokens"
            )
        lengths = Lengths(prompt.split, prompt.suffix_length)
        items.append(Item(tuple(numbers), source, digest, size, question, lengths))
    return tuple(items)

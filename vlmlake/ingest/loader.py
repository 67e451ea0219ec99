"""Reading ahead: images are opened and prompts tokenized while the model computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from vlmlake.ingest.datasets import open_image
from vlmlake.ingest.families import Family, ImageInputs
from vlmlake.ingest.generation import Questions
from vlmlake.ingest.items import Item
from vlmlake.ingest.work import Work
from vlmlake.store_schema.batches import Batch

AHEAD = 2
"""Batches that wait ready for the model."""

READERS = 4
"""Threads that open images."""


def load_ahead(work: Work, family: Family, numbers: Sequence[int]) -> Iterator[tuple[Batch, Questions]]:
    """The batches of these numbers, in order, with what the model wants of them.

    Raises VlmlakeError if an image cannot be read any more, or is another than when the pass began.
    """
    with ThreadPoolExecutor(1, "vlmlake-loader") as loading, ThreadPoolExecutor(READERS, "vlmlake-reader") as reading:
        ready: list[Future[Questions]] = []
        batches = [work.batches[number] for number in numbers]
        try:
            for place, batch in enumerate(batches):
                for later in batches[place + len(ready) : place + AHEAD + 1]:
                    ready.append(loading.submit(_questions, work, family, later, reading))
                yield batch, ready.pop(0).result()
        finally:
            for future in ready:
                future.cancel()


def _questions(work: Work, family: Family, batch: Batch, reading: ThreadPoolExecutor) -> Questions:
    items = [work.items[index] for index in batch.examples]
    first = [work.items[prefix[0]] for prefix in batch.prefixes]
    sizes = [item.size for item in first] if "blank_logits" in work.wanted else []
    gray = {size: family.blank_inputs(size) for size in dict.fromkeys(sizes)}
    return Questions(
        images=list(reading.map(lambda item: _image_inputs(family, item), first)),
        prompts=[item.prompt(family) for item in items],
        keys=[item.key for item in items],
        prefix_of=batch.prefix_of,
        blanks=[gray[size] for size in sizes] or None,
    )


def _image_inputs(family: Family, item: Item) -> ImageInputs:
    return family.image_inputs(open_image(item.source, item.image_sha256))

"""Look at every image once before anything is computed: is it there, does it decode, what is it."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets.decode import BrokenImageError, decode, read
from vlmlake.ingest.datasets.example import Example
from vlmlake.ingest.datasets.image_source import ImageSource

BROKEN_SHOWN = 20


@dataclass(frozen=True)
class ImageFacts:
    """sha256: of the encoded bytes, in hexadecimal. width, height: in pixels, as decoded (EXIF turns nothing)."""

    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class Skipped:
    """An example whose image is missing or broken, and why."""

    example: Example
    reason: str


@dataclass(frozen=True)
class Survey:
    """examples: those whose image is good, in their order; facts: of their images; skipped: the others, in theirs."""

    examples: tuple[Example, ...]
    facts: Mapping[ImageSource, ImageFacts]
    skipped: tuple[Skipped, ...]


def survey_images(
    examples: Sequence[Example],
    skip_bad: bool,
    workers: int = 4,
    report: Callable[[int, int], None] | None = None,
) -> Survey:
    """Read and decode every distinct image, `workers` at a time; no image is held longer than that takes.

    report: called from this thread with the images seen so far and all of them. Bytes that were decoded once under
    another name are not decoded again.

    Raises VlmlakeError naming the images that are missing or broken, unless they are to be skipped with the examples
    that ask about them; also when nothing remains.
    """
    sources = list(dict.fromkeys(example.source for example in examples))
    facts: dict[ImageSource, ImageFacts] = {}
    reasons: dict[ImageSource, str] = {}
    inspect = _Inspector()
    with ThreadPoolExecutor(workers, thread_name_prefix="survey") as pool:
        for done, (source, found) in enumerate(_in_order(pool, inspect, sources, ahead=2 * workers), start=1):
            if isinstance(found, ImageFacts):
                facts[source] = found
            else:
                reasons[source] = found
            if report is not None:
                report(done, len(sources))
    if reasons and not skip_bad:
        raise VlmlakeError(f"{_described(reasons)}; --skip-bad leaves out the examples that ask about them")
    skipped = tuple(Skipped(example, reasons[example.source]) for example in examples if example.source in reasons)
    if len(skipped) == len(examples):
        raise VlmlakeError(f"no example remains: {_described(reasons)}")
    return Survey(tuple(example for example in examples if example.source in facts), facts, skipped)


def _in_order(
    pool: ThreadPoolExecutor, inspect: _Inspector, sources: Sequence[ImageSource], ahead: int
) -> Iterator[tuple[ImageSource, ImageFacts | str]]:
    """What is found in each source; an interrupt waits for `ahead` of them at most."""
    waiting: deque[tuple[ImageSource, Future[ImageFacts | str]]] = deque()
    for source in sources:
        waiting.append((source, pool.submit(inspect, source)))
        if len(waiting) == ahead:
            first, future = waiting.popleft()
            yield first, future.result()
    for source, future in waiting:
        yield source, future.result()


class _Inspector:
    """Facts of an image, or the words for what is wrong with it; called from several threads."""

    def __init__(self) -> None:
        # Without a lock: two threads may decode the same bytes at once, and find the same.
        self.sizes: dict[str, tuple[int, int]] = {}

    def __call__(self, source: ImageSource) -> ImageFacts | str:
        try:
            content = read(source)
            digest = hashlib.sha256(content).hexdigest()
            if digest not in self.sizes:
                self.sizes[digest] = decode(content).size
        except BrokenImageError as error:
            return str(error)
        return ImageFacts(digest, *self.sizes[digest])


def _described(reasons: Mapping[ImageSource, str]) -> str:
    shown = [f"{source.name} ({reason})" for source, reason in list(reasons.items())[:BROKEN_SHOWN]]
    more = f" and {len(reasons) - BROKEN_SHOWN} more" if len(reasons) > BROKEN_SHOWN else ""
    subject = "1 image is" if len(reasons) == 1 else f"{len(reasons)} images are"
    return f"{subject} missing or broken: {', '.join(shown)}{more}"

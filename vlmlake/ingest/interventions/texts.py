"""The text of answers: by the model's tokenizer, or without one as far as the store tells."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import polars as pl

from vlmlake.ingest.families import Family
from vlmlake.store_schema.run import Run

Ids = tuple[int, ...]


class Texts(Protocol):
    """ends: tokens that end an answer, as far as they are known."""

    ends: frozenset[int]

    def knows(self, ids: Ids) -> bool:
        """Whether the text of an answer is known."""
        ...

    def text(self, ids: Ids) -> str:
        """Of an answer whose text is known."""
        ...


class TokenizerTexts:
    """Of any answer."""

    def __init__(self, family: Family) -> None:
        self.ends = family.end_tokens
        self._decode = lru_cache(1 << 16)(lambda ids: str(family.tokenizer.decode(ids, skip_special_tokens=True)))

    def knows(self, ids: Ids) -> bool:
        return True

    def text(self, ids: Ids) -> str:
        return self._decode(ids)


class StoredTexts:
    """Of the answers that the run gave, and of those of one token that is in the vocabulary."""

    def __init__(self, run: Run) -> None:
        answers = run.examples()
        self.ends = frozenset(answers.filter(pl.col("finish") == "stop")["token_ids"].list.last().to_list())
        self._known = dict(zip(map(tuple, answers["token_ids"].to_list()), answers["answer"], strict=True))
        self._vocabulary = run.vocabulary

    def knows(self, ids: Ids) -> bool:
        return ids in self._known or len(self._words(ids)) <= 1

    def text(self, ids: Ids) -> str:
        return self._known[ids] if ids in self._known else "".join(self._vocabulary[one] for one in self._words(ids))

    def _words(self, ids: Ids) -> Ids:
        return tuple(token for token in ids if token not in self.ends)

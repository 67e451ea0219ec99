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
    """Of the answers that the run gave, and of those of one token that one of them begins with."""

    def __init__(self, run: Run) -> None:
        answers = run.examples().select("token_ids", "answer", "finish").unique()
        self.ends = frozenset(answers.filter(pl.col("finish") == "stop")["token_ids"].list.last().to_list())
        self._known = dict(zip(map(tuple, answers["token_ids"].to_list()), answers["answer"], strict=True))
        # The vocabulary has texts of special tokens as well, which answers leave out: those that end them, too.
        firsts = {ids[0]: run.vocabulary[ids[0]] for ids in self._known}
        self._words = {
            ids[0]: firsts[ids[0]]
            for ids, answer in self._known.items()
            if firsts[ids[0]] and answer.startswith(firsts[ids[0]])
        }

    def knows(self, ids: Ids) -> bool:
        return ids in self._known or self._spoken(ids) == () or self._word(ids) is not None

    def text(self, ids: Ids) -> str:
        return self._known[ids] if ids in self._known else self._word(ids) or ""

    def _word(self, ids: Ids) -> str | None:
        spoken = self._spoken(ids)
        return self._words.get(spoken[0]) if len(spoken) == 1 else None

    def _spoken(self, ids: Ids) -> Ids:
        return tuple(token for token in ids if token not in self.ends)

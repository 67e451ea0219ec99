"""Which tokens of a vocabulary spell a word: with or without a blank before it, in lower case or not; and which words a
gold answer is read as.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlmlake.answers.vqa_score import normalised, ten_answers

MARKS = string.whitespace + "\u2581\u0120"
"""Blanks, and the marks that stand for one: sentencepiece's U+2581 and the byte-level G with dot, U+0120."""
SHORTEST = 2
"""Letters that an entry must have to stand for a longer word: a single letter begins too many."""
NONE = -1
"""In a table of token ids, where an example has fewer than another."""
MODAL = "gold: the modal answer of the ten annotators, of equals the first"


def gold_text(gold: str | None) -> str:
    """What a gold answer is read as: itself, or of ten annotators' answers the modal one as `vqa_score` normalises
    them, of equally frequent ones the first. Empty where there is none.
    """
    if not isinstance(gold, str):
        return ""
    annotated = ten_answers(gold)
    if annotated is None:
        return gold
    # An answer that is an article or a mark alone normalises to nothing.
    return Counter(normalised(one) or one for one in annotated).most_common(1)[0][0]


def gold_note(golds: Iterable[str | None]) -> str | None:
    """MODAL, where one of the gold answers is ten annotators'."""
    several = any(isinstance(gold, str) and ten_answers(gold) for gold in set(golds))
    return MODAL if several else None


@dataclass(frozen=True)
class Vocabulary:
    """Token ids by the bare word that their text is: stripped of MARKS, in lower case. ids ascend."""

    ids: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Vocabulary:
        """texts: of every token id, in order; empty where an id stands for no text."""
        found: dict[str, list[int]] = {}
        for number, text in enumerate(texts):
            found.setdefault(text.strip(MARKS).lower(), []).append(number)
        found.pop("", None)
        return cls({word: np.array(numbers) for word, numbers in found.items()})

    def word(self, word: str) -> np.ndarray:
        """Ids of all tokens that are this word: "yes" has those of "Yes", " Yes" and "YES". [s], int64, maybe empty."""
        return self.ids.get(word.lower(), np.empty(0, np.int64))

    def gold(self, gold: str | None) -> np.ndarray:
        """Ids that a gold answer, as `gold_text` reads it, may begin with: of its first word, stripped of punctuation,
        in any spelling.

        Where no token is that word: of the longest token, of at least SHORTEST letters, that the word starts with.
        [s], int64, empty where there is none.
        """
        words = (word.strip(string.punctuation) for word in gold_text(gold).lower().split())
        bare = [word for word in words if word]
        if not bare:
            return np.empty(0, np.int64)
        lengths = range(len(bare[0]) - 1, SHORTEST - 1, -1)
        return next((self.ids[part] for part in (bare[0], *(bare[0][:n] for n in lengths)) if part in self.ids), NO_IDS)

    def golds(self, golds: Sequence[str | None]) -> np.ndarray:
        """The same of many: [n, s], int64, NONE where an example has fewer spellings than another; s is at least 1."""
        distinct = list(dict.fromkeys(golds))
        found = [self.gold(gold) for gold in distinct]
        table = np.full((len(distinct), max([1, *map(len, found)])), NONE)
        for row, ids in zip(table, found, strict=True):
            row[: len(ids)] = ids
        places = {gold: place for place, gold in enumerate(distinct)}
        return table[[places[gold] for gold in golds]]


NO_IDS = np.empty(0, np.int64)

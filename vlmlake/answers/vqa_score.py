"""The soft score of VQA: how many of ten annotators gave the answer, after the benchmark's own normalisation.

Antol et al. 2015 ("VQA: Visual Question Answering", section 3) and the evaluation that came with it; what an answer is
normalised to follows that evaluation to the letter, its oddities included.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache

ANNOTATORS = 10
ENOUGH = 3
"""As many others that agree make an answer fully right."""

ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBER_COMMA = re.compile(r"\d,\d")
PERIOD = re.compile(r"(?!<=\d)\.(?!\d)")
"""The evaluation's own pattern: its look-behind is misspelt, so that a period before a digit alone is kept."""
MOST_PERIODS = 32
"""It passes a flag where the number of replacements belongs: so many are taken out."""

CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've "
    "we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's "
    "who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've "
    "you'll you're you've"
)
"""As the evaluation spells them; it knows each with one apostrophe missing."""


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:place] + word[place + 1 :] for place, letter in enumerate(word) if letter == "'"]


MISSPELT = {wrong: word for word in CONTRACTIONS.split() for wrong in _without_one_apostrophe(word)}
MISSPELT["somebody'd"] = "somebodyd"


@lru_cache(maxsize=2**16)
def ten_answers(gold: str) -> tuple[str, ...] | None:
    """The annotators' answers, where a gold answer is a JSON list of ten texts; else None."""
    if not gold.lstrip().startswith("["):
        return None
    try:
        found = json.loads(gold)
    except ValueError:
        return None
    whole = isinstance(found, list) and len(found) == ANNOTATORS and all(isinstance(one, str) for one in found)
    return tuple(found) if whole else None


@lru_cache(maxsize=2**16)
def normalised(answer: str) -> str:
    """An answer without punctuation, articles and capitals, number words as digits, contractions with apostrophes."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    digits_with_comma = NUMBER_COMMA.search(text) is not None
    cleaned = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_space or digits_with_comma else " ")
    cleaned = PERIOD.sub("", cleaned, count=MOST_PERIODS)
    words = (NUMBERS.get(word, word) for word in cleaned.lower().split())
    return " ".join(MISSPELT.get(word, word) for word in words if word not in ARTICLES)


def vqa_score(answer: str, annotated: Sequence[str]) -> float:
    """Mean over the annotators, each left out once, of min(1, matches among the others / 3); between 0 and 1.

    The original normalises only where annotators disagree, so that "Yes" is wrong where all ten say "yes"; here answers
    are always normalised.
    """
    said = normalised(answer)
    matches = [normalised(one) == said for one in annotated]
    others = (sum(matches) - match for match in matches)
    return sum(min(1.0, count / ENOUGH) for count in others) / len(matches)

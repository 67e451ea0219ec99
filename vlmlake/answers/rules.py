"""Named, versioned label rules: correctness of stored answers, with those that a rule cannot read as a class of their
own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from vlmlake.answers.vqa_score import ten_answers, vqa_score
from vlmlake.errors import VlmlakeError

Verdict = bool | None
"""Right, wrong, or unparsed (None)."""

RIGHT_FROM = 0.5
"""The score from which an answer counts as right, where right and wrong is all that is asked: under `vqa_soft` that of
two annotators who agree with it (0.6), not of one (0.3)."""


def pope_says(answer: str) -> str:
    """What POPE's own rule reads: no or not in the first sentence means no, anything else yes."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def pope_official(answer: str, gold: str) -> Verdict:
    """POPE's own rule: no or not in the first sentence means no, anything else yes (AoiDragon/POPE, evaluate.py)."""
    return pope_says(answer) == gold.lower()


def exact(answer: str, gold: str) -> Verdict:
    """Equal to the gold answer, lower-cased and stripped (lmms-eval's rule for POPE)."""
    return answer.strip().lower() == gold.strip().lower()


def xor_says(answer: str) -> str | None:
    """Yes if `yes` and not `no` is among its words, and the reverse; else None."""
    words = set(re.findall(r"[a-z]+", answer.lower()))
    if ("yes" in words) == ("no" in words):
        return None
    return "yes" if "yes" in words else "no"


def yes_xor_no(answer: str, gold: str) -> Verdict:
    """Yes if `yes` and not `no` is among its words, and the reverse; else unparsed."""
    said = xor_says(answer)
    return None if said is None else said == gold.lower()


def is_yes_or_no(gold: str) -> bool:
    """Whether a gold answer is yes or no, in any case."""
    return gold.lower() in ("yes", "no")


@dataclass(frozen=True)
class Rule:
    """One rule; a change of what it decides is a new version, and with this file's content the code id of findings too.

    source: where it comes from. score: answer and gold answer to a score between 0 and 1, or None for an answer that it
    cannot read. fits: whether a gold answer is one that it can compare with; `without` says in notes what is wrong
    with another: the example has no label then. says: how it reads an answer to a yes/no question.
    """

    name: str
    version: int
    source: str
    score: Callable[[str, str], float | None]
    fits: Callable[[str], bool]
    without: str
    says: Callable[[str], str | None] | None = None

    @property
    def title(self) -> str:
        return f"{self.name} version {self.version} ({self.source})"


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            "pope_official",
            1,
            "AoiDragon/POPE, evaluate.py",
            pope_official,
            is_yes_or_no,
            "whose gold answer is neither yes nor no",
            pope_says,
        ),
        Rule(
            "exact",
            1,
            "lmms-eval, POPE",
            exact,
            lambda gold: ten_answers(gold) is None,
            "with several gold answers",
            lambda answer: answer.strip().lower(),
        ),
        Rule("yes_xor_no", 1, "vlmlake", yes_xor_no, is_yes_or_no, "whose gold answer is neither yes nor no", xor_says),
        Rule(
            "vqa_soft",
            1,
            "Antol et al. 2015; GT-Vision-Lab/VQA, vqaEval.py",
            lambda answer, gold: vqa_score(answer, ten_answers(gold) or []),
            lambda gold: ten_answers(gold) is not None,
            "without ten answers",
        ),
    )
}
DEFAULT_RULE = "pope_official"


def require_rule(rule: str) -> None:
    """Raises VlmlakeError unless `rule` is one of RULES."""
    if rule not in RULES:
        raise VlmlakeError(f"unknown label rule {rule}: expected one of {', '.join(RULES)}")


def rule_named(rule: str) -> Rule:
    """Raises VlmlakeError for an unknown one."""
    require_rule(rule)
    return RULES[rule]


def judged(
    answers: Iterable[str], golds: Iterable[str | None], rule: str = DEFAULT_RULE
) -> tuple[np.ndarray, np.ndarray]:
    """Scores [n], float64, between 0 and 1, NaN where there is none; and [n], bool, whether the gold answer is one that
    the rule can compare with: where it is and the score is NaN, the answer is unparsed.

    Raises VlmlakeError for an unknown rule.
    """
    asked = rule_named(rule)
    pairs = list(zip(answers, golds, strict=True))
    # Answers and gold answers are few, examples many: each pair of them is judged once.
    fits = {gold: isinstance(gold, str) and asked.fits(gold) for gold in dict.fromkeys(gold for _, gold in pairs)}
    scores = {
        (answer, gold): asked.score(answer, gold)
        for answer, gold in dict.fromkeys(pairs)
        if isinstance(gold, str) and fits[gold]
    }
    found = [scores.get((answer, gold)) if isinstance(gold, str) else None for answer, gold in pairs]
    return np.array(found, np.float64), np.array([fits[gold] for _, gold in pairs], bool)


def right_or_wrong(scores: np.ndarray) -> np.ndarray:
    """1 for scores of RIGHT_FROM and more, 0 for others, NaN for NaN. Shape [n], float64."""
    found: np.ndarray = np.where(np.isnan(scores), np.nan, scores >= RIGHT_FROM)
    return found


def correctness(answers: Iterable[str], golds: Iterable[str | None], rule: str = DEFAULT_RULE) -> np.ndarray:
    """Verdicts as floats: 1 right, 0 wrong, NaN unparsed or without a gold answer that the rule can compare with.

    Shape [n], float64. Raises VlmlakeError for an unknown rule.
    """
    return right_or_wrong(judged(answers, golds, rule)[0])

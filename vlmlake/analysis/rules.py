"""Named label rules: correctness of stored answers; an answer that a rule cannot read is a class of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np

from vlmlake.errors import VlmlakeError

Verdict = bool | None
"""Right, wrong, or unparsed (None)."""


def pope_official(answer: str, gold: str) -> Verdict:
    """POPE's own rule: no or not in the first sentence means no, anything else yes (AoiDragon/POPE, evaluate.py)."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    said = "no" if {"No", "not", "no"} & set(words) else "yes"
    return said == gold.lower()


def exact(answer: str, gold: str) -> Verdict:
    """Equal to the gold answer, lower-cased and stripped (lmms-eval's rule for POPE)."""
    return answer.strip().lower() == gold.strip().lower()


def yes_xor_no(answer: str, gold: str) -> Verdict:
    """Yes if `yes` and not `no` is among its words, and the reverse; else unparsed."""
    words = set(re.findall(r"[a-z]+", answer.lower()))
    if ("yes" in words) == ("no" in words):
        return None
    return ("yes" if "yes" in words else "no") == gold.lower()


RULES: dict[str, Callable[[str, str], Verdict]] = {
    "pope_official": pope_official,
    "exact": exact,
    "yes_xor_no": yes_xor_no,
}
DEFAULT_RULE = "pope_official"


def require_rule(rule: str) -> None:
    """Raises VlmlakeError unless `rule` is one of RULES."""
    if rule not in RULES:
        raise VlmlakeError(f"unknown label rule {rule}: expected one of {', '.join(RULES)}")


def correctness(answers: Iterable[str], golds: Iterable[str], rule: str = DEFAULT_RULE) -> np.ndarray:
    """Verdicts as floats: 1 right, 0 wrong, NaN unparsed. Shape [n], float64.

    Raises VlmlakeError for an unknown rule.
    """
    require_rule(rule)
    verdicts = (RULES[rule](answer, gold) for answer, gold in zip(answers, golds, strict=True))
    return np.array([np.nan if verdict is None else float(verdict) for verdict in verdicts])

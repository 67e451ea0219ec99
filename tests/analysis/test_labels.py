import numpy as np
import pytest

from vlmlake.analysis.labels import RULES, correctness
from vlmlake.errors import VlmlakeError


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("Yes", "yes"),
        ("No", "no"),
        ("no", "no"),
        ("No, there is no dog in the image.", "no"),
        ("There is not a dog", "no"),
        ("Yes. No doubt about it.", "yes"),
        ("a red circle", "yes"),
        ("", "yes"),
        ("NO", "yes"),
        ("nothing", "yes"),
    ],
)
def test_pope_official_reads_the_first_sentence_and_defaults_to_yes(answer, says):
    assert RULES["pope_official"](answer, "yes") == (says == "yes")
    assert RULES["pope_official"](answer, "no") == (says == "no")


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [(" Yes \n", "yes", True), ("yes.", "yes", False), ("no", "No", True), ("", "no", False)],
)
def test_exact_wants_the_gold_answer_alone(answer, gold, verdict):
    assert RULES["exact"](answer, gold) is verdict


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        ("Yes, it is.", "yes", True),
        ("NO!", "yes", False),
        ("yes and no", "yes", None),
        ("a red circle", "no", None),
        ("nowhere", "no", None),
    ],
)
def test_yes_xor_no_leaves_the_unclear_unparsed(answer, gold, verdict):
    assert RULES["yes_xor_no"](answer, gold) is verdict


def test_unparsed_is_neither_right_nor_wrong():
    verdicts = correctness(["yes", "no", "maybe"], ["yes", "yes", "no"], "yes_xor_no")
    np.testing.assert_array_equal(verdicts, [1.0, 0.0, np.nan])


def test_an_unknown_rule_names_the_known_ones():
    with pytest.raises(
        VlmlakeError, match="unknown label rule fuzzy: expected one of pope_official, exact, yes_xor_no"
    ):
        correctness([], [], "fuzzy")

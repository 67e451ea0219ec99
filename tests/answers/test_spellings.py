import json

import numpy as np
import pytest

from vlmlake.answers.spellings import MODAL, NONE, Vocabulary, gold_note, gold_text

VOCABULARY = Vocabulary.of(
    ["", "yes", " Yes", "\u2581YES", "\u0120yes", "yes.", "no", "No\n", "not", "gi", "gira", "Gira", "g", "a", "3"]
)


def test_a_word_is_spelt_by_every_token_that_is_it_but_for_blanks_marks_and_case():
    np.testing.assert_array_equal(VOCABULARY.word("yes"), [1, 2, 3, 4])
    np.testing.assert_array_equal(VOCABULARY.word("No"), [6, 7])


def test_a_word_without_a_token_has_no_spelling():
    assert len(VOCABULARY.word("maybe")) == 0
    assert len(VOCABULARY.word("")) == 0


@pytest.mark.parametrize(
    ("gold", "ids"),
    [
        ("Yes.", [1, 2, 3, 4]),
        (" no, there is none", [6, 7]),
        ("giraffe", [10, 11]),
        ("giant", [9]),
        ("a dog", [13]),
        ("3", [13 + 1]),
        ("goat", []),
        ("!? yes", [1, 2, 3, 4]),
        ("", []),
        (None, []),
    ],
)
def test_a_gold_answer_begins_with_its_first_word_or_the_longest_token_that_the_word_starts_with(gold, ids):
    np.testing.assert_array_equal(VOCABULARY.gold(gold), ids)


@pytest.mark.parametrize(
    ("annotated", "text"),
    [
        (["gira", *["yes"] * 9], "yes"),
        (["a gira", "no", "Gira.", "no", "gira", *["yes", "maybe", "3", "goat", "x"]], "gira"),
        (["no", "yes"] * 5, "no"),
        (["a"] * 6 + ["the"] * 4, "a"),
    ],
)
def test_ten_annotators_answers_are_read_as_their_modal_one_of_equals_the_first(annotated, text):
    gold = json.dumps(annotated)
    assert gold_text(gold) == text
    np.testing.assert_array_equal(VOCABULARY.gold(gold), VOCABULARY.word(text))
    assert gold_note(["yes", gold, None]) == MODAL


def test_other_golds_are_read_as_they_are():
    assert gold_text("A dog") == "A dog"
    assert gold_text('["yes", "no"]') == '["yes", "no"]'
    assert gold_text(None) == ""
    assert gold_note(["A dog", None]) is None


def test_golds_of_many_examples_are_filled_up():
    np.testing.assert_array_equal(
        VOCABULARY.golds(["no", "goat", "yes", None]),
        [[6, 7, NONE, NONE], [NONE] * 4, [1, 2, 3, 4], [NONE] * 4],
    )
    np.testing.assert_array_equal(VOCABULARY.golds(["goat"]), [[NONE]])

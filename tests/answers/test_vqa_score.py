import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlake.answers.vqa_score import normalised, ten_answers, vqa_score


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("  The Cat\n", "cat"),
        ("an apple and a pear", "apple and pear"),
        ("Two", "2"),
        ("none", "0"),
        ("ten dogs", "10 dogs"),
        ("eleven", "eleven"),
        ("dont know", "don't know"),
        ("shouldnt've", "shouldn't've"),
        ("somebody'd", "somebodyd"),
        ("its", "its"),
        ("red/blue", "red blue"),
        ("red, blue", "red blue"),
        ("1,000", "1000"),
        ("what? no-one", "what no 1"),
        ("3.5 m.", "3.5 m"),
        ("u.s.a.", "usa"),
        ("", ""),
        ("the", ""),
    ],
)
def test_answers_are_normalised_as_the_benchmarks_evaluation_does(answer, wanted):
    assert normalised(answer) == wanted


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["a cat", "cat", "dog", "two", "2"]), min_size=10, max_size=10), st.sampled_from("cd2"))
def test_the_score_is_the_mean_over_annotators_left_out(annotated, letter):
    said = {"c": "Cat", "d": "the dog.", "2": "two"}[letter]
    same = {"c": ("a cat", "cat"), "d": ("dog",), "2": ("two", "2")}[letter]
    left_out = [annotated[:place] + annotated[place + 1 :] for place in range(10)]
    wanted = sum(min(1, sum(one in same for one in nine) / 3) for nine in left_out) / 10
    assert vqa_score(said, annotated) == pytest.approx(wanted)


@pytest.mark.parametrize(("agree", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_annotators_who_agree_make_the_known_scores(agree, score):
    assert vqa_score("cat", ["cat"] * agree + ["dog"] * (10 - agree)) == pytest.approx(score)


@pytest.mark.parametrize(
    "gold",
    [
        "cat",
        "",
        "[cat",
        '{"a": 1}',
        json.dumps(["cat"] * 9),
        json.dumps(["cat"] * 11),
        json.dumps([1] * 10),
        json.dumps([["cat"]] * 10),
    ],
)
def test_what_is_no_list_of_ten_texts_is_no_ten_answers(gold):
    assert ten_answers(gold) is None

import numpy as np
import pytest

from tests.analysis.planted import planted_run
from vlmlake.analysis.accuracy import answer_accuracy
from vlmlake.analysis.samples import sample
from vlmlake.errors import VlmlakeError


def test_a_pair_that_two_splits_ask_counts_once_when_pooled():
    data = planted_run(images=10, questions=6)
    data = data.assign_coords(question=("example", np.tile(["a", "a", "b", "b", "c", "c"], 10)))
    assert len(sample(data)) == 30
    assert len(sample(data, "random")) == len(sample(data, "adversarial")) == 30


def test_the_rows_kept_are_those_of_the_labels():
    data = planted_run(images=10)
    chosen = sample(data, "random")
    right = chosen.data["answer"].values == chosen.data["gold"].values
    np.testing.assert_array_equal(chosen.correct, right)
    assert set(chosen.data["split"].values) == {"random"}


def test_unparsed_answers_are_left_out_and_counted():
    data = planted_run(images=10)
    answers = data["answer"].values.copy()
    answers[:5] = "maybe"
    data = data.assign_coords(answer=("example", answers))
    chosen = sample(data, rule="yes_xor_no")
    assert (len(chosen), chosen.note) == (55, "5 unparsed")
    assert answer_accuracy(data, "yes_xor_no")[0]["note"] == "5 unparsed"


def test_accuracy_by_split_adds_up():
    rows = {row["split"]: row for row in answer_accuracy(planted_run(images=30))}
    assert list(rows) == ["all", "adversarial", "random"]
    assert rows["all"]["n"] == rows["random"]["n"] + rows["adversarial"]["n"] == 180
    pooled = (rows["random"]["value"] + rows["adversarial"]["value"]) / 2
    assert rows["all"]["value"] == pytest.approx(pooled)


def test_nothing_left_is_refused():
    with pytest.raises(VlmlakeError, match="no labelled examples of split popular"):
        sample(planted_run(images=5), "popular")

import json

import pytest

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import load_dataset


@pytest.mark.parametrize("spec", ["nosuch:here", "pope", "", ":x", "Pope:x"])
def test_an_unknown_kind_says_which_there_are(spec):
    with pytest.raises(
        VlmlakeError, match=r"unknown kind of dataset.*pope:PATH, table:FILE, hub:NAME or shapes:IMAGES"
    ):
        load_dataset([spec])


def test_nothing_to_load_is_refused():
    with pytest.raises(VlmlakeError, match="name at least one"):
        load_dataset([])


def test_kinds_can_be_mixed_and_keep_their_order(tmp_path):
    (tmp_path / "mine.jsonl").write_text(json.dumps({"question": "?", "image": "a.png"}))
    examples = load_dataset(["shapes:1", f"table:{tmp_path / 'mine.jsonl'}"])
    assert [example.dataset for example in examples] == ["shapes_pope"] * 12 + ["mine"]


def test_an_id_must_be_unique_over_all_of_them():
    with pytest.raises(VlmlakeError, match=r"2 rows have the id shapes_pope/adversarial/1: .* over everything"):
        load_dataset(["shapes:2@1", "shapes:1@2"])


def test_columns_need_a_table():
    with pytest.raises(VlmlakeError, match=r"table: and hub: only"):
        load_dataset(["shapes:1"], columns={"question": "prompt"})


def test_an_unknown_field_is_named():
    with pytest.raises(VlmlakeError, match=r"--column prompt=...: expected one of question, image, gold, id, split"):
        load_dataset(["shapes:1"], columns={"prompt": "question"})

import json

import pytest

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import load_dataset
from vlmlake.ingest.datasets.image_source import FileImage, UrlImage

ROW = {"question_id": 1, "image": "a.png", "text": "Is there a dog in the image?", "label": "yes"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    return tmp_path


def write(folder, text, name="coco_pope_random.json"):
    (folder / name).write_text(text)
    return f"pope:{folder / name}"


def test_json_lines_and_arrays_are_the_same_questions(folder):
    rows = [ROW, {**ROW, "question_id": 2, "text": "Is there a cat in the image?", "label": "no"}]
    lines = load_dataset([write(folder, "".join(json.dumps(row) + "\n" for row in rows))])
    array = load_dataset([write(folder, json.dumps(rows, indent=4))])
    assert lines == array
    assert [example.id for example in lines] == ["coco_pope/random/1", "coco_pope/random/2"]
    assert [example.gold for example in lines] == ["yes", "no"]


def test_a_file_of_another_name_is_a_split_of_its_own(folder):
    (example,) = load_dataset([write(folder, json.dumps(ROW), "mine.json")])
    assert (example.dataset, example.split, example.id) == ("mine", "mine", "mine/mine/1")


def test_images_may_lie_elsewhere(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("val2014")
    (elsewhere / "a.png").write_bytes(b"")
    (example,) = load_dataset([write(folder, json.dumps(ROW))], images=elsewhere)
    assert example.source == FileImage(elsewhere / "a.png")


def test_images_may_lie_at_a_url(folder):
    (example,) = load_dataset([write(folder, json.dumps(ROW))], images="memory://val2014")
    assert example.source == UrlImage("memory://val2014/a.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(ROW) + "\n\n{oops\n", r"line 3: not valid JSON .*question_id, image, text, label"),
        ("[" + json.dumps(ROW) + ",\n oops]", r"line 2: not valid JSON"),
        ("[1, 2]", r"item 1: expected an object with the keys .* got int"),
        (json.dumps({"image": "a.png", "text": "?"}), r"line 1: no question_id and no label"),
        (json.dumps({**ROW, "label": "maybe"}), r"line 1: label is 'maybe', expected yes or no"),
        (json.dumps({**ROW, "image": "../secret.png"}), r"line 1: image ../secret.png lies outside"),
        (json.dumps({**ROW, "image": "/etc/passwd"}), r"line 1: image /etc/passwd lies outside"),
        (json.dumps({**ROW, "image": None}), r"line 1: image is None, expected a text"),
        (json.dumps({**ROW, "image": "a\0b"}), r"line 1: image is 'a\\x00b', expected a text"),
        (json.dumps({**ROW, "text": None}), r"line 1: text is None, expected a text that is not empty"),
        (json.dumps({**ROW, "text": " "}), r"line 1: text is ' ', expected a text that is not empty"),
        (json.dumps({**ROW, "text": ["a"]}), r"line 1: text is \['a'\], expected a text"),
        (json.dumps({**ROW, "text": "\ud800"}), r"line 1: text is '\\ud800', which is not Unicode text"),
        (json.dumps({**ROW, "question_id": True}), r"line 1: question_id is True, expected a text"),
        (json.dumps({**ROW, "question_id": {}}), r"line 1: question_id is \{\}, expected a text"),
        ("[" * 100_000, r"not valid JSON"),
        ('{"question_id": ' + "9" * 5000 + "}", r"line 1: not valid JSON"),
        (json.dumps(ROW) + "\n" + json.dumps({**ROW, "text": "Is there a cat?"}), r"2 rows have the id"),
        ("", r"is empty"),
        ("[]", r"is empty"),
    ],
)
def test_a_bad_file_is_named_with_its_line(folder, text, message):
    with pytest.raises(VlmlakeError, match=message):
        load_dataset([write(folder, text)])


def test_the_same_question_about_the_same_image_may_be_asked_twice(folder):
    rows = [ROW, {**ROW, "question_id": 2}]
    first, second = load_dataset([write(folder, "\n".join(json.dumps(row) for row in rows))])
    assert (first.source, first.question) == (second.source, second.question)


def test_files_of_several_benchmarks_are_read_in_one_run(folder):
    coco = write(folder, json.dumps(ROW))
    aokvqa = write(folder, json.dumps([ROW]), "aokvqa_pope_popular.json")
    examples = load_dataset([coco, aokvqa])
    assert [example.id for example in examples] == ["coco_pope/random/1", "aokvqa_pope/popular/1"]
    assert examples[0].source == examples[1].source


def test_bytes_that_are_no_text_are_named(folder):
    (folder / "coco_pope_random.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(VlmlakeError, match="is not UTF-8 text"):
        load_dataset([f"pope:{folder}"])


def test_line_separators_inside_a_text_are_no_ends_of_lines(folder):
    texts = [f"Is there{mark} a dog?" for mark in ("\u2028", "\u0085", "\x0b")]
    rows = [{**ROW, "question_id": number, "text": text} for number, text in enumerate(texts)]
    spec = write(folder, "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert [example.question for example in load_dataset([spec])] == texts


def test_images_may_be_links(folder, tmp_path_factory):
    target = tmp_path_factory.mktemp("blobs") / "blob"
    target.write_bytes(b"linked")
    (folder / "images" / "linked.png").symlink_to(target)
    (example,) = load_dataset([write(folder, json.dumps({**ROW, "image": "linked.png"}))])
    assert example.source.read() == b"linked"


def test_missing_places_are_named(tmp_path):
    with pytest.raises(VlmlakeError, match="no POPE questions at"):
        load_dataset([f"pope:{tmp_path / 'gone'}"])
    with pytest.raises(VlmlakeError, match="no question files in"):
        load_dataset([f"pope:{tmp_path}"])
    write(tmp_path, json.dumps(ROW))
    with pytest.raises(VlmlakeError, match=r"no folder of images at .*--images"):
        load_dataset([f"pope:{tmp_path}"])

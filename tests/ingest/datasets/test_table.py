import json

import fsspec
import polars as pl
import pytest

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import load_dataset
from vlmlake.ingest.datasets.image_source import FileImage, UrlImage

ROWS = [
    {"id": "007", "question": "Is there a dog?", "image": "a.png", "answer": "yes", "split": "easy"},
    {"id": "8", "question": "Is there a cat, or two?", "image": "sub/b.png", "answer": "no", "split": "hard"},
]


def write(folder, rows, suffix):
    path = folder / f"mine{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(rows))
    elif suffix == ".csv":
        pl.DataFrame(rows).write_csv(path)
    elif suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"table:{path}"


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".csv", ".parquet"])
def test_every_format_holds_the_same_examples(tmp_path, suffix):
    first, second = load_dataset([write(tmp_path, ROWS, suffix)])
    assert (first.id, first.question, first.gold) == ("mine/easy/007", "Is there a dog?", "yes")
    assert (second.id, second.question, second.gold) == ("mine/hard/8", "Is there a cat, or two?", "no")
    assert (first.image, second.image) == ("a.png", "sub/b.png")
    assert first.source == FileImage(tmp_path / "a.png")
    assert second.source == FileImage(tmp_path / "sub" / "b.png")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_without_ids_splits_and_answers_rows_are_numbered_and_the_file_is_the_split(tmp_path, suffix):
    rows = [{"text": "One?", "image_path": "a.png"}, {"text": "Two?", "image_path": "a.png"}]
    first, second = load_dataset([write(tmp_path, rows, suffix)])
    assert [first.id, second.id] == ["mine/mine/1", "mine/mine/2"]
    assert first.gold is None
    assert first.source == second.source


def test_columns_are_what_the_user_says(tmp_path):
    row = {"prompt": "Dog?", "img": "a.png", "truth": 1, "qid": 5, "subset": "easy", "question": "no", "id": "no"}
    columns = {"question": "prompt", "image": "img", "gold": "truth", "id": "qid", "split": "subset"}
    (example,) = load_dataset([write(tmp_path, [row], ".jsonl")], columns=columns)
    assert (example.id, example.question, example.gold) == ("mine/easy/5", "Dog?", "1")


def test_an_answer_may_be_a_number_or_missing_in_single_rows(tmp_path):
    rows = [{"question": "How many?", "image": "a.png", "answer": answer} for answer in (3, 2.5, None, " ", "four")]
    assert [example.gold for example in load_dataset([write(tmp_path, rows, ".jsonl")])] == [
        "3",
        "2.5",
        None,
        None,
        "four",
    ]


def test_the_answers_of_vqa_are_found(tmp_path):
    row = {"question": "What?", "image": "a.png", "question_id": 9, "multiple_choice_answer": "net"}
    (example,) = load_dataset([write(tmp_path, [row], ".jsonl")])
    assert (example.question_id, example.gold) == ("9", "net")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_answers_of_several_annotators_are_kept_as_json(tmp_path, suffix):
    texts = ["net", "netting", 'a "net"', "filet à", "2", "net", "net", "net", "net", "net"]
    told = [{"answer": text, "answer_confidence": "yes", "answer_id": number} for number, text in enumerate(texts)]
    rows = [{"question": "What?", "image": "a.png", "answers": given} for given in ([], told)]
    empty, example = load_dataset([write(tmp_path, rows, suffix)], columns={"gold": "answers"})
    assert empty.gold is None
    assert json.loads(example.gold) == texts
    assert "filet à" in example.gold


def test_plain_lists_of_texts_and_numbers_are_answers_too(tmp_path):
    row = {"question": "What?", "image": "a.png", "answer": ["net", 2]}
    (example,) = load_dataset([write(tmp_path, [row], ".jsonl")])
    assert example.gold == '["net", "2"]'


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": "?", "image": "a.png"}, r"no column for the question \(question or text\): it has a, image; .*--column"),
        ({"question": "?", "b": "a.png"}, r"no column for the image .*it has question, b; say .*--column image=NAME"),
        ({"question": "?", "image": "../a.png"}, r"line 1: image \.\./a\.png lies outside .*--images"),
        ({"question": "?", "image": "/etc/passwd"}, r"line 1: image /etc/passwd lies outside .*--images"),
        ({"question": "?", "image": "file:///etc/passwd"}, r"line 1: image file:///etc/passwd lies outside"),
        ({"question": "?", "image": "simplecache::file:///etc/passwd"}, r"line 1: image simplecache::.* lies outside"),
        ({"question": "?", "image": "nosuch://a.png"}, r"cannot read nosuch:// URLs"),
        ({"question": "?", "image": "data:image/png;base64,AAAA"}, r"line 1: the image is written into the row"),
        ({"question": "?", "image": {"bytes": "x"}}, r"line 1: image is \{'bytes': 'x'\}, expected a text"),
        ({"question": "?", "image": None}, r"line 1: image is None, expected a text"),
        ({"question": " ", "image": "a.png"}, r"line 1: question is ' ', expected a text"),
        ({"question": "?", "image": "a.png", "id": 1.5}, r"line 1: id is 1.5, expected a text"),
        ({"question": "?", "image": "a.png", "id": None}, r"line 1: id is None, expected a text"),
        ({"question": "?", "image": "a.png", "answer": True}, r"line 1: answer is True, expected a text"),
        ({"question": "?", "image": "a.png", "answer": ["yes", None]}, r"line 1: answer is None, expected a text"),
        ({"question": "?", "image": "a.png", "answer": [["yes"]]}, r"line 1: answer is \['yes'\], expected a text"),
        ({"question": "?", "image": "a.png", "answer": [{"a": "yes"}]}, r"line 1: answer is None, expected a text"),
        ({"question": "?", "image": "a.png", "answer": {"a": 1}}, r"line 1: answer is \{'a': 1\}, expected a text"),
        ([1], r"line 1: expected an object, one example, got list|item 1: .*got int"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(tmp_path, row, message):
    with pytest.raises(VlmlakeError, match=message):
        load_dataset([write(tmp_path, [row], ".jsonl")])


def test_a_mapped_column_that_is_not_there_is_named(tmp_path):
    with pytest.raises(VlmlakeError, match=r"no column 'prompt' for the question: it has id, question, image"):
        load_dataset([write(tmp_path, ROWS, ".csv")], columns={"question": "prompt"})


def test_a_bad_cell_of_a_csv_is_named_with_its_row(tmp_path):
    (tmp_path / "mine.csv").write_text("question,image\nDog?,a.png\n,a.png\n")
    with pytest.raises(VlmlakeError, match=r"mine.csv, row 2: question is None"):
        load_dataset([f"table:{tmp_path / 'mine.csv'}"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "is empty: it has no rows"),
        ("a.csv", b"question,image\n", "is empty: it has no rows"),
        ("a.csv", b"question,image\n1,2,3,4\n", "is not a CSV table in UTF-8"),
        ("a.csv", b"question,image\n\xff\xfe,b\n", "is not a CSV table in UTF-8"),
        ("a.jsonl", b"", "is empty: it has no rows"),
        ("a.jsonl", b"{oops", "line 1: not valid JSON"),
        ("a.jsonl", b"\xff", "is not UTF-8 text"),
        ("a.parquet", b"", "cannot read the table .*a.parquet"),
        ("a.parquet", b"PAR1 but not", "cannot read the table .*a.parquet"),
        ("a.xlsx", b"", r"cannot tell what .*a.xlsx is: expected a name in .jsonl"),
    ],
)
def test_a_file_that_is_no_table_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VlmlakeError, match=message):
        load_dataset([f"table:{tmp_path / name}"])


def test_missing_places_are_named(tmp_path):
    with pytest.raises(VlmlakeError, match="no table at"):
        load_dataset([f"table:{tmp_path / 'gone.csv'}"])
    with pytest.raises(VlmlakeError, match=r"cannot read the table memory://gone/a.csv: nothing is there"):
        load_dataset(["table:memory://gone/a.csv"])
    with pytest.raises(VlmlakeError, match=r"cannot read nosuch:// URLs"):
        load_dataset(["table:nosuch://gone/a.csv"])
    with pytest.raises(VlmlakeError, match=r"no folder of images at .*--images"):
        load_dataset([write(tmp_path, ROWS, ".csv")], images=tmp_path / "gone")


def test_a_csv_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "mine.csv").write_text("\ufeffquestion,image\nDog?,a.png\n", encoding="utf-8")
    (example,) = load_dataset([f"table:{tmp_path / 'mine.csv'}"])
    assert example.question == "Dog?"


@pytest.fixture
def remote_folder():
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/bench/mine.jsonl", "\n".join(json.dumps(row) for row in ROWS).encode())
    fs.pipe_file("/bench/mine.csv", pl.DataFrame(ROWS).write_csv().encode())
    with fs.open("/bench/mine.parquet", "wb") as file:
        pl.DataFrame(ROWS).write_parquet(file)
    fs.pipe_file("/bench/a.png", b"pixels")
    yield "memory://bench"
    fs.rm("/bench", recursive=True)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_remote_table_has_its_images_beside_it(remote_folder, suffix):
    first, second = load_dataset([f"table:{remote_folder}/mine{suffix}"])
    assert (first.id, second.source) == ("mine/easy/007", UrlImage("memory://bench/sub/b.png"))
    assert first.source.read() == b"pixels"
    with pytest.raises(FileNotFoundError, match="nothing is there"):
        second.source.read()


def test_images_may_lie_elsewhere(tmp_path, remote_folder):
    (tmp_path / "pictures").mkdir()
    spec = write(tmp_path, ROWS, ".csv")
    assert load_dataset([spec], images=tmp_path / "pictures")[0].source == FileImage(tmp_path / "pictures" / "a.png")
    assert load_dataset([spec], images="memory://bench/")[0].source.read() == b"pixels"
    remote = load_dataset([f"table:{remote_folder}/mine.csv"], images=tmp_path / "pictures")
    assert remote[0].source == FileImage(tmp_path / "pictures" / "a.png")


def test_an_image_may_be_a_url_of_its_own(tmp_path, remote_folder):
    row = {"question": "Dog?", "image_url": "memory://bench/a.png"}
    (example,) = load_dataset([write(tmp_path, [row], ".csv")])
    assert (example.image, example.source.read()) == ("memory://bench/a.png", b"pixels")


def test_storage_options_reach_the_file_system(tmp_path):
    row = {"question": "Dog?", "image": "memory://bucket/a.png"}
    (example,) = load_dataset([write(tmp_path, [row], ".jsonl")], storage_options={"anon": True})
    assert example.source.options == {"anon": True}
    assert example.source == UrlImage("memory://bucket/a.png")

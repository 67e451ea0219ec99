import os
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import load_dataset, open_image, survey_images
from vlmlake.ingest.datasets.image_source import FileImage
from vlmlake.ingest.datasets.shapes import make_benchmark

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(images, kind=None):
    count = len(images)
    columns = {"question": [f"Is it {n}?" for n in range(count)], "image": pa.array(images, kind)}
    return pa.table({**columns, "label": ["yes"] * count})


def pictures(count):
    return [image.read() for image in make_benchmark(count).images]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_bytes_in_the_table_are_images(tmp_path, kind):
    wanted = pictures(5)
    pq.write_table(table(wanted, kind), tmp_path / "mine.parquet", row_group_size=2)
    examples = load_dataset([f"table:{tmp_path / 'mine.parquet'}"])
    assert [example.source.read() for example in examples] == wanted
    assert [example.image for example in examples] == [f"mine#{number}" for number in range(1, 6)]
    assert examples[1].source.name == f"{tmp_path / 'mine.parquet'}, row 2"
    assert open_image(examples[4].source).size == (192, 192)


def test_the_struct_of_hugging_face_gives_bytes_and_names(tmp_path):
    wanted = pictures(3)
    images = [{"bytes": content, "path": f"{number}.png"} for number, content in enumerate(wanted)]
    pq.write_table(table(images, STRUCT), tmp_path / "mine.parquet", row_group_size=2)
    examples = load_dataset([f"table:{tmp_path / 'mine.parquet'}"])
    assert [example.source.read() for example in examples] == wanted
    assert [example.image for example in examples] == ["0.png", "1.png", "2.png"]


def test_a_struct_without_any_bytes_names_files(tmp_path):
    pq.write_table(table([{"bytes": None, "path": "a.png"}] * 2, STRUCT), tmp_path / "mine.parquet")
    first, second = load_dataset([f"table:{tmp_path / 'mine.parquet'}"])
    assert first.source == second.source == FileImage(tmp_path / "a.png")


def test_names_may_be_encoded_as_a_dictionary(tmp_path):
    named = pa.array(["a.png", "a.png"]).dictionary_encode()
    pq.write_table(pa.table({"question": ["1?", "2?"], "image": named}), tmp_path / "mine.parquet")
    assert load_dataset([f"table:{tmp_path / 'mine.parquet'}"])[1].source == FileImage(tmp_path / "a.png")


def test_the_same_row_is_the_same_source_and_another_is_not(tmp_path):
    pq.write_table(table(pictures(2)), tmp_path / "mine.parquet")
    again = [load_dataset([f"table:{tmp_path / 'mine.parquet'}"]) for _ in range(2)]
    assert again[0] == again[1]
    assert len({example.source for examples in again for example in examples}) == 2


def test_a_row_without_bytes_is_a_missing_image(tmp_path):
    pq.write_table(table([pictures(1)[0], None, b""]), tmp_path / "mine.parquet")
    survey = survey_images(load_dataset([f"table:{tmp_path / 'mine.parquet'}"]), skip_bad=True)
    assert [(skipped.example.question_id, skipped.reason) for skipped in survey.skipped] == [
        ("2", "column image holds no bytes"),
        ("3", "column image holds no bytes"),
    ]


def test_a_column_of_something_else_is_refused(tmp_path):
    pq.write_table(table([1, 2]), tmp_path / "mine.parquet")
    with pytest.raises(VlmlakeError, match=r"column image is int64, expected paths, URLs or the images' bytes"):
        load_dataset([f"table:{tmp_path / 'mine.parquet'}"])


@pytest.mark.parametrize("struct", [True, False])
def test_bytes_are_read_when_asked_for_and_one_row_group_is_held(tmp_path, struct):
    megabyte = 1 << 20
    contents = [os.urandom(megabyte) for _ in range(24)]
    images = [{"bytes": content, "path": None} for content in contents] if struct else contents
    pq.write_table(table(images, STRUCT if struct else pa.binary()), tmp_path / "mine.parquet", row_group_size=4)
    del images
    before = pa.total_allocated_bytes()
    examples = load_dataset([f"table:{tmp_path / 'mine.parquet'}"])
    assert pa.total_allocated_bytes() - before < megabyte
    for example, content in zip(examples, contents, strict=True):
        assert example.source.read() == content
        assert pa.total_allocated_bytes() - before < 10 * megabyte


def test_threads_may_read_at_once(tmp_path):
    contents = [os.urandom(2000) for _ in range(200)]
    pq.write_table(table(contents), tmp_path / "mine.parquet", row_group_size=7)
    examples = load_dataset([f"table:{tmp_path / 'mine.parquet'}"])
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda example: example.source.read(), examples * 3)) == contents * 3


def test_a_remote_table_may_hold_bytes():
    wanted = pictures(3)
    fs = fsspec.filesystem("memory")
    with fs.open("/bench/bytes.parquet", "wb") as file:
        pq.write_table(table(wanted), file, row_group_size=2)
    examples = load_dataset(["table:memory://bench/bytes.parquet"])
    assert [example.source.read() for example in examples] == wanted
    fs.rm("/bench/bytes.parquet")


def test_a_file_cut_short_after_it_was_opened_is_a_broken_image(tmp_path):
    path = tmp_path / "mine.parquet"
    pq.write_table(table([os.urandom(200_000) for _ in range(8)]), path, row_group_size=1)
    examples = load_dataset([f"table:{path}"])
    os.truncate(path, 300_000)
    with pytest.raises(VlmlakeError, match=r"cannot read the image .*mine.parquet, row 6: "):
        open_image(examples[5].source)

import sys

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import hub, load_dataset, open_image, survey_images
from vlmlake.ingest.datasets.image_source import FileImage, UrlImage
from vlmlake.ingest.datasets.shapes import make_benchmark

POPE_FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "question_id": datasets.Value("string"),
        "question": datasets.Value("string"),
        "answer": datasets.Value("string"),
        "image_source": datasets.Value("string"),
        "image": datasets.Image(),
        "category": datasets.Value("string"),
    }
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def pope_rows():
    """Two images, three categories, in the layout of lmms-lab/POPE."""
    contents = [image.read() for image in make_benchmark(2).images]
    rows = []
    for category in ("adversarial", "popular", "random"):
        for number, content in enumerate(contents, start=1):
            rows.append(
                {
                    "id": str(len(rows)),
                    "question_id": str(number),
                    "question": f"Is there a snowboard in image {number}?",
                    "answer": "yes" if number == 1 else "no",
                    "image_source": f"COCO_val2014_{number:012d}",
                    "image": {"bytes": content, "path": None},
                    "category": category,
                }
            )
    return rows, contents


def saved(folder, rows=None, features=POPE_FEATURES, split="test"):
    data = datasets.Dataset.from_list(pope_rows()[0] if rows is None else rows, features=features, split=split)
    data.save_to_disk(folder)
    return data


def check_pope(examples):
    contents = pope_rows()[1]
    assert [example.id for example in examples] == [
        f"POPE/{category}/{number}" for category in ("adversarial", "popular", "random") for number in (1, 2)
    ]
    assert [example.gold for example in examples] == ["yes", "no"] * 3
    assert [example.image for example in examples[:2]] == ["COCO_val2014_000000000001", "COCO_val2014_000000000002"]
    assert [example.source.read() for example in examples] == contents * 3


def test_pope_saved_to_disk_is_known_by_its_columns(tmp_path):
    saved(tmp_path / "POPE")
    check_pope(load_dataset([f"hub:{tmp_path / 'POPE'}"]))


def test_pope_as_a_folder_of_parquet_files_is_the_same(tmp_path):
    data = datasets.Dataset.from_list(pope_rows()[0], features=POPE_FEATURES)
    (tmp_path / "POPE" / "data").mkdir(parents=True)
    for shard in range(2):
        data.shard(2, shard, contiguous=True).to_parquet(
            tmp_path / "POPE" / "data" / f"test-0000{shard}-of-00002.parquet"
        )
    check_pope(load_dataset([f"hub:{tmp_path / 'POPE'}"]))
    check_pope(load_dataset([f"hub:{tmp_path / 'POPE'}@test"]))


def test_a_name_on_the_hub_is_handed_to_the_package(tmp_path, monkeypatch):
    data = saved(tmp_path / "POPE")
    asked = []
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *args: asked.append(args) or ["test"])
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: asked.append((args, kwargs)) or data)
    check_pope(load_dataset(["hub:lmms-lab/POPE"]))
    assert asked == [("lmms-lab/POPE", None), (("lmms-lab/POPE", None), {"split": "test"})]
    asked.clear()
    (first, *_) = load_dataset(["hub:lmms-lab/POPE:Full@test[:10]"])
    assert asked == [(("lmms-lab/POPE", "Full"), {"split": "test[:10]"})]
    assert first.id == "POPE:Full/adversarial/1"
    assert first.source.name == "lmms-lab/POPE@test[:10], row 1"


@pytest.mark.parametrize(
    ("location", "parsed"),
    [
        ("org/name", ("org/name", None, None)),
        ("org/name:config", ("org/name", "config", None)),
        ("org/name@split", ("org/name", None, "split")),
        ("org/name:config@split", ("org/name", "config", "split")),
        ("/tmp/a@b/c:d/name@test", ("/tmp/a@b/c:d/name", None, "test")),
    ],
)
def test_config_and_split_follow_the_name(location, parsed):
    assert hub.Place.parse(location) == hub.Place(*parsed)


@pytest.mark.parametrize("location", ["", "@test", ":config"])
def test_a_name_is_needed(location):
    with pytest.raises(VlmlakeError, match="names no data set: expected org/name"):
        load_dataset([f"hub:{location}"])


def test_of_several_splits_one_is_chosen(tmp_path):
    rows = [{"question": "?", "image": "a.png"}]
    datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name in ("train", "test")}).save_to_disk(
        tmp_path / "x"
    )
    (example,) = load_dataset([f"hub:{tmp_path / 'x'}@test"])
    assert example.id == "x/test/1"
    with pytest.raises(
        VlmlakeError, match=r"has several splits: choose one of (train, test|test, train), as in hub:.*@"
    ):
        load_dataset([f"hub:{tmp_path / 'x'}"])
    with pytest.raises(VlmlakeError, match=r"has no split dev: choose one of"):
        load_dataset([f"hub:{tmp_path / 'x'}@dev"])


def test_the_split_of_a_saved_data_set_is_checked(tmp_path):
    saved(tmp_path / "POPE")
    assert len(load_dataset([f"hub:{tmp_path / 'POPE'}@test"])) == 6
    with pytest.raises(VlmlakeError, match=r"has no split train: choose one of test, as in hub:.*POPE@test"):
        load_dataset([f"hub:{tmp_path / 'POPE'}@train"])


def test_columns_are_what_the_user_says_and_classes_have_names(tmp_path):
    features = datasets.Features(
        {"prompt": datasets.Value("string"), "img": datasets.Image(), "truth": datasets.ClassLabel(names=["no", "yes"])}
    )
    image = {"bytes": pope_rows()[1][0], "path": "a.png"}
    rows = [{"prompt": f"{n}?", "img": image, "truth": n} for n in (0, 1, -1)]
    saved(tmp_path / "mine", rows, features)
    examples = load_dataset(
        [f"hub:{tmp_path / 'mine'}"], columns={"question": "prompt", "image": "img", "gold": "truth"}
    )
    assert [example.gold for example in examples] == ["no", "yes", None]
    assert [example.image for example in examples] == ["a.png"] * 3
    assert [example.id for example in examples] == ["mine/test/1", "mine/test/2", "mine/test/3"]
    assert survey_images(examples, skip_bad=False).examples == tuple(examples)


def test_a_missing_column_is_named(tmp_path):
    saved(tmp_path / "x", [{"prompt": "?", "image": "a.png"}], None)
    with pytest.raises(
        VlmlakeError, match=r"no column for the question .*it has prompt, image; .*--column question=NAME"
    ):
        load_dataset([f"hub:{tmp_path / 'x'}"])


def test_images_that_the_package_keeps_as_files_share_a_source(tmp_path):
    (tmp_path / "a.png").write_bytes(pope_rows()[1][0])
    image = {"bytes": None, "path": str(tmp_path / "a.png")}
    features = datasets.Features({"question": datasets.Value("string"), "image": datasets.Image()})
    data = datasets.Dataset.from_list([{"question": f"{n}?", "image": image} for n in range(2)], features=features)
    first, second = hub._examples(hub.Place("org/x", None, None), "test", data, hub.Options())
    assert first.source == second.source == FileImage(tmp_path / "a.png")
    assert first.image == "a.png"


def test_names_lead_to_the_folder_or_to_the_files_on_the_hub(tmp_path):
    data = saved(tmp_path / "x", [{"question": "?", "image": "a.png"}], None)
    (example,) = load_dataset([f"hub:{tmp_path / 'x'}"])
    assert example.source == FileImage(tmp_path / "x" / "a.png")
    (example,) = load_dataset([f"hub:{tmp_path / 'x'}"], images="memory://elsewhere")
    assert example.source == UrlImage("memory://elsewhere/a.png")
    (example,) = hub._examples(hub.Place("org/x", None, None), "test", data, hub.Options())
    assert example.source == UrlImage("hf://datasets/org/x/a.png")


@pytest.mark.parametrize("layout", ["saved", "parquet"])
def test_image_bytes_stay_on_disk_until_they_are_read(tmp_path, layout):
    megabyte = 1 << 20
    rows = [{"question": "?", "image": {"bytes": bytes([n]) * megabyte, "path": None}} for n in range(24)]
    folder = tmp_path / "x"
    if layout == "saved":
        saved(folder, rows, datasets.Features({"question": datasets.Value("string"), "image": datasets.Image()}))
    else:
        folder.mkdir()
        pq.write_table(pa.Table.from_pylist(rows), folder / "test.parquet")
    load_dataset([f"hub:{folder}"])  # fills the package's cache
    before = pa.total_allocated_bytes()
    examples = load_dataset([f"hub:{folder}"])
    assert examples[7].source.read() == bytes([7]) * megabyte
    assert pa.total_allocated_bytes() - before < megabyte


def test_images_are_read_from_several_threads(tmp_path):
    saved(tmp_path / "POPE")
    survey = survey_images(load_dataset([f"hub:{tmp_path / 'POPE'}"]), skip_bad=False, workers=8)
    assert len({facts.sha256 for facts in survey.facts.values()}) == 2
    assert len(survey.facts) == 6


def test_a_row_without_an_image_is_named(tmp_path):
    rows = pope_rows()[0]
    rows[3]["image"] = None
    saved(tmp_path / "POPE", rows)
    with pytest.raises(VlmlakeError, match=r"POPE@test, row 4: image is None, expected a text"):
        load_dataset([f"hub:{tmp_path / 'POPE'}"])


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    rows = pope_rows()[0]
    rows[3]["image"] = {"bytes": b"no image", "path": None}
    saved(tmp_path / "POPE", rows)
    examples = load_dataset([f"hub:{tmp_path / 'POPE'}"])
    with pytest.raises(VlmlakeError, match=r"cannot read the image .*POPE@test, row 4: in no format"):
        open_image(examples[3].source)


def test_without_the_package_its_extra_is_named(tmp_path, monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] == "datasets"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(VlmlakeError, match=r"hub:org/name needs the package datasets .*install vlmlake\[ingest,hub\]"):
        load_dataset(["hub:org/name"])


def test_places_that_are_not_there_are_named(tmp_path):
    with pytest.raises(VlmlakeError, match=r"no data set at .*gone: expected a folder of save_to_disk"):
        load_dataset([f"hub:{tmp_path / 'gone'}"])
    with pytest.raises(VlmlakeError, match=r"cannot load hub:org/no-such-name"):
        load_dataset(["hub:org/no-such-name"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(VlmlakeError, match=r"cannot load hub:.*empty"):
        load_dataset([f"hub:{tmp_path / 'empty'}"])
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "test.parquet").write_bytes(b"no parquet")
    with pytest.raises(VlmlakeError, match=r"cannot load hub:.*damaged"):
        load_dataset([f"hub:{tmp_path / 'damaged'}"])


def test_a_table_without_rows_is_refused(tmp_path):
    (tmp_path / "x").mkdir()
    pq.write_table(
        pa.table({"question": pa.array([], pa.string()), "image": pa.array([], pa.string())}),
        tmp_path / "x" / "test.parquet",
    )
    with pytest.raises(VlmlakeError, match=r"is empty: it has no rows|cannot load hub"):
        load_dataset([f"hub:{tmp_path / 'x'}"])

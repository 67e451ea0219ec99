import hashlib
import json
import random
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from PIL import Image

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import load_dataset
from vlmlake.ingest.datasets.shapes import IMAGE_SIZE, KINDS, SPLITS, question, sample_scene, write_benchmark

KIND_OF = {question(kind): kind for kind in KINDS}


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_benchmark(tmp_path / name, images=6, seed=seed)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 6 + len(SPLITS)
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    assert any((tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes() for file in files)


def test_files_are_in_popes_official_form_and_its_loader_reads_them(scenes):
    for split in SPLITS:
        rows = [json.loads(line) for line in (scenes / f"shapes_pope_{split}.json").read_text().splitlines()]
        assert all(list(row) == ["question_id", "image", "text", "label"] for row in rows)
        assert [row["question_id"] for row in rows] == list(range(1, len(rows) + 1))
        assert Counter(row["label"] for row in rows) == {"yes": 16, "no": 16}
    examples = load_dataset([f"pope:{scenes}"])
    assert Counter(example.split for example in examples) == dict.fromkeys(SPLITS, 32)
    assert {example.dataset for example in examples} == {"shapes_pope"}


def test_splits_share_their_yes_questions_and_differ_in_their_lures(scenes):
    asked = defaultdict(list)
    for example in load_dataset([f"pope:{scenes}"]):
        asked[example.split, example.gold].append((example.image, KIND_OF[example.question]))
    assert asked["random", "yes"] == asked["popular", "yes"] == asked["adversarial", "yes"]
    assert len({tuple(asked[split, "no"]) for split in SPLITS}) == 3


def test_answers_are_true_and_adversarial_lures_mix_what_is_there():
    rng = random.Random(0)
    for scene in (sample_scene(rng) for _ in range(300)):
        assert 2 <= len(scene.things) <= 4
        assert len(set(scene.kinds)) == len(scene.things)
        assert set(scene.absent) == set(KINDS) - set(scene.kinds)
        for colour, shape in scene.lures:
            assert (colour, shape) not in scene.kinds
            assert colour in {kind[0] for kind in scene.kinds}
            assert shape in {kind[1] for kind in scene.kinds}


def scenes_of(images, seed):
    rng = random.Random(seed)
    return {f"scene_{number:06d}.png": sample_scene(rng) for number in range(images)}


def test_labels_are_what_the_scene_holds(tmp_path):
    write_benchmark(tmp_path, images=5, seed=9)
    scenes = scenes_of(5, seed=9)
    for example in load_dataset([f"pope:{tmp_path}"]):
        assert (KIND_OF[example.question] in scenes[example.image].kinds) == (example.gold == "yes")


def test_popular_lures_are_the_kinds_seen_in_most_images(tmp_path):
    write_benchmark(tmp_path, images=60, seed=2)
    examples = load_dataset([f"pope:{tmp_path}"])
    scenes = scenes_of(60, seed=2)
    seen_in = Counter(kind for scene in scenes.values() for kind in scene.kinds)
    lures = {(e.image, KIND_OF[e.question]) for e in examples if (e.split, e.gold) == ("popular", "no")}
    assert len(lures) == 120
    for image, lure in lures:
        less_popular = [kind for kind in scenes[image].absent if seen_in[kind] < seen_in[lure]]
        assert len(less_popular) >= len(scenes[image].absent) - 2 - sum(n == seen_in[lure] for n in seen_in.values())


def test_images_can_be_opened_and_show_something(scenes):
    for path in (scenes / "images").iterdir():
        with Image.open(path) as image:
            assert image.size == (IMAGE_SIZE, IMAGE_SIZE)
            assert len(image.getcolors(maxcolors=1 << 16)) >= 3


@pytest.mark.parametrize(("spec", "seed"), [("shapes:5", 0), ("shapes:5@7", 7)])
def test_drawn_straight_from_a_seed_it_equals_what_the_files_hold(tmp_path, spec, seed):
    write_benchmark(tmp_path, images=5, seed=seed)
    written, drawn = load_dataset([f"pope:{tmp_path}"]), load_dataset([spec])
    assert [replace(example, source=None) for example in drawn] == [
        replace(example, source=None) for example in written
    ]
    assert all(one.source.read() == two.source.read() for one, two in zip(drawn, written, strict=True))
    assert len({example.source for example in drawn}) == 5


def test_the_pictures_and_questions_of_a_seed_never_change(tmp_path):
    write_benchmark(tmp_path, images=24, seed=7)
    questions = b"".join((tmp_path / f"shapes_pope_{split}.json").read_bytes() for split in SPLITS)
    assert hashlib.sha256(questions).hexdigest() == "a2cdc5c99c6b900a06192be1bb2f54c46fa3101c81532d52b192e2850ad5e3b1"
    pixels = hashlib.sha256()
    for path in sorted((tmp_path / "images").iterdir()):
        with Image.open(path) as image:
            pixels.update(image.tobytes())
    assert pixels.hexdigest() == "b9aa199b55d9e911d88750645cdd736d1939fa404977d070c2232ca97f2745ac"


@pytest.mark.parametrize("place", ["", "0", "-3", "many", "3@", "3@x", "3.5", "3@-1", "\u0663"])
def test_a_number_of_scenes_and_a_seed_are_asked_for(place):
    with pytest.raises(VlmlakeError, match=r"shapes:IMAGES@SEED, for instance shapes:120@7"):
        load_dataset([f"shapes:{place}"])

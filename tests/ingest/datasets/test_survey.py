import hashlib
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO

import pytest
from PIL import Image

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import Example, ImageFacts, open_image, survey_images
from vlmlake.ingest.datasets.image_source import FileImage


def encoded(kind="PNG", size=(40, 30), **options):
    buffer = BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


def example(source, number=1):
    return Example("mine", "test", str(number), "a.png", source, "Is there a dog?", None)


def written(folder, contents):
    """One example per file; a file of no content is not written."""
    examples = []
    for number, (name, content) in enumerate(contents.items()):
        if content is not None:
            (folder / name).write_bytes(content)
        examples.append(example(FileImage(folder / name), number))
    return examples


def claiming(width, height):
    """A PNG that says it has so many pixels, and has none."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


BAD = {
    "gone.png": (None, "No such file or directory"),
    "empty.png": (b"", "the file is empty"),
    "text.png": (b"not an image", "in no format that Pillow reads"),
    "cut.png": (encoded()[:900], "cannot be decoded: .*truncated"),
    "cut.jpg": (encoded("JPEG")[:-400], "cannot be decoded: .*truncated"),
    "flipped.png": (encoded()[:200] + bytes(100) + encoded()[300:], "cannot be decoded: "),
    "bomb.png": (claiming(20_000, 20_000), "400,000,000 pixels, more than the 89,478,485 that are read"),
    "large.png": (claiming(10_000, 10_000), "100,000,000 pixels, more than the 89,478,485 that are read"),
    "large.ppm": (b"P6 9500 9500 255\n", "90,250,000 pixels, more than the 89,478,485 that are read"),
    "narrow.png": (claiming(0, 5), "in no format that Pillow reads"),
    "flat.gif": (b"GIF89a\x05\x00\x00\x00\x00\x00\x00,\x00\x00\x00\x00\x05\x00\x00\x00\x00\x02\x00;", "."),
    "narrow.gif": (b"GIF89a\x00\x00\x05\x00\x00\x00\x00,\x00\x00\x00\x00\x00\x00\x05\x00\x00\x02\x00;", "."),
    "hollow.gif": (b"GIF89a\x05\x00\x05\x00\x00\x00\x00,\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00;", "."),
}


@pytest.mark.parametrize("name", BAD)
def test_missing_and_broken_images_are_named_with_the_reason(tmp_path, name):
    content, reason = BAD[name]
    examples = written(tmp_path, {"good.png": encoded(), name: content})
    with pytest.raises(VlmlakeError, match=rf"1 image is missing or broken: .*{name} \(.*{reason}.*\); --skip-bad"):
        survey_images(examples, skip_bad=False)
    with pytest.raises(VlmlakeError, match=rf"cannot read the image .*{name}: .*{reason}"):
        open_image(examples[1].source)


@pytest.mark.parametrize("name", ["bomb.png", "large.png", "large.ppm"])
def test_an_image_of_too_many_pixels_is_refused_in_silence(tmp_path, name):
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        survey = survey_images(written(tmp_path, {"good.png": encoded(), name: BAD[name][0]}), skip_bad=True)
    assert len(survey.skipped) == 1
    assert leaked == []


def test_a_format_that_allows_no_pixels_is_refused_by_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *args: Image.new("RGB", (0, 5)))
    with pytest.raises(VlmlakeError, match="no pixels in it"):
        open_image(written(tmp_path, {"a.png": encoded()})[0].source)


def test_an_image_of_other_bytes_than_surveyed_is_named(tmp_path):
    (one,) = written(tmp_path, {"a.png": encoded()})
    surveyed = survey_images([one], skip_bad=False).facts[one.source].sha256
    assert open_image(one.source, surveyed).size == (40, 30)
    (tmp_path / "a.png").write_bytes(encoded())
    with pytest.raises(VlmlakeError, match=r"the image .*a\.png changed since the pass began"):
        open_image(one.source, surveyed)


def test_bad_images_can_be_skipped_with_their_examples(tmp_path):
    examples = written(tmp_path, {"a.png": None, "b.png": encoded(), "c.png": b"no", "d.png": encoded(size=(8, 9))})
    examples.append(example(examples[0].source, 9))
    survey = survey_images(examples, skip_bad=True)
    assert survey.examples == (examples[1], examples[3])
    assert [skipped.example for skipped in survey.skipped] == [examples[0], examples[2], examples[4]]
    assert survey.skipped[1].reason == "in no format that Pillow reads"
    assert set(survey.facts) == {examples[1].source, examples[3].source}


def test_where_all_images_are_bad_nothing_is_left_to_do(tmp_path):
    examples = written(tmp_path, {"a.png": None, "b.png": None})
    with pytest.raises(VlmlakeError, match=r"no example remains: 2 images are missing or broken: .*a.png"):
        survey_images(examples, skip_bad=True)


def test_at_most_twenty_bad_images_are_listed(tmp_path):
    examples = written(tmp_path, {f"{number}.png": None for number in range(30)})
    with pytest.raises(
        VlmlakeError, match=r"30 images are missing or broken: .*19\.png \([^)]*\) and 10 more; --skip-bad"
    ):
        survey_images(examples, skip_bad=False)


def test_facts_are_the_digest_of_the_file_and_its_size_in_pixels(tmp_path):
    content = encoded("JPEG", (40, 30))
    (one,) = written(tmp_path, {"a.jpg": content})
    survey = survey_images([one], skip_bad=False)
    assert survey.facts[one.source] == ImageFacts(hashlib.sha256(content).hexdigest(), width=40, height=30)
    assert survey.skipped == ()


def test_an_orientation_tag_turns_nothing(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    (one,) = written(tmp_path, {"a.jpg": encoded("JPEG", (40, 30), exif=turned)})
    facts = survey_images([one], skip_bad=False).facts[one.source]
    assert (facts.width, facts.height) == open_image(one.source).size == (40, 30)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_of_pixels_becomes_rgb(tmp_path, mode):
    Image.new(mode, (5, 4)).save(tmp_path / "a.tiff")
    image = open_image(FileImage(tmp_path / "a.tiff"))
    assert (image.mode, image.size) == ("RGB", (5, 4))


@dataclass(frozen=True)
class Watched:
    """A source that counts how often it is read, and by how many threads at once."""

    name: str
    content: bytes
    log: "Log"

    def read(self):
        self.log.enter(self.name)
        self.log.leave.wait(0.02)
        self.log.exit()
        return self.content


class Log:
    def __init__(self):
        self.names, self.inside, self.most, self.lock, self.leave = [], 0, 0, threading.Lock(), threading.Event()

    def enter(self, name):
        with self.lock:
            self.names.append(name)
            self.inside += 1
            self.most = max(self.most, self.inside)

    def exit(self):
        with self.lock:
            self.inside -= 1


def test_every_image_is_read_once_by_a_few_threads_and_progress_is_told():
    log, content, told = Log(), encoded(), []
    sources = [Watched(f"{number}.png", content, log) for number in range(20)]
    examples = [example(source, number) for number, source in enumerate(sources * 3)]
    survey = survey_images(examples, skip_bad=False, workers=3, report=lambda *step: told.append(step))
    assert sorted(log.names) == sorted(source.name for source in sources)
    assert 1 < log.most <= 3
    assert told == [(done, 20) for done in range(1, 21)]
    assert list(survey.facts) == sources


def test_an_interrupt_leaves_most_images_unread():
    log, content = Log(), encoded()
    examples = [example(Watched(f"{number}.png", content, log), number) for number in range(200)]

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        survey_images(examples, skip_bad=False, workers=2, report=interrupt)
    assert len(log.names) <= 5


def test_the_same_bytes_under_two_names_are_decoded_once(tmp_path, monkeypatch):
    decoded = []
    decode = Image.open
    monkeypatch.setattr(Image, "open", lambda *args: decoded.append(args) or decode(*args))
    content = encoded()
    examples = written(tmp_path, {f"{number}.png": content for number in range(30)})
    survey = survey_images(examples, skip_bad=False, workers=1)
    assert len(decoded) == 1
    assert len(survey.facts) == 30

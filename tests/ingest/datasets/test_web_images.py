import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import load_dataset, open_image, survey_images
from vlmlake.ingest.datasets.scenes import png
from vlmlake.ingest.datasets.shapes import make_benchmark


@pytest.fixture
def site(tmp_path):
    """A loopback web server over a folder: its address and the folder."""
    root = tmp_path / "site"
    root.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def do_GET(self):
            if self.path.startswith("/broken"):
                self.send_error(500)
            else:
                super().do_GET()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", root
    server.shutdown()
    thread.join()
    server.server_close()


def test_images_at_web_addresses_are_read_from_several_threads(site, tmp_path):
    address, root = site
    scenes = make_benchmark(12).images
    for image in scenes:
        (root / image.name).write_bytes(png(image.scene))
    rows = [{"question": "Dog?", "image": f"{address}/{image.name}"} for image in scenes]
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    examples = load_dataset([f"table:{tmp_path / 'mine.jsonl'}"], storage_options={"key": "for a store", "secret": "x"})
    survey = survey_images(examples, skip_bad=False)
    assert len({facts.sha256 for facts in survey.facts.values()}) == len(scenes)
    assert open_image(examples[3].source).size == (192, 192)


def test_a_table_on_the_web_has_its_images_beside_it(site):
    address, root = site
    (root / "mine.csv").write_text("question,image\nDog?,a.png\n")
    (root / "a.png").write_bytes(png(make_benchmark(1).images[0].scene))
    (example,) = load_dataset([f"table:{address}/mine.csv?download=1"])
    assert example.source.name == f"{address}/a.png"
    assert open_image(example.source).size == (192, 192)


@pytest.mark.parametrize(("path", "reason"), [("gone.png", "nothing is there"), ("broken.png", "500")])
def test_what_the_web_does_not_give_is_named(site, tmp_path, path, reason):
    address, _ = site
    (tmp_path / "mine.csv").write_text(f"question,image\nDog?,{address}/{path}\n")
    examples = load_dataset([f"table:{tmp_path / 'mine.csv'}"])
    with pytest.raises(VlmlakeError, match=rf"1 image is missing or broken: {address}/{path} \(.*{reason}"):
        survey_images(examples, skip_bad=False)


def test_a_server_that_is_not_there_is_named(tmp_path):
    (tmp_path / "mine.csv").write_text("question,image\nDog?,http://127.0.0.1:9/a.png\n")
    (example,) = load_dataset([f"table:{tmp_path / 'mine.csv'}"])
    with pytest.raises(VlmlakeError, match=r"cannot read the image http://127.0.0.1:9/a.png: .*[Cc]onnect"):
        open_image(example.source)

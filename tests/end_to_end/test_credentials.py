"""Credentials come from the environment or a URL of the data, and go nowhere: no file of a lake, no line, no error."""

from __future__ import annotations

import json
import logging
import shutil

import pytest

from tests.servers import FileServer
from vlmlake import open_lake
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.extract import extract
from vlmlake.ingest.job import Job
from vlmlake.ingest.model_source import ModelSource
from vlmlake.store_schema.storage import Storage

SECRET = "hush-hush"


@pytest.fixture
def asked(scenes, tmp_path):
    """A table of questions and its images behind a web server, reached with a user's name and password."""
    shutil.copytree(scenes / "images", tmp_path / "data" / "images")
    names = sorted(path.name for path in (scenes / "images").iterdir())[:3]
    rows = [
        {"id": str(number), "question": "Is there a dog?", "image": name, "gold": "no"}
        for number, name in enumerate(names)
    ]
    (tmp_path / "data" / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with FileServer(tmp_path / "data") as web:
        yield web.url.replace("://", f"://me:{SECRET}@")


def job_at(url: str, model, asked: str, options=None) -> Job:
    decoding = Decoding(answer_tokens=1)
    data, images = (f"table:{asked}/asked.jsonl",), f"{asked}/images"
    return Job(ModelSource(str(model)), data, url, images, decoding=decoding, storage_options=options)


@pytest.mark.parametrize("where", ["local", "s3"])
def test_no_file_of_a_lake_and_no_log_holds_them(where, request, tiny_llava, asked, tmp_path, caplog, capfd):
    url, options = str(tmp_path / "lake"), None
    if where == "s3":
        s3 = request.getfixturevalue("s3")
        url, options = s3.bucket("credentials") + "/lake", {**s3.options, "key": "me", "secret": SECRET}
    caplog.set_level(logging.INFO)
    job = job_at(url, tiny_llava, asked, options)
    told: list[str] = []
    outcome = extract(job, tell=told.append)
    lake = open_lake(url, options)
    storage = Storage.at(url, options)
    contents = storage.read_all(list(storage.files("")))
    assert len(contents) > 20
    assert not [content for content in contents if SECRET.encode() in content]
    shown = [job, outcome, lake, lake.storage, lake[outcome.run], lake.table("examples"), lake.run(outcome.run).record]
    assert SECRET not in "".join(map(repr, shown)) + caplog.text + "".join(capfd.readouterr()) + "".join(told)


def test_no_error_holds_them(tiny_llava, asked, tmp_path):
    (tmp_path / "data" / "images").rename(tmp_path / "data" / "gone")
    with pytest.raises(VlmlakeError, match="3 images are missing or broken") as error:
        extract(job_at(str(tmp_path / "lake"), tiny_llava, asked))
    assert SECRET not in str(error.value)
    assert str(tmp_path) not in str(error.value)
    with pytest.raises(VlmlakeError) as error:
        open_lake(f"{asked}/nowhere")
    assert SECRET not in str(error.value)

"""7: the first question asked of a lake in S3, near and as if it were far away."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import s3fs
from stores import counts
from stores.bucket import DELAY
from stores.counts import Cost
from stores.relay import relayed

from statements import questions
from statements.lake import Subject, forget_indexes
from statements.table import Row, show
from tests.servers.s3 import CREDENTIALS, S3Server
from vlmlake.queries import Session, sql


def rows(subject: Subject, examples: int, folder: Path) -> tuple[list[Row], list[str]]:
    """examples: the first so many are there."""
    os.environ.update(CREDENTIALS, TMPDIR=str(folder))
    with S3Server() as server, relayed(urlsplit(server.endpoint).port, DELAY) as port:
        states = subject.states.first(examples)
        near = replace(subject, url=f"{server.bucket('lake')}/lake", states=states, options=server.options)
        near.write()
        far = replace(near, options={"endpoint_url": f"http://127.0.0.1:{port}"})
        found = [*_rows("7a", "S3", near), *_rows("7b", f"S3, {DELAY * 1000:.0f} ms away", far)]
    return found, [
        f"7: the first {examples:,} examples from an S3 server (moto) on loopback, 7b behind a relay that holds every "
        f"request back for {DELAY * 1000:.0f} ms; {states.one / 1e6:.1f} MB asked for. MB and requests as s3fs sends",
        "them, listings too. They are the finding, seconds are moto's.",
    ]


def _rows(part: str, where: str, subject: Subject) -> list[Row]:
    query = questions.norms_joined(questions.at(subject.layer_name))
    s3fs.S3FileSystem.clear_instance_cache()
    forget_indexes()
    first = _cost(lambda: sql(subject.url, query, subject.options))
    with Session.at(subject.url, subject.options) as session:
        forget_indexes()
        asked = _cost(lambda: session.ask(query))
        again = _cost(lambda: session.ask(query))
    return [
        show(part, f"{where}: sql(), the lake opened", first),
        show(part, f"{where}: the session open already", asked),
        show(part, f"{where}: the same again, indexes known", again),
    ]


def _cost(work: Callable[[], Any]) -> Cost:
    return counts.web(work)[0]

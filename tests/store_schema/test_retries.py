"""Storage that fails is asked again, as often as it makes sense."""

from __future__ import annotations

import time

import pytest

from vlmlake.errors import VlmlakeError, without_credentials
from vlmlake.store_schema import retries
from vlmlake.store_schema.retries import FINAL, patiently


@pytest.fixture(autouse=True)
def slept(monkeypatch):
    """Seconds that were waited, without waiting them."""
    found = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


class Answers:
    """Raises what it was given, one after the other, then answers."""

    def __init__(self, *errors):
        self.errors, self.asked = list(errors), 0

    def __call__(self):
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


class StatusError(OSError):
    def __init__(self, status):
        super().__init__(f"status {status}")
        self.status = status


class NoCredentialsError(OSError):
    """Named as botocore's."""


@pytest.mark.parametrize(
    "error", [OSError("reset"), TimeoutError(), ConnectionResetError(), StatusError(503)], ids=repr
)
def test_a_passing_failure_is_waited_out_ever_longer(error, slept):
    ask = Answers(error, error, error)
    assert patiently("it", ask) == "answer"
    assert ask.asked == 4
    assert all(wait <= real <= 1.5 * wait for real, wait in zip(slept, retries.WAITS, strict=False))
    assert len(slept) == 3


def test_a_lasting_failure_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(retries, "WAITS", (0.1, 0.2))
    ask = Answers(*[OSError("s3://key:secret@bucket/x?token=abc\nis away")] * 9)
    with pytest.raises(VlmlakeError) as refused:
        patiently("s3://bucket/x", ask)
    assert ask.asked == 3
    assert str(refused.value) == (
        "s3://bucket/x: no answer in 3 attempts, the last: OSError: s3://bucket/x is away. Nothing that was committed "
        "is lost; run the same command again to go on"
    )


@pytest.mark.parametrize(
    "error", [PermissionError("no"), StatusError(403), StatusError(401), NoCredentialsError("none")], ids=repr
)
def test_a_refusal_is_final_and_says_where_credentials_come_from(error, slept):
    ask = Answers(error)
    with pytest.raises(VlmlakeError, match=r"it: .*Credentials come from the environment, options from --storage-opt"):
        patiently("it", ask)
    assert (ask.asked, slept) == (1, [])


@pytest.mark.parametrize("kind", FINAL)
def test_answers_that_say_no_pass_through(kind, slept):
    ask = Answers(kind("x"))
    with pytest.raises(kind):
        patiently("it", ask)
    assert (ask.asked, slept) == (1, [])


def test_errors_of_the_program_are_not_asked_again(slept):
    ask = Answers(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        patiently("it", ask)
    assert (ask.asked, slept) == (1, [])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pass@host/a/b?token=x&y=1 failed", "https://host/a/b failed"),
        ("'https://host/a?sig=1', 'https://user@host/b'", "'https://host/a', 'https://host/b'"),
        ("s3://bucket/key and what? nothing", "s3://bucket/key and what? nothing"),
        ("mail me@home", "mail me@home"),
        ("https://user:p@ss@host/a", "https://host/a"),
    ],
)
def test_credentials_are_taken_out_of_urls(text, shown):
    assert without_credentials(text) == shown

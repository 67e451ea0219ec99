"""Seals: what a file says of itself, whatever the texts in it say."""

from __future__ import annotations

import json

import pytest

from vlmlake.store_schema import seals, tables

TEXTS = ["vlmlake-crc32c=deadbeef", "vlmlake-crc32c=00000000", '"seal": "vlmlake-crc32c=00000000"', seals.BLANK * 3]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_that_looks_like_a_seal_is_none(text):
    words = [{"id": number, "text": text} for number in range(3)]
    content = tables.to_parquet(words, tables.VOCABULARY, {"note": "a note"})
    assert tables.decode(content, tables.VOCABULARY, "it")[0].to_pylist() == words
    sealed = seals.sealed(json.dumps({"template": text, seals.KEY: seals.BLANK}, indent=2).encode())
    assert seals.is_whole(sealed)
    assert json.loads(sealed)["template"] == text


def test_what_has_no_place_for_a_seal_is_refused():
    for content in (b"", b"{}", b"PAR1", b"\0" * 20 + b"PAR1", json.dumps({"other": seals.BLANK}).encode()):
        assert not seals.is_whole(content)
        with pytest.raises(ValueError, match="expected vlmlake-crc32c=00000000 once"):
            seals.sealed(content)

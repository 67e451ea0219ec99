"""docs/format.md says how to read a lake without vlmlake; here that is done, in a process that cannot import it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from vlmlake import open_lake
from vlmlake.store_schema.schema import FORMAT_VERSION

PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text()

WITHOUT_VLMLAKE = """
import sys
sys.modules["vlmlake"] = None  # importing it fails
lake, out = sys.argv[1:]
"""
TELL = """
np.savez(out, states=states, image=image, readout=readout, example=one["example"], rows=len(rows))
assert not [name for name in sys.modules if name.startswith("vlmlake.")]
"""


@pytest.fixture(scope="module")
def told(lake_url, tmp_path_factory) -> np.lib.npyio.NpzFile:
    """What the page's code finds in the lake."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    out = tmp_path_factory.mktemp("format") / "told.npz"
    program = WITHOUT_VLMLAKE + code + TELL
    subprocess.run([sys.executable, "-c", program, lake_url, str(out)], check=True, cwd=out.parent)
    return np.load(out, allow_pickle=False)


def test_plain_zarr_and_parquet_read_what_we_read(told, lake_url):
    data = open_lake(lake_url)["tiny-llava"]
    assert told["rows"] == data.sizes["example"] == 480
    one = data.sel(example=str(told["example"]), layer="block_1")
    lengths = [int(one[name]) for name in ("prefix_tokens", "suffix_tokens", "answer_tokens")]
    states = one["hidden_states"].values[: lengths[1] + lengths[2]]
    np.testing.assert_array_equal(told["states"], states)
    np.testing.assert_array_equal(told["readout"], one["readout_states"].sel(position="prompt_last"))
    prefix = data["prefix_states"].sel(prefix=one["prefix_of"].item(), layer="block_1").values[: lengths[0]]
    np.testing.assert_array_equal(told["image"], prefix)
    assert np.isfinite(states).all()
    assert len(states)


def test_the_page_names_the_version_and_every_file_of_a_lake(lake_url):
    assert f"Version {FORMAT_VERSION}." in PAGE
    shapes = [line.split()[0] for line in PAGE.splitlines() if line.startswith("    ") and "  " in line.strip()]
    shapes += ["lake.json"]
    named = "|".join(re.escape(shape).replace("<run>", "[^/]+").replace("<array>", "[^/]+") for shape in shapes)
    named = re.sub(r"<\w+>", "[^/]+", named).replace("c\\.3\\.0\\.0\\.0", r"c\.\d+(\.0)*").replace("000003", r"\d{6}")
    for path in Path(lake_url).rglob("*"):
        if path.is_file():
            assert re.fullmatch(named, str(path.relative_to(lake_url))), path


def test_the_seal_is_what_the_page_says(lake_url):
    files = [path for path in Path(lake_url).rglob("*") if path.suffix == ".parquet" or path.name == "run.json"]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        (seal,) = re.findall(rb"vlmlake-crc32c=([0-9a-f]{8})", content)
        blank = content.replace(b"vlmlake-crc32c=" + seal, b"vlmlake-crc32c=00000000")
        assert google_crc32c.value(blank) == int(seal, 16)

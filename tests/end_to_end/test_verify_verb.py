"""`vlmlake verify` as a user types it: a table, a line for every problem, an exit code that scripts can trust."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vlmlake import open_lake
from vlmlake.console import terminal
from vlmlake.console.verification import PROBLEMS_SHOWN, print_verdicts
from vlmlake.store_schema.lake import create_lake
from vlmlake.store_schema.verdict import Looked, Problem, Verdict


@pytest.fixture
def copy(lake_url, tmp_path) -> Path:
    """A lake of the test's own."""
    return Path(shutil.copytree(lake_url, tmp_path / "lake"))


def extract_command(lake: Path) -> tuple[str, ...]:
    """What made the lake that the tests share."""
    versions = open_lake(str(lake)).run("tiny-llava").record.versions
    data = ("--dataset", versions["dataset"][0], "--answer-tokens", "3", "--samples", "2", "--seed", "1")
    return ("extract", "--model", versions["model"], *data, "--lake", str(lake))


def test_a_sound_lake_is_a_row_of_counts_and_exit_code_0(run_cli, lake_url):
    code, out, err = run_cli("verify", lake_url)
    assert (code, err) == (0, "")
    head, row = (line.split() for line in out.splitlines())
    assert head == ["run", "batches", "shards", "chunks", "bytes", "examples", "problems"]
    assert row[0] == open_lake(lake_url).runs[0]
    assert (row[1], row[-2], row[-1]) == ("10", "480", "0")


def test_examples_are_replayed_by_the_model(run_cli, lake_url, tmp_path):
    code, out, _ = run_cli("verify", lake_url, "--replay", "5", "--seed", "3", "--run", "tiny-llava")
    assert code == 0
    assert out.splitlines()[2:] == [f"{open_lake(lake_url).runs[0]}: 5 examples replayed, problems: 0"]
    code, _, err = run_cli("verify", lake_url, "--replay", "1", "--model", str(tmp_path))
    assert code == 2
    assert err.startswith("vlmlake: cannot load the model")
    code, _, err = run_cli("verify", lake_url, "--replay", "1", "--dataset", "shapes:1@9")
    assert code == 2
    assert len(err.splitlines()) == 1


def test_damage_is_told_withdrawn_and_computed_again(run_cli, copy):
    (shard,) = copy.glob("runs/*/arrays.zarr/logits/c.3.0.0")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:50] + bytes([whole[50] ^ 4]) + whole[51:])
    code, out, _ = run_cli("verify", str(copy))
    assert code == 1
    name = open_lake(str(copy)).runs[0]
    told = out.splitlines()[2:]
    assert told
    assert all(line.startswith(f"{name} batch 3 logits: runs/") for line in told)
    code, out, _ = run_cli("verify", str(copy), "--withdraw")
    assert code == 1
    assert out.splitlines()[-1] == f"{name}: batch 3 taken back; `vlmlake extract` computes them again"
    assert run_cli("verify", str(copy))[0] == 0
    assert open_lake(str(copy)).run(name).batches_done == 9
    assert run_cli(*extract_command(copy))[0] == 0
    assert open_lake(str(copy)).run(name).batches_done == 10
    assert run_cli("verify", str(copy))[0] == 0
    assert shard.read_bytes() == whole


def test_what_was_found_is_told_and_withdrawn_where_replay_cannot_start(run_cli, copy, tmp_path):
    (shard,) = copy.glob("runs/*/arrays.zarr/logits/c.3.0.0")
    shard.write_bytes(b"x" * shard.stat().st_size)
    code, out, err = run_cli("verify", str(copy), "--withdraw", "--replay", "1", "--model", str(tmp_path))
    assert code == 2
    assert err.startswith("vlmlake: cannot load the model")
    name = open_lake(str(copy)).runs[0]
    assert f"{name} batch 3 logits: " in out
    assert out.splitlines()[-1].startswith(f"{name}: batch 3 taken back")


def test_a_lake_without_batches_is_exit_code_1(run_cli, tmp_path):
    create_lake(str(tmp_path))
    code, out, _ = run_cli("verify", str(tmp_path))
    assert code == 1
    assert "nothing was checked" in out


def test_no_lake_and_no_such_run_are_one_line_and_exit_code_2(run_cli, lake_url, tmp_path):
    for arguments in ((str(tmp_path / "none"),), (lake_url, "--run", "other")):
        code, _, err = run_cli("verify", *arguments)
        assert code == 2
        assert len(err.splitlines()) == 1


def test_text_of_a_lake_cannot_steer_the_terminal_and_only_so_many_problems_are_shown(capsys):
    problems = tuple(Problem("run", number, None, "\x1b[2J\nforged: 0 problems") for number in range(60))
    assert not print_verdicts(terminal(), [Verdict("run", Looked(1), problems)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + PROBLEMS_SHOWN + 1
    assert lines[-1] == "10 more problems"
    assert "\x1b" not in "".join(lines)
    assert r"\x1b[2J\nforged" in lines[2]

"""The command line in this process, for all tests of it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from vlmlake import cli

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_cli(monkeypatch, capsys) -> Cli:
    """Run a command line; returns exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vlmlake", *arguments])
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        else:
            code = 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def refused(run_cli) -> Callable[..., str]:
    """The one line of standard error of a command that must fail with exit code 2."""

    def run(*arguments: str) -> str:
        code, out, err = run_cli(*arguments)
        assert out == "" or arguments[0] != "extract"
        lines = err.strip().splitlines()
        assert code == 2, (code, err)
        assert len(lines) == 1, err
        assert lines[0].startswith("vlmlake: ")
        return lines[0]

    return run

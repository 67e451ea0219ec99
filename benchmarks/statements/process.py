"""One statement in a process of its own: prints the most memory it took beyond that of the open session, in bytes.

python -m statements.process LAKE STATEMENT
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from peak import forget_peak, peak_memory

from vlmlake.queries import Session

WARM_UP = "SELECT sum(vector[1]) FROM readout_states WHERE example IN (SELECT min(example) FROM examples)"
"""Loads what every statement needs, and the indexes of no shard but one."""


def peak_of(url: str, statement: str) -> int:
    """Runs this file. Raises CalledProcessError if it fails."""
    command = [sys.executable, "-m", "statements.process", url, statement]
    told = subprocess.run(command, cwd=Path(__file__).parents[1], check=True, stdout=subprocess.PIPE, text=True)
    return int(told.stdout.split()[-1])


def _main(url: str, statement: str) -> None:
    with Session.at(url) as session:
        session.ask(WARM_UP)
        forget_peak()
        before = peak_memory()
        session.ask(statement)
        print(peak_memory() - before)


if __name__ == "__main__":
    _main(*sys.argv[1:])

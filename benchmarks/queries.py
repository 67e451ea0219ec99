"""How fast SQL over a lake's arrays is beside bare zarr and numpy, how little it reads, and how much memory it takes.

python benchmarks/queries.py           # LLaVA-1.5-7B's shapes over POPE's numbers, minutes, 8 GB of temporary files
python benchmarks/queries.py --quick   # small shapes, to see that everything runs
python benchmarks/queries.py --check   # exit 1 and name the rows that miss their target
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the S3 server of the tests

import judged
from statements import blobs, distant, memory, narrowing, speed
from statements.lake import Subject
from statements.table import HEADINGS
from stores.subject import States

PACKAGES = ("vlmlake", "duckdb", "polars", "pyarrow", "numpy", "zarr", "torch", "s3fs", "moto")


@dataclass(frozen=True)
class Effort:
    """layer: which one is asked about. few: layers of the lake that the memory is compared with; kept: layers of the
    most that is kept. part: examples with blobs of whole prompts; remote: examples in S3.
    """

    states: States
    layer: int
    rounds: int
    few: int
    kept: int
    part: int
    remote: int


EFFORTS = {
    "full": Effort(States(3_090, 33, 4_096, 32), layer=20, rounds=7, few=8, kept=8, part=24, remote=256),
    "quick": Effort(States(210, 9, 128, 8), layer=5, rounds=2, few=4, kept=4, part=4, remote=64),
}


def measure(effort: str, folder: Path) -> judged.Measured:
    chosen = EFFORTS[effort]
    subject = Subject(str(folder / "lake"), chosen.states, chosen.layer, chosen.rounds)
    subject.write()
    fast, about, ours = speed.rows(subject)
    held, of_memory = memory.rows(subject, chosen.few, chosen.kept, chosen.rounds // 2, folder)
    beside, of_blobs = blobs.rows(subject, chosen.part, ours, folder)
    away, of_s3 = distant.rows(subject, chosen.remote, folder)
    rows = [*fast, *held, *beside, *narrowing.rows(subject), *away]
    return rows, [*about, *of_memory, *of_blobs, *of_s3]


if __name__ == "__main__":
    sys.exit(judged.run(judged.parser(__doc__).parse_args(), PACKAGES, HEADINGS, measure))

"""How fast the analyses are beside the plain way to the same numbers, and how much memory they take.

python benchmarks/analysis.py           # LLaVA-1.5-7B's shapes over 3,090 questions, 15 minutes, 5 GB of files
python benchmarks/analysis.py --quick   # small shapes, to see that everything runs
python benchmarks/analysis.py --check   # exit 1 and name the rows that miss their target
"""

from __future__ import annotations

import sys
from pathlib import Path

import judged
from analyses import attention, cluster, margins, probes
from analyses.lake import write_lake
from analyses.process import Subject
from analyses.study import Shape, Study
from analyses.table import HEADINGS

PACKAGES = ("vlmlake", "numpy", "scipy", "scikit-learn", "xarray", "dask", "distributed")
SHAPES = {
    "full": Shape(
        images=515,
        questions=6,
        blocks=32,
        heads=32,
        hidden=4_096,
        grid=24,
        vocabulary=32_064,
        rank=1_024,
        batch=5,
    ),
    "quick": Shape(
        images=40,
        questions=6,
        blocks=4,
        heads=4,
        hidden=64,
        grid=6,
        vocabulary=512,
        rank=32,
        batch=5,
    ),
}
ON_A_CLUSTER = {"full": 300, "quick": 120}
"""Examples whose analyses are done on a cluster, too."""


def measure(effort: str, folder: Path) -> judged.Measured:
    shape = SHAPES[effort]
    subject = Subject(str(folder / "lake"), folder)
    size = write_lake(subject.url, Study(shape))
    parts = [
        probes.rows(subject),
        attention.rows(subject),
        margins.rows(subject),
        cluster.rows(subject, ON_A_CLUSTER[effort]),
    ]
    about = (
        f"A made-up lake of {size / 1e9:.1f} GB: {shape.examples:,} examples of {shape.images} images, {shape.layers} "
        f"layers of {shape.hidden:,} and {shape.blocks} x {shape.heads} x {shape.grid**2} attention weights at "
        f"prompt_last, float16, a vocabulary of {shape.vocabulary:,}."
    )
    return [row for rows, _ in parts for row in rows], [about, *(note for _, notes in parts for note in notes)]


if __name__ == "__main__":
    sys.exit(judged.run(judged.parser(__doc__).parse_args(), PACKAGES, HEADINGS, measure))

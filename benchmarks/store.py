"""How fast the lake writes and reads, and how small it is, beside the ways in which people keep activations today.

python benchmarks/store.py           # LLaVA-1.5-7B's shapes over POPE's numbers, minutes, 15 GB of temporary files
python benchmarks/store.py --quick   # small shapes, to see that everything runs
python benchmarks/store.py --check   # exit 1 and name the rows that miss their target
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the S3 server of the tests

import judged
from stores import bucket, reading, sizes, writing
from stores.table import HEADINGS

PACKAGES = ("vlmlake", "numpy", "torch", "h5py", "zarr", "numcodecs", "dask", "s3fs", "moto")
REMOTE_EXAMPLES = {"full": (256, 64), "quick": (64, 8)}
"""Of those read from S3; of those of which the objects with several tokens are."""


def measure(effort: str, folder: Path) -> judged.Measured:
    local, (remote, several) = reading.EFFORTS[effort], REMOTE_EXAMPLES[effort]
    parts = [
        writing.rows(writing.EFFORTS[effort], folder),
        reading.rows(local, folder),
        bucket.rows(local.states.first(remote), local.layer, folder, several),
        sizes.rows(),
    ]
    return [row for rows, _ in parts for row in rows], [note for _, notes in parts for note in notes]


if __name__ == "__main__":
    sys.exit(judged.run(judged.parser(__doc__).parse_args(), PACKAGES, HEADINGS, measure))

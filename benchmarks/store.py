"""How fast the lake writes and reads, and how small it is, beside the ways in which people keep activations today.

python benchmarks/store.py           # LLaVA-1.5-7B's shapes over POPE's numbers, minutes, 15 GB of temporary files
python benchmarks/store.py --quick   # small shapes, to see that everything runs
python benchmarks/store.py --check   # exit 1 and name the rows that miss their target
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the S3 server of the tests

from report import show_missed
from stores import bucket, reading, sizes, writing
from stores.table import show_run, show_table

REMOTE_EXAMPLES = {"full": (256, 64), "quick": (64, 8)}
"""Of those read from S3; of those of which the objects with several tokens are."""


def main() -> int:
    asked = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary folder goes, too
    effort = "quick" if asked.quick else "full"
    show_run()
    local, (remote, several) = reading.EFFORTS[effort], REMOTE_EXAMPLES[effort]
    with tempfile.TemporaryDirectory(prefix="vlmlake-benchmark-") as name:
        folder = Path(name)
        parts = [
            writing.rows(writing.EFFORTS[effort], folder),
            reading.rows(local, folder),
            bucket.rows(local.states.first(remote), local.layer, folder, several),
            sizes.rows(),
        ]
    rows = [row for found, _ in parts for row in found]
    show_table(rows, [note for _, notes in parts for note in notes], judged=asked.check or not asked.quick)
    missed = [f"{row.part} ({row.way})" for row in rows if row.passed is False]
    if asked.check:
        show_missed(missed)
    return int(asked.check and bool(missed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small shapes; no target is applied")
    parser.add_argument("--check", action="store_true", help="apply the targets, with --quick too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

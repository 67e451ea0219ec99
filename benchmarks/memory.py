"""One pass in a process of its own: prints its largest resident memory in bytes since it began to compute.

python benchmarks/memory.py SUBJECT.json IMAGES BATCH
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent


def peak_of_a_pass(subject: str, images: int, batch: int, folder: Path) -> int:
    """subject: as Subject.to_json gives it. Runs this file."""
    file = folder / "subject.json"
    file.write_text(subject)
    command = [sys.executable, str(BENCHMARKS / "memory.py"), str(file), str(images), str(batch)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def _main(file: str, images: int, batch: int) -> None:
    import ways
    from peak import forget_peak, peak_memory
    from subjects import Subject

    from vlmlake.ingest.decoding import Decoding
    from vlmlake.ingest.extract import extract

    subject = Subject.from_json(Path(file).read_text())
    job = subject.job(images, f"memory-{images}", batch, Decoding(answer_tokens=1))
    began = []

    def report(progress: object) -> None:
        if not began:
            began.append(progress)
            forget_peak()  # that of loading the model

    extract(job, report, None if subject.saved else subject.family)
    peak = peak_memory()
    ways.remove(Path(job.lake))
    print(peak)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

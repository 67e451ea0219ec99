"""A way of getting numbers, in a process of its own: what they are, how long it took, and the most memory it had.

python benchmarks/analyses/process.py PART.WAY LAKE EXAMPLES LAYER threads|cluster OUTPUT
"""

from __future__ import annotations

import importlib
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from peak import peak_memory

from vlmlake.store_schema.lake import open_lake

PATIENCE = 30
"""Seconds that a process which is told to end has for it."""
WORKERS, WORKER_MEMORY = 2, "4GiB"
"""Of a cluster: processes, of one thread each; and what each may have."""

Numbers = Mapping[str, np.ndarray]


class Clock:
    """Runs inside `running`."""

    seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


@dataclass(frozen=True)
class Outcome:
    """seconds: by the way's clock. peak: the process's largest resident memory, in bytes, its libraries included."""

    seconds: float
    peak: int
    numbers: Numbers = field(repr=False)


@dataclass(frozen=True)
class Subject:
    """A lake with one run; a folder for what the processes leave."""

    url: str
    folder: Path

    def measured(
        self, way: str, examples: int | None = None, layer: int | None = None, scheduler: str = "threads"
    ) -> Outcome:
        """way: a function of this package that takes the run's Dataset and a clock, as in `margins.bare`, and returns
        Numbers. examples: the first so many of the run, layer: the one with this number; all by default. scheduler:
        `threads`, or `cluster` for workers.

        Raises CalledProcessError if it fails.
        """
        output = self.folder / f"{way}.npz"
        choice = [str(examples or ""), "" if layer is None else str(layer)]
        command = [sys.executable, "-m", "analyses.process", way, self.url, *choice, scheduler, str(output)]
        with subprocess.Popen(command, cwd=Path(__file__).parents[1]) as process:
            try:
                status = process.wait()
            except BaseException:
                process.terminate()
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                raise
        if status:
            raise subprocess.CalledProcessError(status, command)
        with np.load(output) as file:
            numbers = dict(file)
        output.unlink()
        return Outcome(float(numbers.pop("seconds")), int(numbers.pop("peak")), numbers)


def _main(way: str, url: str, examples: str, layer: str, scheduler: str, output: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    part, name = way.split(".")
    function = getattr(importlib.import_module(f"analyses.{part}"), name)
    (data,) = open_lake(url).values()
    data = data.isel(example=slice(int(examples))) if examples else data
    data = data.isel(layer=[int(layer)]) if layer else data
    clock = Clock()
    with _cluster(Path(output).parent) if scheduler == "cluster" else nullcontext():
        numbers = function(data, clock)
    np.savez(output, seconds=clock.seconds, peak=peak_memory(), **numbers)


@contextmanager
def _cluster(folder: Path) -> Iterator[None]:
    """While it lasts, Dask works there; its workers have imported what they need."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            memory_limit=WORKER_MEMORY,
            dashboard_address=None,
            local_directory=str(folder),
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.run(importlib.import_module, "vlmlake.analysis.analyses")
        yield


if __name__ == "__main__":
    _main(*sys.argv[1:])

"""One model through all ways, round after round, and the rows that come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gpu
import ways
from memory import peak_of_a_pass
from report import Row
from subjects import Subject, examples_of

from vlmlake.ingest.decoding import Decoding

ONE_TOKEN = Decoding(answer_tokens=1)
GREEDY = Decoding(answer_tokens=4)
TEN_SAMPLES = Decoding(answer_tokens=4, samples=10, temperature=0.7, top_p=0.9, seed=0)
PLAIN_BATCHES = (6, 12, 24)

TIMES_EAGER, TIMES_PLAIN, CAPTURE_COST, SAMPLES_COST, MEMORY_GROWTH = 4.5, 3.0, 0.1, 1.5, 1.1
"""The targets."""


@dataclass(frozen=True)
class Effort:
    """How much is run. eager, plain: questions; ours, sampled: images; memory: images of the two passes. batch:
    questions that ours computes together, memory_batch in the passes whose memory is measured.
    """

    rounds: int
    eager: int
    plain: int
    ours: int
    sampled: int
    batch: int
    memory: tuple[int, int]
    memory_batch: int

    @property
    def images(self) -> int:
        return max(self.ours, self.sampled, *self.memory)


EFFORTS = {
    "cpu": Effort(rounds=3, eager=8, plain=24, ours=36, sampled=8, batch=24, memory=(12, 48), memory_batch=6),
    "cuda": Effort(rounds=3, eager=6, plain=96, ours=24, sampled=16, batch=24, memory=(16, 64), memory_batch=12),
    "quick": Effort(rounds=2, eager=2, plain=24, ours=8, sampled=4, batch=12, memory=(8, 32), memory_batch=6),
}


class Measurement:
    """Measures when asked for its rows; notes are there afterwards."""

    def __init__(self, subject: Subject, effort: Effort, folder: Path) -> None:
        self.subject, self.effort, self.folder = subject, effort, folder
        self.notes: list[str] = []
        self._rates: dict[str, float] = {}
        self._passes: list[ways.Extracted] = []
        self._plain_batch = 0

    def rows(self) -> list[Row]:
        self._run_rounds()
        self._describe()
        return [*self._speed_rows(), *self._sample_rows(), self._memory_row(), *self._gpu_rows()]

    def _run_rounds(self) -> None:
        """Forwards and backwards in turn, so that a drifting machine favours no way; the best of each counts."""
        effort, family = self.effort, self.subject.family
        job = self._job(effort.ours, ONE_TOKEN)
        work = self.subject.work(job)
        greedy, sampled = (self._job(effort.sampled, decoding) for decoding in (GREEDY, TEN_SAMPLES))
        asked = ways.prepare(family, work, max(effort.plain, effort.eager))
        ways.extract(self._job(1, ONE_TOKEN), family)
        self._plain_batch = min(PLAIN_BATCHES, key=lambda size: ways.plain_batches(family, asked[: effort.plain], size))
        measured: dict[str, tuple[int, Callable[[], float]]] = {
            "eager": (effort.eager, lambda: ways.eager_loop(family, asked[: effort.eager], self.folder / "saved")),
            "plain": (effort.plain, lambda: ways.plain_batches(family, asked[: effort.plain], self._plain_batch)),
            "ours": (examples_of(effort.ours), lambda: self._pass(job)),
            "bare": (examples_of(effort.ours), lambda: ways.extract_nothing(work, family, ONE_TOKEN)),
            "greedy": (examples_of(effort.sampled), lambda: ways.extract(greedy, family).seconds),
            "sampled": (examples_of(effort.sampled), lambda: ways.extract(sampled, family).seconds),
        }
        for number in range(effort.rounds):
            order = list(measured) if number % 2 == 0 else list(reversed(measured))
            for name in order:
                examples, run = measured[name]
                self._rates[name] = max(self._rates.get(name, 0.0), examples / run())

    def _pass(self, job: ways.Job) -> float:
        self._passes.append(ways.extract(job, self.subject.family))
        return self._passes[-1].seconds

    def _speed_rows(self) -> list[Row]:
        rates = self._rates
        eager, plain = rates["ours"] / rates["eager"], rates["ours"] / rates["plain"]
        cost = 1 - rates["ours"] / rates["bare"]
        return [
            Row("1", "plain loop: eager, all outputs, torch.save, one question at a time", rates["eager"]),
            Row("2", f"plain SDPA forward, batches of {self._plain_batch}, nothing kept", rates["plain"]),
            Row("3", "ours: plan suffix, written and committed", rates["ours"]).judged(
                f"{eager:.2f} x row 1", f">= {TIMES_EAGER}", eager >= TIMES_EAGER
            ),
            Row("3", "").judged(f"{plain:.2f} x row 2", f">= {TIMES_PLAIN}", plain >= TIMES_PLAIN),
            Row("4", "ours, nothing kept, nothing written", rates["bare"]).judged(
                f"row 3 costs {cost:.1%}", f"<= {CAPTURE_COST:.0%}", cost <= CAPTURE_COST
            ),
        ]

    def _sample_rows(self) -> list[Row]:
        ratio = self._rates["greedy"] / self._rates["sampled"]
        return [
            Row("5", f"ours, a greedy answer of {GREEDY.answer_tokens} tokens", self._rates["greedy"]),
            Row("5", f"ours, and {TEN_SAMPLES.samples} samples of as many", self._rates["sampled"]).judged(
                f"{ratio:.2f} x the time", f"<= {SAMPLES_COST}", ratio <= SAMPLES_COST
            ),
        ]

    def _memory_row(self) -> Row:
        small, large = (
            peak_of_a_pass(self.subject.to_json(), images, self.effort.memory_batch, self.folder)
            for images in self.effort.memory
        )
        counts = " and ".join(str(examples_of(images)) for images in self.effort.memory)
        what = f"ours, peak memory of {counts} examples: {small / 1e6:,.0f} and {large / 1e6:,.0f} MB"
        growth = large / small
        return Row("6", what).judged(f"{growth:.3f} x", f"<= {MEMORY_GROWTH}", growth <= MEMORY_GROWTH)

    def _gpu_rows(self) -> list[Row]:
        if self.subject.device != "cuda":
            return []
        family, job = self.subject.family, self._job(self.effort.ours, ONE_TOKEN)
        use = gpu.use_during(lambda: ways.extract(job, family, check=False))
        idle = "the profiler saw no kernel" if use.idle is None else f"{use.idle:.1%}"
        return [
            Row("7", "ours, GPU idle: no kernel running, from the first to the last").told(idle),
            Row("8", "ours, peak GPU memory, the model included").told(f"{use.peak / 1e9:.1f} GB"),
        ]

    def _describe(self) -> None:
        effort, best = self.effort, min(self._passes, key=lambda one: one.seconds)
        examples = examples_of(effort.ours)
        self.notes = [
            f"Questions measured: {effort.eager}, {effort.plain}, {examples}, {examples}, 2 x "
            f"{examples_of(effort.sampled)}; ours in batches of at most {effort.batch}, {effort.memory_batch} in row "
            "6.",
            "Rows 1 and 2 get prompts and images ready-made and decode no token; rows 3 and 4 read both from disk "
            "while they compute,",
            "and decode one. Row 1's files stay in the page cache, ours are synced to the disk.",
            f"Row 3 wrote {best.written / examples / 1e6:.2f} MB an example and waited {best.waited:.2f} of "
            f"{best.seconds:.2f} s for its writer. The first batch's check against an",
            f"eager forward, once in a run of any length, took {best.check:.2f} s and is in no rate.",
        ]

    def _job(self, images: int, decoding: Decoding) -> ways.Job:
        return self.subject.job(images, "lake", self.effort.batch, decoding)

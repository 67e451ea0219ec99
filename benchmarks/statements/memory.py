"""4: the memory of a statement grows with what its conditions keep, not with the array that they keep it of."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from statements import questions
from statements.lake import Subject
from statements.process import peak_of
from statements.table import Row
from vlmlake.store_schema.schema import layer_names

MOST_GROWTH = 1.2
"""The target. Four times the array must not show; allocators alone make the same statement differ by a tenth."""


def rows(subject: Subject, few: int, kept: int, rounds: int, folder: Path) -> tuple[list[Row], list[str]]:
    """few: layers of a second lake, which is otherwise the same. kept: layers of the most that is kept."""
    small = replace(subject, url=str(folder / "few-layers"), states=replace(subject.states, layers=few), layer=few - 1)
    small.write()
    names = layer_names(subject.states.layers - 1)
    one_of_many, one_of_few = (_peak(one, rounds, names[few - 1]) for one in (subject, small))
    half, several = _peak(subject, rounds, names[few - 1], half=True), _peak(subject, rounds, *names[1 : 1 + kept])
    shutil.rmtree(small.url)
    growth, target = one_of_many / one_of_few, f"<= {MOST_GROWTH:g} x"
    what, times = "norms by label, beyond the open session", f"{subject.states.layers / few:.2g}"
    return [
        _row("4a", f"{what}: 1 layer of {subject.states.layers}", one_of_many, f"{growth:.2f} x 4b", target, growth),
        _row("4b", f"{what}: 1 layer of {few}", one_of_few),
        _row("4c", f"{what}: half the rows of 4a", half, f"{half / one_of_many:.2f} x 4a"),
        _row("4d", f"{what}: {kept} layers of {subject.states.layers}", several, f"{several / one_of_many:.2f} x 4a"),
    ], [
        f"4: MB are the most resident memory beyond that of the session before it asks; a process each, the median of "
        f"{rounds}. A layer is {2 * subject.states.one / 1e6:.1f} MB as float32; the array of 4a is {times} x 4b's.",
    ]


def _peak(subject: Subject, rounds: int, *layers: str, half: bool = False) -> int:
    condition = questions.at(*layers) + (f" AND example < 'pope-{subject.states.examples // 2:06d}'" if half else "")
    peaks = sorted(peak_of(subject.url, questions.norms_joined(condition)) for _ in range(rounds))
    return max(1, peaks[rounds // 2])


def _row(part: str, way: str, peak: int, compared: str = "", target: str = "", growth: float | None = None) -> Row:
    passed = None if growth is None else growth <= MOST_GROWTH
    return Row(part, way, bytes=f"{peak / 1e6:,.1f}", compared=compared, target=target, passed=passed)

"""Is there room? A pass that would fill the disk does not start, and says what would fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.families import Family
from vlmlake.ingest.job import Job
from vlmlake.ingest.work import Work
from vlmlake.store_schema.capture_plan import BUILT_IN, read_plan
from vlmlake.store_schema.sizes import size_in_words
from vlmlake.store_schema.storage import Storage


def require_room(storage: Storage, job: Job, family: Family, work: Work, missing: Sequence[int], begun: bool) -> None:
    """missing: numbers of the batches that are still to be written. begun: what the run shares is there.

    Raises VlmlakeError if a local disk has less free than they take before compression; of an object store nothing is
    known.
    """
    free = storage.free()
    needed = work.budget(missing, begun).bytes
    if free is None or not missing or needed <= free:
        return
    fitting, asked = (
        _rows_that_fit(work, missing, free, begun),
        sum(len(work.batches[number].examples) for number in missing),
    )
    needs = {name: bytes_of(job, family, work, name, missing, begun) for name in BUILT_IN}
    smaller = [f"plan {name} needs {size_in_words(size)}" for name, size in needs.items() if size <= free]
    raise VlmlakeError(
        f"{storage.url} has {size_in_words(free)} free, plan {job.plan.name} needs up to {size_in_words(needed)}: that "
        f"holds {fitting:,} of {asked:,} questions; {' and '.join(smaller) or 'no plan fits whole'}. "
        "`vlmlake plan` shows the arrays"
    )


def bytes_of(job: Job, family: Family, work: Work, plan: str, missing: Sequence[int], begun: bool) -> int:
    """What the same batches would take under a plan of another name."""
    other = read_plan(plan, job.plan.dtype, job.plan.blank)
    layers = other.chosen_layers(len(family.blocks))
    positions = other.chosen_positions(job.decoding.answer_tokens)
    extents = replace(work.record.extents, layers=len(layers), positions=len(positions))
    arrays = tuple(spec.name for spec in other.specs)
    record = replace(work.record, arrays=arrays, layers=layers, positions=positions, extents=extents)
    return replace(work, record=record).budget(missing, begun).bytes


def _rows_that_fit(work: Work, missing: Sequence[int], free: int, begun: bool) -> int:
    """Questions of the longest leading part of the batches whose arrays fit."""
    low, high = 0, len(missing)
    while low < high:
        middle = (low + high + 1) // 2
        if work.budget(missing[:middle], begun).bytes <= free:
            low = middle
        else:
            high = middle - 1
    return sum(len(work.batches[number].examples) for number in missing[:low])

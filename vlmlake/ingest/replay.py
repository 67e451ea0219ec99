"""Some of a run's examples through the model again: is what the store says of them what the model does?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.assemble import Finished, Scratch, batch_arrays
from vlmlake.ingest.generation import run_batch
from vlmlake.ingest.loader import load_ahead
from vlmlake.ingest.replay_compare import Again, Comparison
from vlmlake.ingest.replay_job import Row, Sources, decoding_of, load_same_model, plan_again
from vlmlake.store_schema.check_rows import check_rows
from vlmlake.store_schema.commit import Commit
from vlmlake.store_schema.commits import look
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.verdict import Problem

WHERE_RECORDED = Sources()


@dataclass(frozen=True)
class Replayed:
    """examples: those that were computed again; values: how many of theirs were compared."""

    examples: tuple[str, ...]
    values: int
    problems: tuple[Problem, ...]


def _silently(done: int, total: int) -> None:
    pass


def replay(
    run: Run,
    count: int,
    seed: int = 0,
    sources: Sources = WHERE_RECORDED,
    report: Callable[[int, int], None] = _silently,
) -> Replayed:
    """Compute `count` visible examples, drawn at random, again and compare every array and the answers with the store.
    Batches whose rows cannot be are left to `verify`.

    Differences are measured by the token's largest value (at least 1), and allowed as the first batch of a pass is
    allowed to differ from an eager forward, with what storing adds; ids, roles and cells must be equal. Samples are not
    compared. report: is told how many questions are done, and of how many.

    Raises VlmlakeError if the count is below 1, or the model or the data are not those of the run.
    """
    if count < 1:
        raise VlmlakeError(f"{count} examples to replay, expected at least 1")
    visible = look(run.storage, run.record, fresh=run.storage.listable).committed
    commits = {number: commit for number, commit in visible.items() if not check_rows(run.record, commit)}
    rows = _chosen(commits, count, seed)
    if not rows:
        return Replayed((), 0, ())
    family = load_same_model(run.record, sources)
    work = plan_again(run.record, family, list(rows.values()), sources, dict(run.storage.options))
    comparison = Comparison(run, commits, family)
    comparison.once()
    done, scratch, decoding = 0, Scratch(), decoding_of(run.record)
    for batch, asked in load_ahead(work, family, range(len(work.batches))):
        forward = run_batch(family, work.wanted, asked, decoding, work.shared)
        arrays = batch_arrays(Finished(run.record, work.wanted, asked, forward, work.sees_suffix), scratch)
        for place, index in enumerate(batch.examples):
            prompt, answer = asked.prompts[place], forward.answers[place]
            again = Again(arrays, place, batch.prefix_of[place], prompt, answer, work.sees_suffix)
            for asker in work.items[index].examples:
                comparison.example(rows[work.examples[asker].id], again)
        done += len(batch.examples)
        report(done, len(work.items))
    return Replayed(tuple(rows), comparison.values, tuple(comparison.problems))


def _chosen(commits: Mapping[int, Commit], count: int, seed: int) -> dict[str, Row]:
    """Rows of tables.BATCH by example; the same seed draws the same."""
    places = {
        example: (number, place)
        for number, commit in commits.items()
        for place, example in enumerate(commit.rows["example"].to_pylist())
    }
    names = sorted(places)
    drawn = np.random.default_rng(seed).permutation(len(names))[:count]
    chosen = [names[number] for number in sorted(drawn)]
    return {name: commits[places[name][0]].rows.slice(places[name][1], 1).to_pylist()[0] for name in chosen}

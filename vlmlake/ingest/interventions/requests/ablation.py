"""Neuron ablation: sets of coordinates of one site and block, from the ends of a ranking and drawn by chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import polars as pl

from vlmlake.answers.rules import DEFAULT_RULE, require_rule
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.interventions.edited.edits import SITES, Edit
from vlmlake.ingest.interventions.requests.calibration import Activations
from vlmlake.ingest.interventions.requests.conditions import (
    ABLATE,
    ALL,
    MEAN,
    POSITIONS,
    ZERO,
    Condition,
    block_label,
    block_number,
)
from vlmlake.ingest.interventions.requests.controls import matched_sets
from vlmlake.ingest.interventions.requests.rankings import ANALYSIS, NEXT, Rankings
from vlmlake.ingest.interventions.requests.subject import (
    Request,
    Subject,
    chosen_examples,
    examples_and_spare,
    without_images_of,
)
from vlmlake.store_schema import paths, tables
from vlmlake.store_schema.run import Run

MODES = (MEAN, ZERO)
TOP, BOTTOM, CONTROL, NULL, GIVEN = "top", "bottom", "control", "null", "given"
SIZES: tuple[int | float, ...] = (1, 5, 10, 50, 0.5)


@dataclass(frozen=True)
class Ablation(Request):
    """Ablate neurons of one block and score the answers (arXiv 2605.08200; methods of the study).

    ranking: of `analyze neurons`: l1, d_act, auroc or attribution. site: resid, mlp_out, attn_out or head_out. layer:
    the block, by label; by default the last that the ranking was made for. top: sizes of the sets, numbers of neurons
    or, below 1, shares of the site. bottom: the least of the ranking too, in the same sizes. controls: seeded sets for
    each size, matched on activation norm. null_layer: where the same sizes should do nothing, `block_0` unless that is
    the layer itself; empty for none. mode: `mean` sets a coordinate to what it holds on average on the images that
    ranked, `zero` to 0. positions: `all` tokens, the answer's too, or `prompt_last`. neurons: coordinates to ablate in
    place of a ranking's. rule: the label rule of the ranking. seed: of the controls and what else is drawn.
    """

    kind: ClassVar[str] = ABLATE

    ranking: str = "l1"
    site: str = "resid"
    layer: str | None = None
    top: tuple[int | float, ...] = SIZES
    bottom: bool = True
    controls: int = 100
    null_layer: str | None = None
    mode: str = MEAN
    positions: str = ALL
    neurons: tuple[int, ...] = ()
    rule: str = DEFAULT_RULE
    seed: int = 0

    def __post_init__(self) -> None:
        require_rule(self.rule)
        for name, known in (("site", SITES), ("mode", MODES), ("positions", POSITIONS)):
            if getattr(self, name) not in known:
                raise VlmlakeError(f"{name} is {getattr(self, name)}, expected one of {', '.join(known)}")
        if not self.top and not self.neurons:
            raise VlmlakeError("no size is given: expected at least one, as in --top 1,5,0.5")
        for size in self.top:
            if not (size > 0 and (size < 1 or size == int(size))):
                raise VlmlakeError(f"a size is {size}, expected a number of neurons, or a share above 0 and below 1")
        if self.controls < 0 or self.seed < 0:
            raise VlmlakeError("the number of controls and the seed are 0 or more")
        if self.layer is not None:
            block_number(self.layer)
        if self.neurons and self.layer is None:
            raise VlmlakeError("neurons are given without the layer they are in: name it, as in --layer block_31")

    def examples(self, run: Run, given: Sequence[str] | None) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Those of the images that the rankings left out, unless they are given; and those that ranked.

        Raises VlmlakeError if given ones are of images that ranked, naming these.
        """
        if self.neurons and not self._measures:
            return super().examples(run, given)
        if self.neurons:
            return examples_and_spare(run, given, self.seed)
        rankings = Rankings.of(run, self.rule)
        rows = chosen_examples(run, None)
        ranked = pl.col("image_sha256").is_in([image for image, kept in rankings.kept.items() if not kept])
        spare = rows.filter(ranked)
        asked = without_images_of(rows, spare) if given is None else chosen_examples(run, given)
        rankings.require_apart(asked)
        return asked, spare

    @property
    def _measures(self) -> bool:
        """Whether activations decide anything: the values, or which neurons are controls."""
        return self.mode == MEAN or self.controls > 0

    def facts(self, subject: Subject) -> Mapping[str, Any]:
        """Which findings ranked the neurons."""
        if self.neurons:
            return {}
        path = paths.finding("rankings", ANALYSIS, subject.run.name, self.rule)
        return {"rankings": tables.footer(subject.run.storage, path).get("vlmlake-inputs")}

    def conditions(self, subject: Subject) -> tuple[Condition, ...]:
        """Of every size the top, the bottom, the null layer's top and the controls."""
        width = subject.width(self.site)
        if self.neurons:
            return tuple(self._given(subject, width))
        rankings = Rankings.of(subject.run, self.rule)
        layer = self.layer or rankings.layer(self.ranking, self.site)
        order = rankings.order(self.ranking, self.site, layer, width, self.seed)
        sizes = list({k: (k, share) for k, share in reversed([_size(size, width) for size in self.top])}.values())[::-1]
        found = [*self._sets(subject, layer, order, sizes)]
        null = block_label(0) if self.null_layer is None else self.null_layer
        if null and null != layer:
            found += self._null(subject, rankings, null, width, sizes)
        return tuple(found)

    def _sets(
        self, subject: Subject, layer: str, order: np.ndarray, sizes: Sequence[tuple[int, float | None]]
    ) -> Iterator[Condition]:
        subject.require_block(layer)
        there = self._measured(subject, layer)
        for k, share in sizes:
            made = partial(self._condition, subject, layer, there, share=share, ranking=self.ranking)
            yield made(TOP, order[:k])
            if self.bottom:
                yield made(BOTTOM, order[-k:])
            for member, drawn in enumerate(matched_sets(there.rms, order[:k], self.controls, self.seed)):
                yield made(CONTROL, drawn, member=member)

    def _null(
        self, subject: Subject, rankings: Rankings, layer: str, width: int, sizes: Sequence[tuple[int, float | None]]
    ) -> Iterator[Condition]:
        subject.require_block(layer)
        ranking = self.ranking if rankings.has(self.ranking, self.site, layer) else NEXT
        if self.null_layer is None and not rankings.has(ranking, self.site, layer):
            return
        order = rankings.order(ranking, self.site, layer, width, self.seed)
        there = self._measured(subject, layer)
        for k, share in sizes:
            yield self._condition(subject, layer, there, NULL, order[:k], share=share, ranking=ranking)

    def _given(self, subject: Subject, width: int) -> Iterator[Condition]:
        assert self.layer is not None
        subject.require_block(self.layer)
        neurons = np.array(sorted(set(self.neurons)), np.int64)
        wrong = [one for one in neurons.tolist() if not 0 <= one < width]
        if wrong:
            raise VlmlakeError(f"{self.site} of {self.layer} has neurons 0 to {width - 1}, got {wrong[0]}")
        there = self._measured(subject, self.layer)
        made = partial(self._condition, subject, self.layer, there)
        yield made(GIVEN, neurons)
        for member, drawn in enumerate(matched_sets(there.rms, neurons, self.controls, self.seed)):
            yield made(CONTROL, drawn, member=member)

    def _measured(self, subject: Subject, layer: str) -> Activations:
        if not self._measures:
            nothing = np.zeros(subject.width(self.site), np.float32)
            return Activations(nothing, nothing)
        place = (self.site, block_number(layer))
        return subject.measure(place, self.positions, subject.spare["example"].to_list())

    def _condition(
        self,
        subject: Subject,
        layer: str,
        there: Activations,
        name: str,
        neurons: np.ndarray,
        member: int = 0,
        share: float | None = None,
        ranking: str | None = None,
    ) -> Condition:
        values = there.mean[neurons] if self.mode == MEAN else np.zeros(len(neurons), np.float32)
        return Condition(
            ABLATE,
            name,
            subject.answer_tokens,
            member=member,
            ranking=ranking,
            rule=self.rule if ranking else None,
            site=self.site,
            layer=layer,
            mode=self.mode,
            positions=self.positions,
            k=len(neurons),
            share=share,
            edits=(Edit(self.site, block_number(layer), neurons, values),),
            seed=self.seed,
        )


def _size(size: float, width: int) -> tuple[int, float | None]:
    """Number of neurons, and the share that was asked for.

    Raises VlmlakeError for none, or all of them and more.
    """
    k, share = (int(size), None) if size >= 1 else (int(size * width), float(size))
    if not 0 < k < width:
        raise VlmlakeError(f"a set of size {size} is {k} neurons of {width}: expected 1 to {width - 1}")
    return k, share


def parse_sizes(text: str) -> tuple[int | float, ...]:
    """Out of text like `1,5,10,0.5`. Raises VlmlakeError for what is no number."""
    try:
        return tuple(float(part) if "." in part else int(part) for part in text.split(","))
    except ValueError as error:
        raise VlmlakeError(f"sizes are {text!r}, expected numbers with commas between, as in 1,5,10,0.5") from error

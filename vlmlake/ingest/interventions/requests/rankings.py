"""Neurons in the order of a ranking that the lake has, and which images made it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.interventions.requests.conditions import block_number
from vlmlake.store_schema import paths, tables
from vlmlake.store_schema.run import Run

ANALYSIS, KEPT = "neurons", "kept_for_ablation"
NEXT = "d_act"
"""The ranking that orders what another leaves out: an L1 probe uses few coordinates."""
NAMED = 3
"""Images that an error names."""


@dataclass(frozen=True)
class Rankings:
    """What `analyze neurons` found in a run under one label rule.

    rows: of tables.RANKINGS. kept: whether an image, by its content, was kept for ablation.
    """

    run: str
    rule: str
    rows: pl.DataFrame
    kept: dict[str, bool]

    @classmethod
    def of(cls, run: Run, rule: str) -> Rankings:
        """Raises VlmlakeError if the run has none under the rule."""
        where = {table: paths.finding(table, ANALYSIS, run.name, rule) for table in ("rankings", "metrics")}
        if not all(run.storage.exists(path) for path in where.values()):
            raise VlmlakeError(
                f"{run.name} has no rankings of neurons under the rule {rule}: `vlmlake analyze URL neurons --rule "
                f"{rule}` makes them, on half of the images"
            )
        rows = tables.frame(tables.read(run.storage, [where["rankings"]], tables.RANKINGS))
        told = tables.frame(tables.read(run.storage, [where["metrics"]], tables.METRICS)).filter(
            pl.col("metric") == KEPT
        )
        images = run.examples().select("example", "image_sha256").join(told, on="example")
        kept = dict(zip(images["image_sha256"], images["value"] == 1, strict=True))
        return cls(run.name, rule, rows, kept)

    def require_apart(self, examples: pl.DataFrame) -> None:
        """Raises VlmlakeError naming the images of these rows of tables.EXAMPLES that made the rankings."""
        both = examples.filter(~pl.col("image_sha256").replace_strict(self.kept, default=True, return_dtype=pl.Boolean))
        if both.height:
            images = both["image"].unique(maintain_order=True)
            more = f" and {len(images) - NAMED} more" if len(images) > NAMED else ""
            raise VlmlakeError(
                f"{len(images)} of {examples['image'].n_unique()} images ranked the neurons of {self.run} and would be "
                f"asked about without them: {', '.join(images[:NAMED])}{more}; leave them out, or give no examples for "
                "those that were kept"
            )

    def layer(self, ranking: str, site: str) -> str:
        """The last block that the ranking was made for."""
        layers = self._of(ranking, site)["layer"].unique()
        if layers.is_empty():
            there = self.rows.select("ranking", "site").unique().sort("ranking", "site").rows()
            told = ", ".join(f"{one} of {place}" for one, place in there)
            raise VlmlakeError(f"{self.run} has no ranking {ranking} of {site}: there are {told or 'none'}")
        return str(max(layers, key=block_number))

    def has(self, ranking: str, site: str, layer: str) -> bool:
        return not self._of(ranking, site).filter(pl.col("layer") == layer).is_empty()

    def order(self, ranking: str, site: str, layer: str, width: int, seed: int) -> np.ndarray:
        """All coordinates of a site, [width], int64: those that the ranking has, first rank first; then, as `d_act` has
        them, those that it leaves out; then the others in an order drawn from the seed.

        Raises VlmlakeError if the ranking was not made for the layer.
        """
        if not self.has(ranking, site, layer):
            there = sorted(self._of(ranking, site)["layer"].unique(), key=block_number)
            raise VlmlakeError(
                f"{self.run} has no ranking {ranking} of {site} at {layer}: there are {', '.join(there) or 'none'}; "
                "`vlmlake analyze URL neurons --set neurons.layers=all` ranks all layers"
            )
        drawn = np.random.default_rng(seed).permutation(width).tolist()
        ranked = [*self._neurons(ranking, site, layer), *self._neurons(NEXT, site, layer), *drawn]
        return np.array(list(dict.fromkeys(ranked)), np.int64)

    def _neurons(self, ranking: str, site: str, layer: str) -> Sequence[int]:
        rows = self._of(ranking, site).filter(pl.col("layer") == layer).sort("rank")
        return rows["neuron"].to_list()

    def _of(self, ranking: str, site: str) -> pl.DataFrame:
        return self.rows.filter(pl.col("ranking") == ranking, pl.col("site") == site)
